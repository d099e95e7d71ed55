"""`make train`'s torch: any that is there and new enough, else one that pip can have; its size is told before it is fetched.

Asked for in this order: the CPU build of the locked version, the locked version, whatever pyproject.toml's extra `train`
allows. So the ordinary package index is enough, and an index of CPU builds saves gigabytes where pip knows one.
"""
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

ROOT = Path(__file__).resolve().parent.parent
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
SMALLER = "PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL set to where torch's CPU builds are"
LARGE = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What pip would fetch for `requirement`: (name, version, bytes or None where its place does not tell) of each package."""

    requirement: str
    packages: tuple[tuple[str, str, int | None], ...]

    def __str__(self) -> str:
        known = sum(size for _, _, size in self.packages if size is not None)
        unknown = sum(size is None for _, _, size in self.packages)
        amount = f"{known / 1e9:.1f} GB" if known >= LARGE else f"{known / 1e6:.0f} MB"
        if unknown:
            amount = f"more than {amount} (of {unknown} packages the size is not known)" if known else "an unknown size"
        torch = next((f"torch {version}" for name, version, _ in self.packages if name == "torch"), self.requirement)
        hint = f"; a CPU build is smaller: stop here and run it again with {SMALLER}" if known >= LARGE or unknown else ""
        return f"{torch}: {amount} to fetch, {len(self.packages)} packages{hint}"


def allowed() -> str:
    """What pyproject.toml's extra `train` asks for, torch>=MAJOR.MINOR."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return next(text for text in project["optional-dependencies"]["train"] if text.startswith("torch"))


def is_allowed(version: str) -> bool:
    """Whether torch of `version`, such as 2.10.0+cpu, is one that `allowed` names."""
    least, found = (tuple(map(int, re.findall(r"\d+", text)[:2])) for text in (allowed(), version))
    return found >= least


def installed() -> str | None:
    """Version of the torch that is there, if it is allowed and can be imported."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
    works = is_allowed(version) and subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode == 0
    return version if works else None


def locked() -> tuple[str, list[str]]:
    """The locked version of torch, and the lock's other lines."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pin = next(line for line in lines if line.startswith("torch=="))
    return pin.removeprefix("torch=="), [line for line in lines if line != pin]


def candidates() -> list[str]:
    """What to ask pip for, best first."""
    pin, _ = locked()
    return [*([f"torch=={pin}+cpu"] if sys.platform == "linux" else []), f"torch=={pin}", allowed()]


def size_of(url: str) -> int | None:
    """Bytes of the file at `url`, without fetching it; None where its place does not tell."""
    request = urllib.request.Request(url, method="HEAD")  # answers file: too
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.headers["Content-Length"])
    except (URLError, OSError, ValueError, TypeError):
        return None


def plan(requirement: str, constraints: Path, pip: Sequence[str] = PIP) -> Plan | None:
    """What pip would fetch for `requirement`; None where it cannot be had from where pip looks."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [*pip, "install", "--quiet", "--dry-run", "--report", str(report), "-c", str(constraints), requirement]
        if subprocess.run(command, capture_output=True).returncode or not report.exists():
            return None
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    packages = ((entry["metadata"], entry["download_info"]["url"]) for entry in found)
    return Plan(requirement, tuple((known["name"], known["version"], size_of(url)) for known, url in packages))


def install(pip: Sequence[str] = PIP) -> int:
    """Install the best of `candidates` that can be had, its size told first; the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(locked()[1]) + "\n", encoding="utf-8")
        for requirement in candidates():
            found = plan(requirement, constraints, pip)
            if found is None:
                continue
            print(f"make: installing {found}", flush=True)
            command = [*pip, "install", "--quiet", "--progress-bar=on", "-c", str(constraints), requirement]
            return subprocess.run(command).returncode
    print(f"make: no {allowed()} where pip looks: set its index, or {SMALLER}", file=sys.stderr)
    return 1


def main() -> int:
    """Leave alone a torch that will do, else install one."""
    version = installed()
    if version is None:
        return install()
    if version.split("+")[0] != locked()[0]:
        print(f"make: torch {version} is there (the figures of docs/ are of {locked()[0]})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
