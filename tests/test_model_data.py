"""Readers of CIFAR-10 batches and idx files, their refusals, and the augmentation."""
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import write_cifar, write_fashion

from model.data import Augment, DataError, fit, load

torch.set_num_threads(1)


def test_cifar_batches_are_read_in_order(tmp_path: Path) -> None:
    pixels = write_cifar(tmp_path)
    train, test = load("cifar10", True, tmp_path), load("cifar10", False, tmp_path)
    assert np.array_equal(train.images.numpy(), pixels)
    assert train.labels.tolist() == [i // 3 for i in range(15)]
    assert test.labels.tolist() == [5, 5, 5]


def test_idx_files_are_read_packed_or_not_and_padded(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    train = load("fashion_mnist", True, tmp_path)
    assert train.images.shape == (2, 1, 28, 28)
    assert train.images[0, 0, 0, 27] == 27
    assert train.labels.tolist() == [7, 7]
    padded = fit(train.images, 1, 32)
    assert padded.shape == (2, 1, 32, 32)
    assert torch.equal(padded[:, :, 2:30, 2:30], train.images)


def test_missing_folder_says_what_to_get_and_how_to_point_to_it(tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"cifar-10-batches-py: no such folder: .*cs\.toronto\.edu.*--data or MST_DATA"):
        load("cifar10", True, tmp_path)
    write_cifar(tmp_path)
    monkeypatch.setenv("MST_DATA", str(tmp_path))
    assert len(load("cifar10", False).labels) == 3


def test_missing_file_is_named(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(DataError, match="data_batch_4: cannot be read"):
        load("cifar10", True, tmp_path)
    write_fashion(tmp_path)
    (tmp_path / "fashion-mnist" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte: no such file, nor \.gz"):
        load("fashion_mnist", False, tmp_path)


class Evil:
    """Pickles into a call of os.system."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


@pytest.mark.parametrize("content, message", [
    (b"", "truncated CIFAR batch, at byte offset 0 of 0"),
    (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]}, 2)[:900],
     "truncated CIFAR batch, at byte offset 900 of 900"),
    (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8)}, 2), "damaged CIFAR batch .*labels"),
    (pickle.dumps({b"data": np.zeros((2, 3072), np.float32), b"labels": [1, 2]}, 2),
     "an array has the dtype 'f4', not that of pixels or labels"),
    (pickle.dumps({b"data": np.zeros((2, 3071), np.uint8), b"labels": [1, 2]}, 2), r"found uint8 \[2, 3071\]"),
    (pickle.dumps(Evil()), "names .*system, which such a file does not hold: nothing of it was run"),
])
def test_foreign_batches_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    write_cifar(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=f"test_batch: .*{message}") as caught:
        load("cifar10", False, tmp_path)
    assert "\n" not in str(caught.value)


def test_truncated_idx_is_refused(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    path = tmp_path / "fashion-mnist" / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="train-labels-idx1-ubyte: not a complete idx file"):
        load("fashion_mnist", True, tmp_path)


def test_unknown_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown dataset 'svhn'; known: cifar10, .*, imagenet, folder, nmnist"):
        load("svhn", True, tmp_path)


@pytest.mark.parametrize("images, message", [
    (torch.zeros(1, 3, 32, 32), "must be uint8 [N, 3, H, W], not torch.float32"),
    (torch.zeros(1, 1, 32, 32, dtype=torch.uint8), "not torch.uint8 [1, 1, 32, 32]"),
    (torch.zeros(1, 3, 33, 33, dtype=torch.uint8), "images of 33x33 do not fit a network of image_size 32"),
    (torch.zeros(1, 3, 32, 30, dtype=torch.uint8), "images of 32x30 do not fit"),
])
def test_images_that_do_not_fit(images: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        fit(images, 3, 32)


def test_augmentation_crops_and_flips_and_repeats_from_its_seed() -> None:
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augment, index = Augment(images, pad=2), torch.arange(4).repeat(50)
    found = augment(index, torch.Generator().manual_seed(3))
    assert torch.equal(found, augment(index, torch.Generator().manual_seed(3)))
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode="reflect").to(torch.uint8)
    seen = set()
    for number, image in zip(index.tolist(), found, strict=True):
        places = [(y, x, f) for y in range(5) for x in range(5) for f in (0, 1) if torch.equal(
            image, padded[number, :, y:y + 8, x:x + 8].flip(2) if f else padded[number, :, y:y + 8, x:x + 8])]
        assert places
        seen.add(places[0])
    assert len(seen) > 40  # of 50 shifts and flips
