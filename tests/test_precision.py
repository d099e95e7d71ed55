"""`[train] precision = "auto"`: the format is chosen by what the machine has, told, and kept by a run that goes on."""
import dataclasses
import json
from pathlib import Path

import pytest
import torch

from model import checkpoint, precision
from model.config import Config, MaskingConfig, ModelConfig, QuantizeConfig, TrainConfig
from model.data import Images
from model.train import Trainer

CPU = torch.device("cpu")
SETTINGS = TrainConfig(epochs=2, batch=16, holdout=8)
SHAPE = ModelConfig(image_size=8, in_channels=3, classes=3, patch=2, embedding=8, depths=(1,), heads=(2,), window=2,
                    mlp_ratio=1.0, levels=7)


def trainer(folder: Path, settings: TrainConfig) -> Trainer:
    random = torch.Generator().manual_seed(2)
    data = Images(torch.randint(256, (24, 3, 8, 8), generator=random).to(torch.uint8), torch.arange(24) % 3)
    return Trainer(Config("tiny", SHAPE, MaskingConfig(), settings, QuantizeConfig(), {}), data, folder, compiled=False)


@pytest.mark.parametrize(("flags", "there"), [
    ("fpu avx2 fma", False), ("fpu avx512f avx512_bf16", True), ("amx_bf16 amx_tile", True), ("asimd bf16", True),
    ("asimd svebf16", True), ("avx512f avx512_vnni avx512_fp16", False), ("", False)])
def test_bfloat16_arithmetic_is_told_from_the_processors_flags(
        flags: str, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"model name\t: bf16\nflags\t\t: {flags}\n")
    monkeypatch.setattr(precision, "CPUINFO", info)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert precision.has_bfloat16(CPU) == there
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {**dict.fromkeys(flags.split(), True), "cpu_name": "bf16"},
                        raising=False)
    assert precision.has_bfloat16(CPU) == there


@pytest.mark.parametrize(("capability", "there"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bfloat16_arithmetic_of_a_gpu(capability: tuple[int, int], there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision.has_bfloat16(torch.device("cuda")) == there


@pytest.mark.parametrize(("there", "wanted", "said"), [
    (False, "float32", "computing in float32: this processor has no bfloat16 arithmetic"),
    (True, "bfloat16", "computing in bfloat16: this processor has bfloat16 arithmetic")])
def test_auto_takes_what_the_machine_has_and_a_run_keeps_it(
        there: bool, wanted: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrainConfig().precision == "auto"
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: there)
    run = trainer(tmp_path, SETTINGS)
    assert run.settings.precision == wanted and run.precision_note == said
    run.run(1)
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: not there)
    again = trainer(tmp_path, SETTINGS)
    assert again.settings.precision == wanted and again.epoch == 1
    assert again.precision_note == f"computing in {wanted}: as the run began"
    named = trainer(tmp_path / "named", dataclasses.replace(SETTINGS, precision="float16"))
    assert named.precision_note == "computing in float16: as [train] precision says"


def test_states_from_before_auto_are_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their identity says bfloat16, which was the default then; a configuration of today says auto, or nothing."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    trainer(tmp_path, dataclasses.replace(SETTINGS, precision="bfloat16")).run(1)
    _, info = checkpoint.read(tmp_path / "state.safetensors", checkpoint.STATE_FORMAT)
    assert json.loads(info["config"])[1]["precision"] == "bfloat16"
    assert trainer(tmp_path, SETTINGS).epoch == 1
    with pytest.raises(checkpoint.CheckpointError, match=r"\[train\] precision was bfloat16, is float32"):
        trainer(tmp_path, dataclasses.replace(SETTINGS, precision="float32"))
