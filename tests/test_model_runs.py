"""Whole training runs: alike in one process and two, twice the same bytes, whole again after a kill at a bad moment."""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from data_files import write_cifar
from safetensors import safe_open

from model import checkpoint
from model.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = """
[model]
image_size = 32
in_channels = 3
classes = 10
patch = 4
embedding = 8
depths = [2]
heads = [2]
window = 4
mlp_ratio = 1.0
levels = 7
[masking]
sites = {q = 0.5, k = 0.5, fc1 = 0.75}
[masking.ratios]
s0.b1.fc2 = 0.25
[train]
epochs = 3
batch = 4
holdout = 3
warmup_epochs = 1
precision = "float32"
teacher = "pretrain"
randaugment_ops = 2
mixup = 0.8
cutmix = 1.0
erasing = 0.25
drop_path = 0.2
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration with every option on, and 15 images."""
    root = tmp_path_factory.mktemp("runs")
    write_cifar(root / "data")
    (root / "c.toml").write_text(CONFIGURATION)
    return root


def arguments(project: Path, name: str) -> list[str]:
    return ["train", "--config", str(project / "c.toml"), "--data", str(project / "data"), "--threads", "1", "--no-compile",
            "--runs", str(project / name), "--output", str(project / f"{name}.safetensors")]


def state(project: Path, name: str, run: str = "c") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return checkpoint.read(project / name / run / "state.safetensors", checkpoint.STATE_FORMAT)


def losses(info: dict[str, Any]) -> list[tuple[float, float]]:
    return [(entry["loss"], entry["held_out"]) for entry in info["log"]]


@pytest.fixture(scope="module")
def undisturbed(project: Path) -> Path:
    """Both phases in one go, in this process."""
    assert main(arguments(project, "whole")) == 0
    return project / "whole.safetensors"


def test_two_runs_write_the_same_bytes_and_another_seed_does_not(project: Path, undisturbed: Path) -> None:
    assert main(arguments(project, "again")) == 0
    for suffix in (".safetensors", ".teacher.safetensors"):
        assert undisturbed.with_suffix(suffix).read_bytes() == (project / "again").with_suffix(suffix).read_bytes()
    other = project / "c.toml"
    other.write_text(CONFIGURATION.replace("[train]", "[train]\nseed = 2"))
    try:
        assert main(arguments(project, "seed")) == 0
    finally:
        other.write_text(CONFIGURATION)
    assert losses(state(project, "whole")[1]) != losses(state(project, "seed")[1])


def test_the_teacher_is_unmasked_and_its_student_starts_from_it(project: Path, undisturbed: Path) -> None:
    teacher, _ = checkpoint.load(undisturbed.with_suffix(".teacher.safetensors"))
    student, info = checkpoint.load(undisturbed)
    assert not teacher.masking.active
    assert student.masking.ratio_of("fc2", "s0.b1") == 0.25
    assert student.masking.ratio_of("fc2", "s0.b0") == 0
    assert len(info["teacher_sha256"]) == 64
    assert info["command"].startswith("python -m model distill --config configs/c.toml")
    assert not torch.equal(teacher.head.weight, student.head.weight)


@pytest.mark.slow
def test_two_processes_compute_what_one_does(project: Path, undisturbed: Path) -> None:
    """torchrun with gloo: every loss, weight, running statistic and moment is equal, bit for bit."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "model",
                           *arguments(project, "two")], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for run in ("c.teacher", "c"):
        (one, its), (two, others) = state(project, "whole", run), state(project, "two", run)
        assert losses(its) == losses(others)
        assert one.keys() == two.keys()
        for name, tensor in one.items():
            assert torch.equal(tensor, two[name]), name


MID_EPOCH = """
import os, signal, sys
from model import train
from model.__main__ import main
real, calls = train.average, []
def average(*arguments):
    calls.append(1)
    if len(calls) == 5:  # the second step of the second epoch
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments)
train.average = average
main(sys.argv[1:])
"""
MID_WRITE = """
import os, signal, sys
from model import checkpoint
from model.__main__ import main
real, calls = os.replace, []
def replace(partial, path):
    calls.append(1)
    if len(calls) == 2:  # the state, after the network of the same epoch
        os.truncate(partial, os.path.getsize(partial) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    real(partial, path)
os.replace = replace
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_costs_no_more_than_its_epoch(project: Path, undisturbed: Path) -> None:
    """SIGKILL within an epoch, then within the write of its state: the run that goes on ends in the same bytes."""
    for script in (MID_EPOCH, MID_WRITE):
        done = subprocess.run([sys.executable, "-c", script, *arguments(project, "killed")], cwd=ROOT, capture_output=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, timeout=300)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert state(project, "killed", "c.teacher")[1]["epoch"] == 1
    folder = project / "killed" / "c.teacher"
    assert (folder / "state.safetensors.part").exists()
    with safe_open(folder / "last.safetensors", "pt") as file:
        assert json.loads(file.metadata()["info"])["epoch"] == 2, "the network of the epoch is written before its state"
    assert main(arguments(project, "killed")) == 0
    for suffix in (".safetensors", ".teacher.safetensors"):
        assert (project / "killed").with_suffix(suffix).read_bytes() == undisturbed.with_suffix(suffix).read_bytes()


def test_a_run_in_slices_ends_in_the_same_bytes(project: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*arguments(project, "sliced"), "--stop-after", "2"]
    assert main(command) == 0
    assert "sliced.teacher.safetensors: 2 epochs of 3: run it again to go on" in capsys.readouterr().out
    assert not (project / "sliced.safetensors").exists()
    assert main(command) == 0
    assert main(command) == 0
    assert (project / "sliced.safetensors").read_bytes() == undisturbed.read_bytes()


def test_shards_that_processes_cannot_share_are_refused() -> None:
    from model.config import ConfigError
    from model.parallel import World
    assert list(World(1, 2).mine(4)) == [2, 3]
    with pytest.raises(ConfigError, match=r"\[train\] shards = 2 cannot be shared by 3 processes: set it to a multiple of 3"):
        World(0, 3).mine(2)


@pytest.mark.parametrize("arguments_of, message", [
    (["--teacher", "none.safetensors"], "none.safetensors: no such checkpoint"),
    (["--stop-after", "0"], "--stop-after must be at least 1, not 0"),
    (["--teacher", "OUTPUT"], "is the teacher: name another file with --output"),
])
def test_distillation_errors(project: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str], arguments_of: list[str],
                             message: str) -> None:
    command = arguments(project, "whole")
    given = [command[-1] if word == "OUTPUT" else word for word in arguments_of]
    assert main(["distill", *command[1:], *given]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_distillation_needs_a_fitting_teacher(project: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = project / "other.toml"
    file.write_text(CONFIGURATION.replace('teacher = "pretrain"', "").replace("classes = 10", "classes = 11"))
    command = ["distill", "--config", str(file), *arguments(project, "fitting")[3:]]
    assert main(command) == 2
    assert "other.toml: no teacher: name one with --teacher, or set [train] teacher" in capsys.readouterr().err
    assert main([*command, "--teacher", str(undisturbed)]) == 2
    assert "the teacher has classes = 10, the configuration says 11: take another teacher" in capsys.readouterr().err


def test_another_teacher_is_another_run(project: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["distill", *arguments(project, "whole")[1:-1], str(project / "x.safetensors"), "--teacher", str(undisturbed)]
    assert main(command) == 2
    assert "belongs to another configuration (the teacher's file was " in capsys.readouterr().err


def test_evaluation_masks_as_the_configuration_says(project: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model import commands
    seen = []
    monkeypatch.setattr(commands, "evaluate", lambda model, *rest, **named: seen.append(model.masking) or {})
    file = project / "unmasked.toml"
    unmasked = CONFIGURATION.replace("sites = {q = 0.5, k = 0.5, fc1 = 0.75}", 'sites = "none"')
    file.write_text(unmasked.replace("fc2 = 0.25", "fc2 = 0.0"))
    for config in (project / "c.toml", file):
        assert main(["evaluate", "--config", str(config), "--data", str(project / "data"), "--checkpoint", str(undisturbed)]) == 0
    assert [masking.active for masking in seen] == [True, False]


def test_a_holdout_larger_than_the_data(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = project / "held.toml"
    file.write_text(CONFIGURATION.replace("holdout = 3", "holdout = 15"))
    assert main(["train", "--config", str(file), *arguments(project, "held")[3:]]) == 2
    assert "[train] holdout = 15 leaves none of 15 images to train on: lower it" in capsys.readouterr().err.splitlines()[-1]
