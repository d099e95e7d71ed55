"""CIFAR-100, ImageNet folders, published sizes and sums, and what `python -m model data` says of image sets."""
import gzip
import hashlib
import pickle
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from model import datasets, image_sets
from model.__main__ import main
from model.dataset import DataError, Representation


def write_cifar100(root: Path, count: int = 4) -> np.ndarray:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, count, 3072), np.uint8)
    for index, name in enumerate(("train", "test")):
        batch = {b"data": pixels[index], b"fine_labels": list(range(90, 90 + count)), b"coarse_labels": [1] * count}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"name%d" % i for i in range(100)]}, protocol=2))
    return pixels


def test_cifar100_has_fine_labels(tmp_path: Path) -> None:
    pixels = write_cifar100(tmp_path)
    images, labels = datasets.read("cifar100", False, tmp_path)
    assert np.array_equal(images, pixels[1].reshape(-1, 3, 32, 32)) and labels.tolist() == [90, 91, 92, 93]
    assert datasets.known("cifar100").classes(tmp_path / "cifar-100-python")[99] == "name99"
    path = tmp_path / "cifar-100-python" / "test"
    path.write_bytes(pickle.dumps({b"data": pixels[0], b"fine_labels": [0, 1, 2, 100]}, protocol=2))
    with pytest.raises(DataError, match="test: labels run from 0 to 100, not 0 to 99"):
        datasets.read("cifar100", False, tmp_path)
    path.write_bytes(pickle.dumps([1], protocol=2))
    with pytest.raises(DataError, match="test: .*holds a list, not the dictionary"):
        datasets.read("cifar100", False, tmp_path)
    path.write_bytes(b"\x80\x02}q\x01(U\x04dataq\x02\xff")
    with pytest.raises(DataError, match=r"test: \w+ CIFAR batch, at byte offset \d+ of 15"):
        datasets.read("cifar100", False, tmp_path)


def test_a_file_of_the_published_size_must_have_the_published_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One changed pixel of an otherwise whole batch."""
    write_cifar100(tmp_path)
    path = tmp_path / "cifar-100-python" / "test"
    data = path.read_bytes()
    monkeypatch.setitem(image_sets.PUBLISHED, "test", (len(data), hashlib.md5(data).hexdigest()))
    image_sets.verify(path.parent, ("test",))
    datasets.read("cifar100", False, tmp_path)
    place = len(data) // 2
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1:])
    for look in (lambda: datasets.read("cifar100", False, tmp_path), lambda: image_sets.verify(path.parent, ("test",))):
        with pytest.raises(DataError, match="test: damaged: its .* bytes have not the published MD5"):
            look()
    path.write_bytes(data[:-1])
    with pytest.raises(DataError, match=f"test: ends at byte offset {len(data) - 1}, the published file at {len(data)}"):
        image_sets.verify(path.parent, ("test",))


def test_fashion_mnist_in_torchvisions_folder_and_its_damage(tmp_path: Path) -> None:
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 2, 28, 28) + bytes(1568)))
    labels = struct.pack(">HBBI", 0, 8, 1, 2)
    path = folder / "t10k-labels-idx1-ubyte"
    path.write_bytes(labels + bytes([3, 9]))
    assert datasets.read("fashion_mnist", False, tmp_path)[1].tolist() == [3, 9]
    for data, message in ((labels + bytes([3, 10]), "label 10 at byte offset 9: classes are 0 to 9"),
                          (labels + bytes([3]), "not a complete idx file: ends at byte offset 9, not 10"),
                          (labels[:6], "not a complete idx file of bytes, at byte offset 6"),
                          (b"\0\0\x09" + labels[3:], "not a complete idx file of bytes, at byte offset 8")):
        path.write_bytes(data)
        with pytest.raises(DataError, match=f"t10k-labels-idx1-ubyte: {message}"):
            datasets.read("fashion_mnist", False, tmp_path)
    packed = folder / "t10k-images-idx3-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"ubyte\.gz: not a whole gzip file, ends at byte offset \d+"):
        datasets.read("fashion_mnist", False, tmp_path)


def write_imagenet(root: Path) -> Path:
    """Two classes of one to three images of several sizes; Pillow is asked for."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: make events")
    for part, counts in (("train", (2, 3)), ("val", (1, 2))):
        for name, count in zip(("n01440764", "n01443537"), counts, strict=True):
            for number in range(count):
                path = root / "imagenet" / part / name / f"{name}_{number}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                tall = np.zeros((60 + 8 * number, 40, 3), np.uint8)
                tall[:, :, number % 3] = 200
                image.fromarray(tall).save(path)
    return root / "imagenet"


def test_imagenet_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_imagenet(tmp_path)
    images, labels = datasets.read("imagenet", True, tmp_path, Representation(28))
    assert images.shape == (5, 3, 28, 28) and labels.tolist() == [0, 0, 1, 1, 1]
    assert abs(int(images[1, 1].mean()) - 200) < 12 and images[1, 0].mean() < 12, "the second image is green"
    assert datasets.read("imagenet", True, tmp_path, Representation(28), 2)[1].tolist() == [0, 1], "spread over the classes"
    part = image_sets.IMAGENET.part(folder, False)
    assert part.classes == ("n01440764", "n01443537") and np.array_equal(part.images(np.array([2]), 14)[0], part.image(2, 14))
    assert datasets.known("imagenet").classes(folder) == ("n01440764", "n01443537")
    assert main(["data", "--dataset", "imagenet", "--root", str(tmp_path)]) == 2
    assert "the training part holds 5 of 1281167" in capsys.readouterr().err


def test_bad_images_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_imagenet(tmp_path)
    whole = folder / "train" / "n01443537" / "n01443537_1.JPEG"
    whole.write_bytes(whole.read_bytes()[:-200])
    (folder / "train" / "n01440764" / "n01440764_0.JPEG").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"n01440764_0\.JPEG: not a whole image \(cannot identify"):
        datasets.read("imagenet", True, tmp_path, Representation(28))
    assert main(["data", "--dataset", "imagenet", "--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert re.search(r"2 bad images: train/n01440764/n01440764_0\.JPEG, train/n01443537/n01443537_1\.JPEG", error)
    (folder / "val" / "n01443537").rename(folder / "val" / "n02")
    with pytest.raises(DataError, match="class folder n01443537 is not in both train and val"):
        datasets.known("imagenet").classes(folder)
    with pytest.raises(DataError, match="holds no folder, but one for each class"):
        image_sets.class_names(folder / "val", ("n02", "n03"))


def test_an_array_that_no_memory_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_imagenet(tmp_path)
    monkeypatch.setattr(image_sets, "LARGEST_ARRAY", 1000)
    with pytest.raises(DataError, match=r"5 images of 28 pixels .*training reads such a set in a stream"):
        datasets.read("imagenet", True, tmp_path, Representation(28))


def test_statistics_are_published_or_measured() -> None:
    images = np.array([[[[0, 255]], [[51, 51]]]], np.uint8)
    means, spread = datasets.statistics("nmnist", images)
    assert np.allclose(means, (0.5, 0.2)) and np.allclose(spread, (0.5, 1e-3))
    assert datasets.statistics("fashion_mnist", images) == ((0.2860,), (0.3530,))
