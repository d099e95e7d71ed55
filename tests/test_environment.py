"""The two commands' set-up: lock file, packages, Makefile, .ci/run. Nothing is installed here."""
import importlib.metadata
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK_TEXT, EXTRA_TEXT = (ROOT / "requirements.lock").read_text().split("# -- only for make synth and make bench")
LOCK = [line for line in LOCK_TEXT.splitlines() if not line.startswith("#")]
EXTRA = [line for line in EXTRA_TEXT.splitlines()[1:] if not line.startswith("#")]
TARGETS = ("help", "sim", "verify-all", "swin-t", "bench", "synth", "bitstream", "program", "pynq", "post-synth", "events",
           "study", "regs", "firmware", "soc-sim", "test", "fuzz-files", "train", "distill", "quantize", "rtl", "golden",
           "report", "check", "clean", "distclean")

HAS_TORCH = importlib.util.find_spec("torch") is not None


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


PINS = {canonical(line.split("==")[0]): line.split("==")[1] for line in LOCK}
EXTRA_PINS = {canonical(line.split("==")[0]): line.split("==")[1] for line in EXTRA}


def lock_problems(lines: list[str]) -> list[str]:
    """Lines that are not one exact pin from whatever index pip is set to."""
    return [line for line in lines if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==[0-9][\w.]*", line)]


def make(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, timeout=300)


def test_lock_is_exact_pins_only() -> None:
    assert not lock_problems(LOCK + EXTRA)
    assert len(PINS | EXTRA_PINS) == len(LOCK + EXTRA), "a package is pinned twice"
    bad = ["numpy", "numpy>=2", "torch==2.13.0+cpu", "x @ https://x.org/x.whl", "-e .", "a==1 --hash=sha256:0"]
    assert lock_problems(bad) == bad


def test_lock_pins_all_that_is_installed_for_us() -> None:
    """Every requirement, and theirs in turn, is pinned, at a version that is allowed."""
    wanted = [Requirement(r) for r in PROJECT["dependencies"]]
    for extra in ("test", "train"):
        wanted += [Requirement(r) for r in PROJECT["optional-dependencies"][extra]]
    seen: set[str] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonical(requirement.name)
        if (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})) or name in seen:
            continue
        seen.add(name)
        assert name in PINS, f"{requirement} is not in requirements.lock"
        version = PINS[name] + ("+cpu" if name == "torch" else "")
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} does not allow {version}"
        if name != "torch" or HAS_TORCH:
            wanted += [Requirement(r) for r in importlib.metadata.requires(name) or []]
    assert "torch" in seen and "verilator" in seen
    if HAS_TORCH:
        assert set(PINS) - seen <= {"setuptools"}, f"pinned for nobody: {set(PINS) - seen}"


def test_extra_pins_allow_what_is_asked_for() -> None:
    for extra in ("synth", "gowin", "bench", "events", "host", "soc"):
        for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
            assert requirement.specifier.contains((PINS | EXTRA_PINS)[canonical(requirement.name)]), requirement
    assert {"spikingjelly", "tonic"} <= set(EXTRA_PINS)


def test_what_is_installed_is_what_is_locked() -> None:
    installed = {canonical(found.name): found.version for found in importlib.metadata.distributions()}
    wrong = {name: installed[name] for name, pin in (PINS | EXTRA_PINS).items() if name in installed and name != "torch"
             and installed[name] != pin}
    assert not wrong
    assert HAS_TORCH <= (PINS.keys() <= installed.keys()), PINS.keys() - installed.keys()


def test_core_needs_no_torch_and_every_dependency_has_its_reason() -> None:
    assert not any("torch" in dependency for dependency in PROJECT["dependencies"])
    for line in (ROOT / "pyproject.toml").read_text().split("[tool.setuptools]")[0].splitlines():
        if re.match(r'    "[a-z0-9-]+[=>]', line) and "torch" not in line:
            assert "#" in line, f"why is this needed? {line}"
    assert sys.version_info >= (3, 11) and PROJECT["requires-python"] == ">=3.11"


def test_help_is_the_default_and_names_every_target(clean_env: dict[str, str]) -> None:
    done = make(env=clean_env)
    assert done.returncode == 0, done.stderr
    for target in TARGETS:
        assert re.search(rf"^  {target} +\S", done.stdout, re.MULTILINE), f"make help does not name {target}"
    for word in ("CONFIG=", "IMAGES=", "MASK=", "SIM=verilator|icarus", "WAVES=1", "PIP_FIND_LINKS", "torch"):
        assert word in done.stdout


@pytest.mark.parametrize(("arguments", "command"), [
    (("sim",), "-m sim run --config configs/cifar10-tiny.toml --sim verilator"),
    (("sim", "CONFIG=a.toml", "ARGS=--network b.mstn"), "-m sim run --config a.toml --sim verilator --network b.mstn"),
    (("synth",), "-m hwgen synth --config configs/cifar10-tiny-ecp5.toml"),
    (("synth", "CONFIG=a.toml"), "-m hwgen synth --config a.toml"),
    (("bitstream",), "-m hwgen.boards bitstream --board ulx3s"),
    (("bitstream", "BOARD=primer20k", "CONFIG=a.toml", "ARGS=--jobs 1"),
     "-m hwgen.boards bitstream --board primer20k --config a.toml --jobs 1"),
    (("pynq",), "-m hwgen.pynq"),
    (("pynq", "CONFIG=a.toml"), "-m hwgen.pynq --config a.toml"),
    (("soc-sim",), "-m sim.soc --config configs/fashion-tiny.toml"),
    (("soc-sim", "CONFIG=a.toml"), "-m sim.soc --config a.toml"),
    (("rtl", "CONFIG=my configs/it's $$1.toml"), "-m hwgen emit --config my configs/it's $1.toml"),
    (("sim", "CONFIG=a.toml", "IMAGES=3", "MASK=0.75", "SIM=icarus", "WAVES=1"),
     "-m sim run --config a.toml --images 3 --mask 0.75 --sim icarus --waves"),
    (("sim", "WAVES=0", "SEED=7"), "-m sim run --config configs/cifar10-tiny.toml --random-weights 7 --sim verilator"),
    (("rtl", "CONFIG=a.toml"), "-m hwgen emit --config a.toml"),
    (("train",), "-m model train --config configs/cifar10-tiny.toml"),
    (("quantize",), "-m quantize export --config configs/cifar10-tiny.toml"),
    (("report",), "-m sim report --config configs/cifar10-tiny.toml"),
    (("golden",), "-m pytest tests/golden"),
    (("test",), "-m pytest"),
    (("check",), "-m ruff check ."),
    (("check",), "-m mypy"),
])
def test_targets_call_our_commands(clean_env: dict[str, str], arguments: tuple[str, ...], command: str) -> None:
    done = make("-n", *arguments, env=clean_env)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(words(line)) for line in done.stdout.splitlines()]
    assert any(line.endswith(command) for line in lines), done.stdout


def words(line: str) -> list[str]:
    """What the shell makes of a line; those of a longer command are no whole sentence of it."""
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


@pytest.mark.parametrize("target", ["swin-t", "post-synth", "golden", "test"])
def test_a_target_that_takes_no_configuration_says_so(clean_env: dict[str, str], target: str) -> None:
    done = make("-n", target, "CONFIG=a.toml", env=clean_env)
    assert done.returncode == 2 and done.stdout == ""
    assert f"make {target} takes no CONFIG: leave it out" in done.stderr


def test_every_target_takes_a_configuration_or_refuses_it(clean_env: dict[str, str]) -> None:
    """But help: there is no third kind, which would ignore it."""
    for target in set(TARGETS) - {"help"}:
        done = make("-n", target, "CONFIG=some.toml", env=clean_env)
        assert "takes no CONFIG" in done.stderr or "--config some.toml" in " ".join(done.stdout.replace("'", "").split()), target


def test_make_sim_takes_its_network_from_the_arguments_alone(clean_env: dict[str, str]) -> None:
    """No other step looks for the configuration's own, which need not be there."""
    for target in ("sim", "verify-all"):
        done = make("-n", target, "CONFIG=a.toml", "ARGS=--network b.mstn", env=clean_env)
        named = [line for line in done.stdout.splitlines() if "a.toml" in line]
        assert len(named) == 1 and "--network b.mstn" in named[0], done.stdout


def test_make_sim_asks_for_no_torch(clean_env: dict[str, str]) -> None:
    done = make("-n", "sim", env=clean_env)
    assert "torch" not in done.stdout and ".[train]" not in done.stdout and ".[test]" not in done.stdout


@pytest.fixture
def empty_checkout(tmp_path: Path) -> Path:
    """A folder with only what the set-up reads, so that no .venv stands there."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def setup(folder: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "setup", *arguments], cwd=folder, env=env, capture_output=True, text=True,
                          check=False, stdin=subprocess.DEVNULL, timeout=300)


def test_an_old_python_is_refused_in_one_line(empty_checkout: Path, clean_env: dict[str, str]) -> None:
    old = empty_checkout / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for python in (str(old), "no-such-python"):
        done = setup(empty_checkout, clean_env, f"PYTHON={python}")
        first = done.stderr.splitlines()[0]
        assert done.returncode == 2 and first.startswith(f"make: {python} is not Python 3.11 or newer: install it, or")
        assert not (empty_checkout / ".venv").exists()


def test_a_missing_compiler_is_named_in_one_line(empty_checkout: Path, clean_env: dict[str, str]) -> None:
    tools = empty_checkout / "tools"
    tools.mkdir()
    for name in ("bash", "cat", "cksum", "cut", "make", "perl"):
        found = next(path for folder in os.get_exec_path() if (path := Path(folder) / name).exists())
        (tools / name).symlink_to(found)
    done = setup(empty_checkout, {**clean_env, "PATH": str(tools)}, f"PYTHON={sys.executable}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "make: g++ not found: apt-get install g++ make perl"


def test_a_half_made_venv_is_made_afresh_and_a_failed_set_up_leaves_no_stamp(
        empty_checkout: Path, clean_env: dict[str, str]) -> None:
    rest = empty_checkout / ".venv" / "bin" / "python"
    rest.parent.mkdir(parents=True)
    rest.write_text("half written")
    (empty_checkout / "requirements.lock").write_text("setuptools==0.0.0.1\n")
    done = setup(empty_checkout, {**clean_env, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}, f"PYTHON={sys.executable}")
    assert done.returncode == 2 and "setuptools" in done.stderr
    assert rest.read_bytes() != b"half written", "the broken interpreter was kept"
    assert not list((empty_checkout / ".venv").glob(".core-*"))


def test_ci_run_stops_at_the_first_failure() -> None:
    path = ROOT / ".ci" / "run"
    text = path.read_text()
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in text and re.search(r"^make test$", text, re.MULTILINE)
    assert "||" not in text and "CI=true" in text


NEEDS_TORCH = {
    "test_top.py": "import torch\n\ndef test_top():\n    assert torch\n",
    "test_inside.py": "def test_inside():\n    from torch import nn\n    assert nn\n",
    "test_without.py": "def test_without():\n    pass\n\ndef test_own_fault():\n    import no_such_module\n",
}


@pytest.mark.parametrize("torch", [
    "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')",
    "import ctypes; ctypes.CDLL('libtorch_that_is_not_there.so')",
])
def test_torch_tests_are_skipped_aloud(tmp_path: Path, clean_env: dict[str, str], torch: str) -> None:
    """Missing or broken, with what to install; other failures stay failures."""
    (tmp_path / "fake" / "torch").mkdir(parents=True)
    (tmp_path / "fake" / "torch" / "__init__.py").write_text(torch)
    (tmp_path / "conftest.py").write_bytes((ROOT / "tests" / "conftest.py").read_bytes())
    for name, text in NEEDS_TORCH.items():
        (tmp_path / name).write_text(text)
    path = os.pathsep.join([str(tmp_path / "fake"), clean_env.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-ra", "--import-mode=importlib", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, env={**clean_env, "PYTHONPATH": path}, capture_output=True, text=True,
                          check=False)
    assert "1 failed, 1 passed, 2 skipped" in done.stdout, done.stdout
    assert "FAILED test_without.py::test_own_fault" in done.stdout
    hint = "torch cannot be imported: install its CPU build, see the note on torch in `make help`"
    assert done.stdout.count(hint) == 2
