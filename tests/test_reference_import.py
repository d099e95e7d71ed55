"""Import of the authors' checkpoints: what is read, that nothing of the file is run, and what is refused."""
import collections
import json
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_states as states
import torch

from model import checkpoint
from model.__main__ import main
from model.reference import ReferenceModelError, from_state_dict, load
from model.reference.files import read_checkpoint, unmappable
from model.reference.pickled import STORAGES, CheckpointFile, UnpickleError, plain
from quantize.__main__ import main as quantize_main

torch.set_num_threads(1)
SMALL: dict[str, Any] = dict(seed=4, image=8, patch=1, embedding=4, depths=(2, 2, 1), heads=(2, 1, 2), classes=3)
FLOAT32 = {**SMALL, "dtype": torch.float32}


class CfgNode(dict):  # type: ignore[type-arg]
    """Pickles as yacs' node does: a dict subclass with attributes of its own."""

    def __init__(self, **entries: object) -> None:
        super().__init__(entries)
        self.__dict__["__immutable__"] = True
        self.__dict__["__deprecated_keys__"] = set()


CfgNode.__module__ = "yacs.config"


@pytest.fixture
def yacs(monkeypatch: pytest.MonkeyPatch) -> type[CfgNode]:
    """CfgNode under the name that a checkpoint gives it."""
    module = types.ModuleType("yacs.config")
    module.CfgNode = CfgNode  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    return CfgNode


def content(node: type[CfgNode]) -> dict[str, Any]:
    """A checkpoint as the authors' code saves it."""
    layer = torch.nn.Linear(3, 3)
    optimiser = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    config = node(DATA=node(IMG_SIZE=8, DATASET="cifar10"), MODEL=node(DEPTHS=[2, 2, 1], SCALE=None), BETAS=(0.9, 0.999))
    state = collections.OrderedDict(states.random_state(**FLOAT32))
    return {"model": state, "config": config, "optimizer": optimiser.state_dict(), "epoch": 299, "max_accuracy": np.float64(81.5),
            "lr_scheduler": {"base_values": [1e-4], "metric": None}, "scaler": {"scale": 65536.0, "_growth_tracker": 0}}


@pytest.fixture
def file(tmp_path: Path, yacs: type[CfgNode]) -> Path:
    path = tmp_path / "best.pth"
    torch.save(content(yacs), path)
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.strip(), captured
    return captured.err


def test_import_and_load(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = file.with_name("out.safetensors")
    monkeypatch.delitem(sys.modules, "yacs.config")
    monkeypatch.delitem(sys.modules, "yacs")
    assert main(["import", str(file), "-o", str(out)]) == 0
    assert "yacs" not in sys.modules
    said = capsys.readouterr().out
    assert "image 8x8x3, patch 1, embedding 4, depths 2-2-1, heads 2-1-2, windows 4-4-2" in said
    assert said.count("not for the machine") == 2
    images = states.random_images(9, 2, 8, dtype=torch.float32)
    direct = from_state_dict(states.random_state(**FLOAT32), 8)
    assert torch.equal(load(out).logits(images, "stepwise", 4), direct.logits(images, "stepwise", 4))
    info = checkpoint.read(out, "mst-reference")[1]
    assert info["config"] == {"DATA": {"IMG_SIZE": 8, "DATASET": "cifar10"}, "MODEL": {"DEPTHS": [2, 2, 1], "SCALE": None},
                              "BETAS": [0.9, 0.999]}
    assert info["epoch"] == 299 and info["max_accuracy"] == 81.5 and info["source"]["file"] == "best.pth"
    assert main(["reference", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["shape"]["windows"] == [4, 4, 2]


def test_both_formats_of_torch_give_the_same(file: Path, yacs: type[CfgNode]) -> None:
    legacy = file.with_name("legacy.pth")
    torch.save(content(yacs), legacy, _use_new_zipfile_serialization=False)
    ours, old = read_checkpoint(file), read_checkpoint(legacy)
    trusted = states.random_state(**FLOAT32)
    assert ours[1] == old[1] and list(ours[0]) == list(trusted)
    assert all(torch.equal(ours[0][k], trusted[k]) and torch.equal(old[0][k], trusted[k]) for k in trusted)


def test_views_parameters_and_all_dtypes_are_read(tmp_path: Path) -> None:
    base = torch.arange(24.0).view(2, 3, 4)
    tensors = {"t": base.transpose(0, 2), "s": base[1, :, 1:3], "p": torch.nn.Parameter(base), "e": torch.zeros(0, 3),
               "n": torch.tensor(7)}
    for name in ("float64", "float16", "bfloat16", "int32", "int16", "int8", "uint8", "bool"):
        assert name in STORAGES.values()
        tensors[name] = (torch.arange(5) - (0 if name in ("uint8", "bool") else 2)).to(getattr(torch, name))
    torch.save({"model": tensors}, tmp_path / "x.pth")
    found, _ = read_checkpoint(tmp_path / "x.pth")
    assert all(torch.equal(found[k], v.detach()) and found[k].dtype == v.dtype for k, v in tensors.items())


class Evil:
    """Would write a file when unpickled."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(("function", "name"), [(exec, "__builtin__.exec"), (getattr, "__builtin__.getattr"),
                                                (torch.load, "torch.serialization.load"), (Path, "pathlib")])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_names_anything_else_is_refused_unrun(function: Any, name: str, zipped: bool, tmp_path: Path,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    path, mark, out = tmp_path / "evil.pth", tmp_path / "mark", tmp_path / "out.safetensors"
    state = states.random_state(**FLOAT32)
    arguments = (f"open({str(mark)!r}, 'w')",) if function is exec else (str(path), "x")
    torch.save({"model": state, "config": {"x": Evil(function, *arguments)}}, path, _use_new_zipfile_serialization=zipped)
    out.write_text("kept")
    assert f"names {name}" in refused(capsys, "import", path, "-o", out)
    assert not mark.exists() and out.read_text() == "kept"


def test_a_pickle_cannot_spoil_the_stand_ins(tmp_path: Path, yacs: type[CfgNode]) -> None:
    """BUILD on a class of the table would set attributes on it: it lands on a copy that only this file sees."""
    evil = b"\x80\x02cyacs.config\nCfgNode\nN}X\x01\x00\x00\x00aK\x01s\x86b."
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", evil)
    with pytest.raises(UnpickleError):
        CheckpointFile(path)
    from model.reference.pickled import CfgDict
    assert not hasattr(CfgDict, "a")


def test_every_cut_and_many_flips_give_one_line_or_the_network(file: Path, yacs: type[CfgNode]) -> None:
    """No damage gets past ReferenceModelError; a flip that only changes a weight is caught by the archive's sum."""
    whole = file.read_bytes()
    legacy = file.with_name("legacy.pth")
    torch.save(content(yacs), legacy, _use_new_zipfile_serialization=False)
    old = legacy.read_bytes()
    random, trial = np.random.default_rng(0), file.with_name("trial.pth")

    def attempt(data: bytes) -> bool:
        trial.write_bytes(data)
        try:
            read_checkpoint(trial)
        except ReferenceModelError as error:
            assert "\n" not in str(error) and str(trial) in str(error)
            return False
        return True

    assert attempt(whole) and attempt(old)
    for data in (whole, old):
        assert not any(attempt(data[:length]) for length in range(0, len(data) - 1, len(data) // 20))
    start = whole.index(b"data.pkl")
    passed = 0
    for index in range(60):
        data, base = (bytearray(whole), start) if index % 2 else (bytearray(old), 0)
        data[base + int(random.integers(0, 6000))] ^= int(random.integers(1, 256))
        passed += attempt(bytes(data))
    assert passed < 45


def test_what_is_no_checkpoint_is_refused(file: Path, tmp_path: Path, yacs: type[CfgNode],
                                          capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"

    def said(path: Path) -> str:
        return refused(capsys, "import", path, "-o", out)

    assert "no such file" in said(tmp_path / "none.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    assert "empty" in said(tmp_path / "empty.pth")
    (tmp_path / "text.pth").write_text("hello")
    assert "not a checkpoint of torch.save" in said(tmp_path / "text.pth")
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("readme.txt", "x")
    assert "without data.pkl" in said(tmp_path / "other.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"model": 1}))
    assert "not of torch.save" in said(tmp_path / "plain.pth")
    for value, complaint in (([1], "no dict `model` (found: list)"), ({"a": 1}, 'or save the weights as {"model": state_dict}'),
                             ({"state_dict": {}}, "no dict `model` (found: state_dict)"),
                             ({"model": {"a": 1}}, "'a', a int, not a tensor"), ({"model": {}}, "it is empty"),
                             ({"model": {"a": torch.ones(1)}}, "lacks patch_embed.proj.weight")):
        torch.save(value, tmp_path / "bad.pth")
        assert complaint in said(tmp_path / "bad.pth")
    bare = {k: v for k, v in states.random_state(**FLOAT32).items() if not k.endswith("attn_mask")}
    torch.save({"model": bare}, tmp_path / "bare.pth")
    assert "give it with --image-size" in said(tmp_path / "bare.pth")
    assert main(["import", str(tmp_path / "bare.pth"), "-o", str(out), "--image-size", "8"]) == 0
    capsys.readouterr()
    assert "image_size = 12" in refused(capsys, "import", file, "-o", out, "--image-size", "12")
    assert "is the checkpoint itself" in refused(capsys, "import", file, "-o", file)
    assert load(out).shape.image_size == 8, "an earlier output outlives failures"


def test_a_broken_output_is_refused(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"
    assert main(["import", str(file), "-o", str(out)]) == 0
    capsys.readouterr()
    data = out.read_bytes()
    out.write_bytes(data[:-10])
    assert "python -m model import" in refused(capsys, "reference", out)
    assert "python -m model import" in refused(capsys, "reference", tmp_path / "none.safetensors")
    out.write_bytes(data)
    for flag, value in (("--steps", "a"), ("--steps", "0"), ("--batch", "0"), ("--mask-ratio", "1.5")):
        assert value in refused(capsys, "reference", out, flag, value)


def test_an_imported_network_has_no_integer_form(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"
    assert main(["import", str(file), "-o", str(out)]) == 0
    capsys.readouterr()
    assert quantize_main(["export", "--config", "configs/cifar10-tiny.toml", "--checkpoint", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "L = 16 levels" in error and "`norm` is a LayerNorm" in error
    assert len(unmappable(from_state_dict(states.random_state(**SMALL), 8, levels=15))) == 1


def test_a_config_that_refers_to_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    bomb: list[Any] = ["x"] * 10
    for _ in range(20):
        bomb = [bomb] * 10
    for value in (loop, bomb):
        with pytest.raises(UnpickleError, match="too large or refers to itself"):
            plain(value)


def imported(tmp_path: Path, yacs: type[CfgNode], mst: dict[str, Any], **top: Any) -> Path:
    """What `import` makes of a checkpoint whose MODEL.MST is `mst`."""
    checkpoint_file = content(yacs)
    checkpoint_file["config"] = yacs(DATA=yacs(IMG_SIZE=8), MODEL=yacs(MST=yacs(**mst)), **top)
    torch.save(checkpoint_file, tmp_path / "best.pth")
    out = tmp_path / "out.safetensors"
    assert main(["import", str(tmp_path / "best.pth"), "-o", str(out)]) == 0
    return out


def test_what_the_configuration_says_is_applied_and_printed(tmp_path: Path, yacs: type[CfgNode],
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    out = imported(tmp_path, yacs, {"QK_SCALE": 0.5, "MASKING_RATIO": 0.75, "t": 8})
    said = capsys.readouterr().out
    assert "its configuration: L (t) 8, factor of the scores (QK_SCALE) 0.5, MASKING_RATIO 0.75\n" in said
    images, state = states.random_images(9, 2, 8, dtype=torch.float32), states.random_state(**FLOAT32)
    logits = from_state_dict(state, 8, levels=8, qk_scale=0.5).logits(images)
    assert torch.equal(load(out).logits(images), logits)
    assert (from_state_dict(state, 8).logits(images) - logits).abs().max() > 1e-3
    assert load(out, mask_ratio=None).mask_ratio == 0.75
    assert main(["reference", str(out)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["levels"], shown["qk_scale"], shown["mask_ratio"], shown["always_draw"]) == (8, 0.5, 0.75, False)
    assert main(["reference", str(out), "--mask-ratio", "0", "--always-draw"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["mask_ratio"], shown["always_draw"]) == (0.0, True)


@pytest.mark.parametrize("scale", [None, 0, 0.0])
def test_no_factor_of_the_scores_means_that_of_the_head(scale: object, tmp_path: Path, yacs: type[CfgNode],
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    out = imported(tmp_path, yacs, {"QK_SCALE": scale})
    assert "L (t) 16, factor of the scores (QK_SCALE) head^-1/2, MASKING_RATIO not named\n" in capsys.readouterr().out
    images = states.random_images(9, 2, 8, dtype=torch.float32)
    assert torch.equal(load(out).logits(images), from_state_dict(states.random_state(**FLOAT32), 8).logits(images))


@pytest.mark.parametrize(("mst", "complaint"), [
    ({"QK_SCALE": "0.5"}, "MODEL.MST.QK_SCALE = '0.5', not a number"), ({"QK_SCALE": float("nan")}, "QK_SCALE = nan"),
    ({"MASKING_RATIO": 1.0}, "MASKING_RATIO = 1, not in [0, 1)"), ({"MASKING_RATIO": None}, "MASKING_RATIO = None, not a number"),
    ({"t": 0}, "t = 0, the levels of QCFS"), ({"t": 1.5}, "t = 1.5, the levels of QCFS"),
    ({"t": True}, "t = True, not a number")])
def test_a_configuration_that_cannot_be_is_refused(mst: dict[str, Any], complaint: str, tmp_path: Path, yacs: type[CfgNode],
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    saved = content(yacs) | {"config": yacs(DATA=yacs(IMG_SIZE=8), MODEL=yacs(MST=yacs(**mst)))}
    torch.save(saved, tmp_path / "best.pth")
    assert complaint in refused(capsys, "import", tmp_path / "best.pth", "-o", tmp_path / "out.safetensors")


def test_options_without_an_integer_form_are_told_by_name(tmp_path: Path, yacs: type[CfgNode],
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    for option, name in ((dict(position=True), "`absolute_pos_embed` (MODEL.MST.APE)"),
                         (dict(patch_norm=False), "`patch_embed` has no BatchNorm (MODEL.MST.PATCH_NORM = False)")):
        saved = content(yacs) | {"model": states.random_state(**FLOAT32, **option)}
        out = tmp_path / f"{next(iter(option))}.safetensors"
        torch.save(saved, tmp_path / "best.pth")
        assert main(["import", str(tmp_path / "best.pth"), "-o", str(out)]) == 0
        assert f"not for the machine: {name}" in capsys.readouterr().out
        assert f"no network of ours: {name}" in refused(capsys, "adopt", out, "-o", tmp_path / "own.toml", "--dataset", "cifar10")
        assert quantize_main(["export", "--config", "configs/cifar10-tiny.toml", "--checkpoint", str(out)]) == 2
        assert name in capsys.readouterr().err
