"""Training: schedule, exact resumption, the command line and its errors, evaluation's JSON."""
import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from data_files import write_cifar

from model import checkpoint
from model.__main__ import main
from model.config import Config, MaskingConfig, ModelConfig, QuantizeConfig, TrainConfig
from model.data import Images
from model.evaluate import EvaluationError, evaluate
from model.train import Trainer, TrainingError, groups, rate_at

torch.set_num_threads(1)
SHAPE = ModelConfig(image_size=8, in_channels=3, classes=3, patch=2, embedding=8, depths=(1, 1), heads=(2, 2), window=2,
                    mlp_ratio=2.0, levels=7, qkv_norm=True)
SETTINGS = TrainConfig(epochs=4, batch=16, rate=5e-3, warmup_epochs=1, holdout=8, average=0.9)


def data(count: int = 56) -> Images:
    random = torch.Generator().manual_seed(2)
    labels = torch.randint(3, (count,), generator=random)
    images = torch.randint(100, (count, 3, 8, 8), generator=random)
    images[torch.arange(count), labels] += 120  # a class is a colour
    return Images(images.to(torch.uint8), labels)


def trainer(folder: Path, masking: MaskingConfig | None = None, settings: TrainConfig = SETTINGS) -> Trainer:
    config = Config("tiny", SHAPE, masking or MaskingConfig(), settings, QuantizeConfig(), {})
    return Trainer(config, data(), folder, compiled=False, bfloat16=False)


def test_rate_warms_up_and_follows_the_cosine() -> None:
    settings = dataclasses.replace(SETTINGS, epochs=11, rate=1.0)
    assert [rate_at(settings, step, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert rate_at(settings, 4, 4) == 1.0
    assert rate_at(settings, 24, 4) == pytest.approx(0.505)
    assert rate_at(settings, 44, 4) == pytest.approx(0.01)


def test_a_state_of_other_data_is_refused_and_one_that_does_not_say_goes_on(tmp_path: Path) -> None:
    first = trainer(tmp_path / "run")
    first.run(1)
    changed = data()
    changed.labels[5] = (changed.labels[5] + 1) % 3
    with pytest.raises(checkpoint.CheckpointError, match=r"images were others .*: give it the same \(--data\), or train"):
        Trainer(first.config, changed, tmp_path / "run", compiled=False, bfloat16=False)
    assert trainer(tmp_path / "run").epoch == 1
    tensors, info = checkpoint.read(first.state_path, checkpoint.STATE_FORMAT)
    del info["data"]  # as states were written before
    checkpoint.write(first.state_path, tensors, checkpoint.STATE_FORMAT, info)
    assert trainer(tmp_path / "run").epoch == 1


def test_where_a_teacher_lies_is_no_part_of_a_run(tmp_path: Path) -> None:
    """States of when names started from the current folder go on."""
    first = trainer(tmp_path / "run", settings=dataclasses.replace(SETTINGS, teacher="configs/t.safetensors"))
    first.run(1)
    assert trainer(tmp_path / "run", settings=dataclasses.replace(SETTINGS, teacher="t.safetensors")).epoch == 1
    with pytest.raises(checkpoint.CheckpointError, match="another configuration"):
        trainer(tmp_path / "run", settings=dataclasses.replace(SETTINGS, teacher="other.safetensors"))


def test_crops_beyond_the_picture_are_refused(tmp_path: Path) -> None:
    trainer(tmp_path / "fits", settings=dataclasses.replace(SETTINGS, crop_pad=7))
    with pytest.raises(ValueError, match=r"\[train\] crop_pad must be below the 8 pixels of a picture's side, not 8: lower it"):
        trainer(tmp_path / "run", settings=dataclasses.replace(SETTINGS, crop_pad=8))


def test_weight_decay_only_on_matrices() -> None:
    from model.mst import MST
    model = MST(SHAPE, MaskingConfig())
    decayed, others = groups(model, 0.05)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)].rsplit(".", 1)[1] for p in decayed["params"]} == {"weight"}  # type: ignore[attr-defined]
    assert not [names[id(p)] for p in others["params"] if "qkv.weight" in names[id(p)]]  # type: ignore[attr-defined]
    assert len(decayed["params"]) + len(others["params"]) == len(names)  # type: ignore[arg-type]


@pytest.mark.parametrize("masking", [MaskingConfig(), MaskingConfig(("q", "scores", "fc2"), 0.25)])
def test_a_resumed_run_repeats_the_uninterrupted_one(tmp_path: Path, masking: MaskingConfig) -> None:
    whole = trainer(tmp_path / "whole", masking)
    whole.run()
    first = trainer(tmp_path / "parts", masking)
    for _ in range(2):
        first.run_epoch()
        first.save()
    torch.manual_seed(99)  # a new process has another state of torch's own generator
    second = trainer(tmp_path / "parts", masking)
    assert second.epoch == 2
    second.run()
    for one, other in ((whole.model, second.model), (whole.mean, second.mean)):
        for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(a, b), name
    assert [entry["loss"] for entry in whole.log] == [entry["loss"] for entry in second.log]
    assert whole.log[-1]["loss"] < whole.log[0]["loss"]
    assert (tmp_path / "whole" / "last.safetensors").stat().st_size > 0


def test_state_of_another_configuration_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.run_epoch()
    run.save()
    with pytest.raises(checkpoint.CheckpointError, match=r"another configuration \(\[train\] rate was .*, is 0.001\): "
                                                             "remove it, or train with --restart"):
        trainer(tmp_path, settings=dataclasses.replace(SETTINGS, rate=1e-3))


def test_a_batch_larger_than_the_data(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[train\] batch 64 exceeds the 48 training images: lower it"):
        trainer(tmp_path, settings=dataclasses.replace(SETTINGS, batch=64)).run_epoch()


def test_images_that_show_nothing_are_refused(tmp_path: Path) -> None:
    empty = Images(torch.full((56, 3, 8, 8), 7, dtype=torch.uint8), data().labels)
    config = Config("tiny", SHAPE, MaskingConfig(), SETTINGS, QuantizeConfig(), {})
    with pytest.raises(TrainingError, match="every pixel of the training images is 7: there is nothing to learn"):
        Trainer(config, empty, tmp_path, compiled=False, bfloat16=False)


def test_evaluation(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.run()
    found = evaluate(run.mean, data(20), steps=(1, 3), batch=7)
    assert found["images"] == 20
    assert found["exact_agreement"] == 1.0
    assert found["exact_largest_logit_difference"] == 0.0
    assert found["qcfs"] == pytest.approx(found["exact"], abs=0.051)
    assert set(found["stepwise"]) == {"1", "3"}  # type: ignore[call-overload]
    for bad, message in (({"modes": ["fast"]}, "unknown mode 'fast'"),
                         ({"steps": (0,)}, r"steps must be positive, not \[0\]"),
                         ({"data": Images(data().images[:0], data().labels[:0])}, "no images")):
        with pytest.raises(EvaluationError, match=message):
            evaluate(run.mean, **({"data": data(2)} | bad))  # type: ignore[arg-type]


def test_a_masked_network_is_evaluated_step_by_step_without_compiling(tmp_path: Path) -> None:
    run = trainer(tmp_path, MaskingConfig(("q", "scores", "fc2"), 0.25))
    found = [evaluate(run.mean, data(5), ("stepwise",), (2,), compiled=compiled) for compiled in (True, False)]
    assert found[0] == found[1] != evaluate(run.mean, data(5), ("qcfs",))


CONFIGURATION = """
[model]
image_size = 32
in_channels = 3
classes = 10
patch = 4
embedding = 8
depths = [1]
heads = [2]
window = 4
mlp_ratio = 1.0
levels = 7
[train]
epochs = 1
batch = 4
holdout = 3
warmup_epochs = 0
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A configuration and a data set of 15 images under tmp_path."""
    write_cifar(tmp_path / "data")
    (tmp_path / "c.toml").write_text(CONFIGURATION)
    return tmp_path


def test_command_line_trains_and_evaluates(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--config", str(project / "c.toml"), "--data", str(project / "data"), "--threads", "1"]
    assert main(["train", *common, "--runs", str(project / "runs"), "--no-compile"]) == 0
    assert "c.safetensors: 1 epochs" in capsys.readouterr().out
    assert main(["evaluate", *common, "--no-compile", "--steps", "2", "--images", "2", "--output", str(project / "a.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((project / "a.json").read_text())
    assert printed["images"] == 2
    assert printed["epochs"] == 1


@pytest.mark.parametrize("arguments, message", [
    (["evaluate"], "c.safetensors: no such checkpoint"),
    (["train", "--threads", "0"], "--threads must be at least 1, not 0"),
    (["train", "--data", "nowhere"], "nowhere/cifar-10-batches-py: no such folder"),
    (["train", "--config", "none.toml"], "none.toml: no such configuration file"),
    (["train", "--output", "."], ".: is a folder: name a file to write"),
    (["train", "--threads", "1", "--runs", "README.md"], "README.md/c: not a directory"),
    (["train", "--output", "README.md/x.safetensors"], "README.md: file exists"),
])
def test_command_line_errors_are_one_line_and_code_2(project: Path, capsys: pytest.CaptureFixture[str],
                                                     arguments: list[str], message: str) -> None:
    common = ["--config", str(project / "c.toml"), "--data", str(project / "data")]
    assert main([arguments[0], *common, *arguments[1:]]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_another_configuration_s_network_is_not_trained_over(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "d.toml").write_text('network = "c.mstn"\n' + (project / "c.toml").read_text())
    assert main(["train", "--config", str(project / "d.toml"), "--data", str(project / "data")]) == 2
    assert f"is that of {project / 'c.toml'}: train that one" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, message", [
    (["--images", "9"], "--images must be 0 (all) to 3, not 9"),
    (["--steps", "4,x"], "--steps must be integers with commas between, not '4,x'"),
    (["--modes", "fast"], "unknown mode 'fast'"),
])
def test_evaluation_errors(project: Path, capsys: pytest.CaptureFixture[str],
                           arguments: list[str], message: str) -> None:
    common = ["--config", str(project / "c.toml"), "--data", str(project / "data"), "--threads", "1"]
    assert main(["train", *common, "--runs", str(project / "runs"), "--no-compile"]) == 0
    capsys.readouterr()
    assert main(["evaluate", *common, *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_command_line_without_torch_says_what_to_install(monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "model.commands")
    monkeypatch.delattr("model.commands")
    assert main(["evaluate", "--config", "c.toml"]) == 2
    assert capsys.readouterr().err == ("torch cannot be imported: install its CPU build, "
                                       "see the note on torch in `make help`\n")
