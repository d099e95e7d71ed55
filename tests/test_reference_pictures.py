"""Pictures as the authors' code gives them to its network: Pillow's bilinear filter, its normalisation."""
import json
from pathlib import Path

import numpy as np
import pytest
import reference_states as states
import torch

from model import datasets
from model.__main__ import main
from model.reference import ReferenceModelError, files, from_state_dict
from model.reference.pictures import normalisation, pixels, resized

PICTURE = torch.tensor([[[[0, 255, 7], [90, 33, 200], [128, 1, 254]]]], dtype=torch.uint8)
LARGER = [[0, 36, 146, 255, 149, 42, 7], [13, 43, 133, 223, 143, 61, 35], [51, 62, 95, 128, 124, 119, 117],
          [90, 82, 57, 33, 105, 176, 200], [106, 94, 56, 19, 107, 194, 223], [123, 106, 55, 6, 108, 212, 246],
          [128, 110, 55, 1, 109, 218, 254]]
"""What Pillow 12.0 makes of PICTURE (Image.resize, BILINEAR)."""


def test_resizing_is_pillows() -> None:
    assert resized(PICTURE, 7)[0, 0].tolist() == LARGER
    assert resized(PICTURE, 2)[0, 0].tolist() == [[86, 114], [76, 151]]
    assert torch.equal(resized(PICTURE, 3), PICTURE)
    with pytest.raises(ReferenceModelError, match="pictures of 2x3 pixels are not square"):
        resized(PICTURE[:, :, :2], 7)


@pytest.mark.parametrize("side", [224, 64, 48, 16])
def test_resizing_is_pillows_on_random_pictures(side: int) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is missing: install it with `make events`")
    pictures = np.random.default_rng(side).integers(0, 256, (2, 3, 32, 32), np.uint8)
    wanted = np.stack([np.asarray(image.fromarray(picture.transpose(1, 2, 0)).resize((side, side), image.Resampling.BILINEAR))
                       for picture in pictures]).transpose(0, 3, 1, 2)
    assert (resized(torch.from_numpy(pictures), side).numpy() == wanted).all()


def test_cifar_100_is_normalised_with_the_values_of_cifar_10() -> None:
    assert normalisation("cifar100") == normalisation("cifar10") == datasets.DATASETS["cifar10"].statistics
    assert normalisation("imagenet") == datasets.DATASETS["imagenet"].statistics
    found = pixels(torch.full((1, 3, 4, 4), 51, dtype=torch.uint8), "cifar100", 3, 4)
    wanted = [(0.2 - 0.4914) / 0.2023, (0.2 - 0.4822) / 0.1994, (0.2 - 0.4465) / 0.2010]
    assert found[0, :, 0, 0].tolist() == pytest.approx(wanted)
    with pytest.raises(ReferenceModelError, match="unknown data set 'nmnist'; known: cifar10"):
        normalisation("nmnist")


def test_images_are_spread_over_the_classes_and_only_they_are_decoded(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """ImageNet lies in class order: the first images would be of one class, and to decode all takes an hour."""
    for label in range(3):
        folder = tmp_path / "imagenet" / "val" / f"n0{label}"
        folder.mkdir(parents=True)
        for number in range(10):
            (folder / f"{number}.JPEG").touch()
    decoded: list[int] = []

    def image(self: object, index: int, side: int, channels: int = 3) -> np.ndarray:
        decoded.append(index)
        return np.full((channels, side, side), index, np.uint8)

    monkeypatch.setattr("model.pictures.PictureFolder.image", image)
    model = from_state_dict(states.random_state(seed=1, dtype=torch.float32), 16)
    files.save(tmp_path / "r.safetensors", model, {"config": {}})
    arguments = ["reference", str(tmp_path / "r.safetensors"), "--dataset", "imagenet", "--data", str(tmp_path), "--steps", "1"]
    assert main([*arguments, "--images", "6"]) == 0
    assert sorted(index // 10 for index in decoded) == [0, 0, 1, 1, 2, 2]
    assert json.loads(capsys.readouterr().out)["images"] == 6
    assert main([*arguments, "--images", "31"]) == 2
    assert capsys.readouterr().err.startswith("--images must be 1 to 30, not 31")
