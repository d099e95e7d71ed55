"""`make train`'s torch: what is there is taken, else the best that pip can have, and its size is told before it is fetched."""
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from model import get_torch

CPU, PLAIN, ANY = get_torch.candidates() if sys.platform == "linux" else ["", *get_torch.candidates()]


def wheel(folder: Path, name: str, version: str, needs: str = "") -> int:
    """A package with one empty module, as a wheel in `folder`; its size in bytes."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (f"Requires-Dist: {needs}\n" if needs else "")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", f"__version__ = {version!r}\n")
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path.stat().st_size


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """pip of an empty environment that finds only the wheels in tmp_path."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(tmp_path / "venv" / "bin" / "python")]


def version_of(pip: list[str]) -> str:
    done = subprocess.run([pip[-1], "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize(("there", "wanted"), [
    (["2.9.1", "2.12.0"], "2.12.0"),  # the ordinary index may lack the locked version
    (["2.9.1", "LOCKED", "99.0.0"], "LOCKED"),
    (["LOCKED", "LOCKED+cpu"], "LOCKED+cpu")])
def test_the_best_that_can_be_had_is_installed(there: list[str], wanted: str, pip: list[str], tmp_path: Path,
                                               capfd: pytest.CaptureFixture[str]) -> None:
    pin = get_torch.locked()[0]
    sizes = {name: wheel(tmp_path, "torch", name.replace("LOCKED", pin), "part") for name in there}
    sizes["part"] = wheel(tmp_path, "part", "1.0")
    assert get_torch.install(pip) == 0
    found = wanted.replace("LOCKED", pin)
    said = capfd.readouterr().out
    assert f"make: installing torch {found}: {(sizes[wanted] + sizes['part']) / 1e6:.0f} MB to fetch, 2 packages\n" in said
    assert version_of(pip) == found


def test_where_there_is_none_the_remedy_is_told(pip: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wheel(tmp_path, "torch", "2.8.0")
    assert get_torch.install(pip) == 1
    assert capfd.readouterr().err == ("make: no torch>=2.9 where pip looks: set its index, or PIP_FIND_LINKS or "
                                      "PIP_EXTRA_INDEX_URL set to where torch's CPU builds are\n")


def test_large_and_unknown_sizes_are_told() -> None:
    large = get_torch.Plan("torch>=2.9", (("torch", "2.10.0", 900_000_000), ("nvidia-x", "1", 2_200_000_000)))
    assert str(large).startswith("torch 2.10.0: 3.1 GB to fetch, 2 packages; a CPU build is smaller: stop here and run it again")
    unknown = get_torch.Plan("torch>=2.9", (("torch", "2.10.0", None), ("part", "1", 2_000_000)))
    assert str(unknown).startswith("torch 2.10.0: more than 2 MB (of 1 packages the size is not known) to fetch, 2 packages;")


@pytest.mark.parametrize(("version", "good"), [("2.8.1", False), ("2.9.0", True), ("2.13.0+cpu", True), ("2.14.0.dev1", True),
                                               ("3.0", True), ("1.13.1", False)])
def test_what_is_there_is_taken_from_2_9_on(version: str, good: bool, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(get_torch.importlib.metadata, "version", lambda name: version)
    monkeypatch.setattr(get_torch.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0))
    monkeypatch.setattr(get_torch, "install", lambda: 7)
    assert get_torch.main() == (0 if good else 7)
    told = capsys.readouterr().out
    assert told == (f"make: torch {version} is there (the figures of docs/ are of {get_torch.locked()[0]})\n"
                    if good and not version.startswith(get_torch.locked()[0]) else "")


def test_a_torch_that_cannot_be_imported_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_torch.importlib.metadata, "version", lambda name: "2.13.0")
    monkeypatch.setattr(get_torch.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1))
    assert get_torch.installed() is None
