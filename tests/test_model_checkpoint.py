"""Checkpoints: round trip, and the refusal of everything that is not one."""
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoint import FORMAT, CheckpointError, expect, load, read, save, write
from model.config import MaskingConfig, ModelConfig
from model.mst import MST

torch.set_num_threads(1)
CONFIG = ModelConfig(image_size=8, in_channels=1, classes=3, patch=2, embedding=4, depths=(1,), heads=(2,), window=2,
                     mlp_ratio=2.0, levels=3)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = MST(CONFIG, MaskingConfig(("q", "k"), 0.25, 9))
    model.mean.fill_(0.3)
    save(tmp_path / "net.safetensors", model, {"epoch": 4})
    return tmp_path / "net.safetensors"


def test_round_trip(saved: Path) -> None:
    model, info = load(saved)
    assert model.config == CONFIG
    assert model.masking == MaskingConfig(("q", "k"), 0.25, 9)
    assert info["epoch"] == 4
    assert not model.training
    assert float(model.mean[0]) == pytest.approx(0.3)
    torch.manual_seed(0)
    assert torch.equal(model.embed.linear.weight, MST(CONFIG, MaskingConfig()).embed.linear.weight)
    assert not list(saved.parent.glob("*.part"))


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_written_with_the_rights_of_any_file(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.touch()
    assert saved.stat().st_mode == other.stat().st_mode


def test_a_place_that_cannot_be_written_is_an_os_error(saved: Path, tmp_path: Path) -> None:
    model, info = load(saved)
    with pytest.raises(FileExistsError):
        save(saved / "below.safetensors", model, info)
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        save(tmp_path / "taken", model, info)


def test_missing(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "no such checkpoint; train one")


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_truncated(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    refused(saved, "truncated or not a safetensors file")


def test_foreign_bytes(saved: Path) -> None:
    saved.write_bytes(b"PK\x03\x04" * 100)
    refused(saved, "truncated or not a safetensors file")


def test_foreign_safetensors(saved: Path) -> None:
    save_file({"weight": torch.zeros(2)}, saved)
    refused(saved, "format is None, expected 'mst-checkpoint'")


def test_other_version(saved: Path) -> None:
    save_file({"weight": torch.zeros(2)}, saved, {"format": FORMAT, "version": "9", "info": "{}"})
    refused(saved, "version '9', this code reads 1")


def test_tensors_that_are_not_the_network(saved: Path) -> None:
    tensors, info = load_file(saved), read(saved, FORMAT)[1]
    del tensors["head.weight"]
    write(saved, tensors, FORMAT, info)
    refused(saved, "does not hold the network it describes: .*head.weight")


def test_configuration_that_is_illegal(saved: Path) -> None:
    tensors, info = load_file(saved), read(saved, FORMAT)[1]
    info["model"]["levels"] = 6
    write(saved, tensors, FORMAT, json.loads(json.dumps(info)))
    refused(saved, "levels must be 2\\^b - 1")


def test_another_configuration_is_noticed(saved: Path) -> None:
    model, _ = load(saved)
    expect(saved, model, CONFIG)
    with pytest.raises(CheckpointError, match="trained with levels = 3, the configuration says 7: train again"):
        expect(saved, model, dataclasses.replace(CONFIG, levels=7))
