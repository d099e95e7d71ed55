"""The structure holds: import directions, where torch may be, file sizes, no paths of one machine.

Each rule is a function from a module's name and text to a list of complaints, and is shown able to complain.
"""
import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("model", "quantize", "hwgen", "sim", "firmware")
LARGEST = 450
"""Lines. Aim for 400; split by block."""
MAY_IMPORT = {
    "model": {"model"},
    "quantize": {"model", "quantize"},
    "hwgen": {"model", "quantize", "hwgen"},
    "sim.golden": {"model", "quantize", "sim.golden"},
    "sim": {"model", "quantize", "hwgen", "sim", "firmware"},
    "firmware": {"firmware", "hwgen"},
}
TORCH_AT_TOP = re.compile(r"model(\..*)?|quantize\.(fold\w*|export\w*|torch_\w+|agreement)|"
                          r"sim\.studies\.(steps|attention|norm|direct|backbone)")
TORCH_INSIDE = re.compile(r"model(\..*)?|quantize(\..*)?|sim\.bench_golden")
TEXT = {".py", ".toml", ".md", ".lock", ".c", ".h", ".cpp", ".lpf", ".xdc", ".cst", ".j2", ".json", ""}
HERE_ONLY = re.compile(r"(?<![\w./)$}-])/(?:" + "|".join(("work", "root", "home", "tmp", "opt")) + r")/\w")


def modules(*packages: str) -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module of our packages."""
    for package in packages or PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """(statement, imported module) anywhere in `tree`; for `from a import b` also a.b, which may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            yield node, node.module or ""
            for alias in node.names:
                yield node, f"{node.module}.{alias.name}"


def _at_top(tree: ast.AST) -> set[ast.stmt]:
    """Statements that run when the module is imported: not inside a function, nor under `if TYPE_CHECKING`."""
    found: set[ast.stmt] = set()
    todo = list(ast.iter_child_nodes(tree))
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.stmt):
            found.add(node)
        todo.extend(ast.iter_child_nodes(node))
    return found


def _group(name: str, groups: object) -> str:
    known = list(groups)  # type: ignore[call-overload]
    return max((g for g in known if name == g or name.startswith(g + ".")), key=len, default="")


def direction_problems(name: str, text: str) -> list[str]:
    """Imports that run against model <- quantize <- {hwgen, sim.golden}, sim on top."""
    home = _group(name, MAY_IMPORT)
    problems = []
    for node, target in imports(ast.parse(text)):
        if target.split(".")[0] not in PACKAGES or target in ("sim",):
            continue  # `from sim import golden` is judged as sim.golden
        if not any(target == a or target.startswith(a + ".") for a in MAY_IMPORT[home]):
            problems.append(f"{name}:{node.lineno} imports {target}; {home} may import {sorted(MAY_IMPORT[home])}")
    return problems


def style_problems(name: str, text: str) -> list[str]:
    """`import model` (too natural a name for a variable), relative imports, star imports, stringised annotations."""
    problems = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            bare = [alias.name for alias in node.names if alias.name.split(".")[0] in PACKAGES]
            problems += [f"{name}:{node.lineno} import {b}: write from {b} import ..." for b in bare]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                problems.append(f"{name}:{node.lineno} relative import: write the whole name")
            if any(alias.name == "*" for alias in node.names) and not (node.module or "").startswith("amaranth"):
                problems.append(f"{name}:{node.lineno} from {node.module} import *")
            if node.module == "__future__" and name.split(".")[0] == "hwgen":
                problems.append(f"{name}:{node.lineno} from __future__ import: Amaranth would lose its ports")
    return problems


def torch_problems(name: str, text: str) -> list[str]:
    """Torch only in model and, at the top of a module, where quantize folds, exports and compares."""
    tree = ast.parse(text)
    top = _at_top(tree)
    problems = []
    for node, target in imports(tree):
        if target.split(".")[0] != "torch":
            continue
        if not (TORCH_AT_TOP if node in top else TORCH_INSIDE).fullmatch(name):
            problems.append(f"{name}:{node.lineno} imports {target}: at a module's top it belongs in "
                            "model, quantize.fold, .export")
    return problems


def path_problems(name: str, text: str) -> list[str]:
    """Absolute paths that exist only on one machine."""
    return [f"{name}:{number} names a path of one machine: {found[0]}..." for number, line in
            enumerate(text.splitlines(), 1) if (found := HERE_ONLY.search(line))]


def size_problems(name: str, text: str) -> list[str]:
    """Files that have grown too long."""
    count = len(text.splitlines())
    return [f"{name} has {count} lines, more than {LARGEST}: split it by block"] if count > LARGEST else []


BAD = [
    (direction_problems, "hwgen.fire", "def f():\n    from sim.golden.fire import fire\n", "hwgen.fire:2 imports sim"),
    (direction_problems, "hwgen.fire", "from sim import golden\n", "hwgen.fire:1 imports sim.golden"),
    (direction_problems, "model.mst", "from quantize.fold import fold\n", "model.mst:1 imports quantize.fold"),
    (direction_problems, "quantize.fold", "from hwgen.config import Machine\n", "imports hwgen.config"),
    (direction_problems, "sim.golden.fire", "from hwgen.config import Machine\n", "imports hwgen.config"),
    (direction_problems, "sim.golden.fire", "from sim.runner import run_bench\n", "imports sim.runner"),
    (style_problems, "sim.report", "import model\n", "import model: write from model import"),
    (style_problems, "sim.report", "import model.config as c\n", "write from model.config import"),
    (style_problems, "sim.report", "from .golden import run\n", "relative import"),
    (style_problems, "sim.report", "from numpy import *\n", "from numpy import *"),
    (style_problems, "hwgen.fire", "from __future__ import annotations\n", "would lose its ports"),
    (torch_problems, "quantize.network", "try:\n    import torch\nexcept ImportError:\n    pass\n", "imports torch"),
    (torch_problems, "sim.golden.fire", "def f():\n    from torch import nn\n", "imports torch"),
    (torch_problems, "hwgen.fire", "class A:\n    import torch.nn\n", "imports torch.nn"),
    (path_problems, "README.md", "see " + "/".join(("", "work", "main")), "names a path of one machine"),
    (path_problems, "x.py", "open('" + "/".join(("", "tmp", "x")) + "')", "names a path of one machine"),
    (size_problems, "x.py", "\n" * (LARGEST + 1), "451 lines"),
]
GOOD = [
    (direction_problems, "sim.report", "from sim.golden.fire import fire\nfrom hwgen.schedule import cycles\n"),
    (direction_problems, "hwgen.program", "import numpy\nfrom quantize.layers import Linear\n"),
    (style_problems, "hwgen.fire", "from amaranth.hdl import *\nfrom hwgen.config import Machine\n"),
    (torch_problems, "quantize.network", "def f():\n    import torch\n"),
    (torch_problems, "quantize.export", "import torch\n"),
    (torch_problems, "model.mst", "from torch import nn\n"),
    (path_problems, "x.md", "rtl/build/tmp/x.v a/work/b https://x.org/home/y $(X)/opt/x"),
    (size_problems, "x.py", "\n" * LARGEST),
]


@pytest.mark.parametrize(("rule", "name", "text", "complaint"), BAD)
def test_each_rule_can_complain(rule: object, name: str, text: str, complaint: str) -> None:
    found = rule(name, text)  # type: ignore[operator]
    assert len(found) >= 1 and complaint in found[0], found


@pytest.mark.parametrize(("rule", "name", "text"), GOOD)
def test_each_rule_can_be_content(rule: object, name: str, text: str) -> None:
    assert rule(name, text) == []  # type: ignore[operator]


@pytest.mark.parametrize("rule", [direction_problems, style_problems, torch_problems])
def test_our_modules_keep(rule: object) -> None:
    problems = [line for name, path in modules() for line in rule(name, path.read_text())]  # type: ignore[operator]
    assert not problems, "\n".join(problems)


def our_files() -> list[Path]:
    """Files that git tracks or would track; everything but what .gitignore names."""
    listing = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                             capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout: git ls-files says nothing about which files are ours")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("rule", [path_problems, size_problems])
def test_our_files_keep(rule: object) -> None:
    problems = []
    for path in our_files():
        if path.suffix in TEXT and (rule is path_problems or path.suffix == ".py"):
            problems += rule(str(path.relative_to(ROOT)), path.read_text(errors="replace"))  # type: ignore[operator]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_come_from_this_repository(package: str) -> None:
    found = importlib.import_module(package).__file__
    assert found is not None and Path(found).resolve().is_relative_to(ROOT), found


def test_the_main_job_imports_without_torch() -> None:
    """Also not by way of another module: all that the main job uses is imported where torch cannot be."""
    names = [name for name, _ in modules("hwgen", "sim", "firmware") if not name.endswith("__main__")]
    names = [name for name in names if not TORCH_AT_TOP.fullmatch(name)]  # studies of the float network
    names += ["model.config", "quantize.formats", "quantize.layers", "quantize.network"]
    code = ("import importlib, sys, traceback\nsys.modules['torch'] = None\n"
            "for name in sys.argv[1:]:\n    try: importlib.import_module(name)\n"
            "    except ModuleNotFoundError as error:\n"
            "        if error.name == 'torch': traceback.print_exc(); sys.exit(f'{name} needs torch')\n        raise\n")
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_tests_are_no_package() -> None:
    """pyverilog installs a top-level `tests`; ours must not be one."""
    assert not list((ROOT / "tests").rglob("__init__.py"))
