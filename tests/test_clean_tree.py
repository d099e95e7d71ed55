"""Commands of the documents leave a checkout as it was: results go to runs/ and rtl/build/, which git ignores."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from data_files import write_cifar

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "configs/cifar10-tiny.toml"
COMMANDS = (
    f"hwgen emit --config {CONFIG}",
    "hwgen registers",
    f"model train --config {CONFIG} --no-compile --float32 --stop-after 1",
    f"model train --config {CONFIG} --no-compile --float32 --stop-after 1",
    f"quantize export --config {CONFIG}",
    f"quantize accuracy --config {CONFIG} --agreement-images 1",
    f"sim.studies rates --config {CONFIG} --sample --images 2",
    f"sim.bench --config {CONFIG} --only synthesis",
)


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the files that git knows here, with a look-alike of CIFAR-10 in data/, which it ignores."""
    if not (ROOT / ".git").exists():
        pytest.skip(f"{ROOT} is no git checkout: clone the repository to run this test")
    folder = tmp_path_factory.mktemp("checkout")
    for name in git(ROOT, "ls-files", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "as it is")
    write_cifar(folder / "data", per_batch=450)
    return folder


def test_documented_commands_leave_git_status_clean(checkout: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    env.pop("MST_DATA", None)
    said = ""
    for command in COMMANDS:
        done = subprocess.run([sys.executable, "-m", *command.split()], cwd=checkout, env=env, capture_output=True, text=True,
                              check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        assert git(checkout, "status", "--porcelain") == "", command
        said += done.stdout
    results = checkout / "runs" / "results"
    assert (results / "cifar10-tiny-agreement.md").is_file() and (results / "cifar10-tiny-rates.csv").is_file()
    assert json.loads((checkout / "runs" / "bench.json").read_text())["fmax_mhz"]
    assert (checkout / "runs" / "bench.md").is_file()
    trained = checkout / "runs" / "cifar10-tiny" / "cifar10-tiny.safetensors"
    assert trained.read_bytes() != (checkout / "configs" / "cifar10-tiny.safetensors").read_bytes()
    assert f"{trained.relative_to(checkout)}: 2 epochs of" in said


def test_what_is_to_be_recorded_is_recorded(checkout: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "MST_DATA": str(checkout / "data")}
    for command in (f"quantize accuracy --config {CONFIG} --agreement-images 1 --record --results docs/results",
                    f"sim.studies rates --config {CONFIG} --sample --images 2 --output docs/results"):
        subprocess.run([sys.executable, "-m", *command.split()], cwd=checkout, env=env, check=True, capture_output=True)
    changed = {line[3:] for line in git(checkout, "status", "--porcelain").splitlines()}
    assert {"configs/cifar10-tiny.mstn", "configs/cifar10-tiny.accuracy.json", "docs/results/cifar10-tiny-agreement.md",
            "docs/results/cifar10-tiny-rates.md"} <= changed
