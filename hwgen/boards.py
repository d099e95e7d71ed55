"""`python -m hwgen.boards`: from a network file to a board's bitstream with the open tools, and onto the board.

Everything is built in `rtl/build/boards/<board>/`; a step whose inputs did not change is not run again (`hwgen.synth`), so an
interrupted run goes on where it was. Wrapper and constraints of a board lie in `rtl/boards/<board>/`.
"""
import argparse
import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from tqdm import tqdm

from hwgen import netlist, synth
from hwgen.emit import Build, emit
from hwgen.files import claimed, digest, json_text, write_if_changed
from hwgen.inputs import machine_of, network_arguments, network_name, read_inputs
from hwgen.packed import pack
from hwgen.schedule import predicted_cycles
from hwgen.synth import Routed, SynthError
from hwgen.synth_devices import ECP5, GW2A, Device
from hwgen.uart import divisor
from hwgen.uart_machine import UART_TOP, UartMachine
from hwgen.verilog import convert
from model.command_line import command_line
from model.config import Config
from quantize.layers import Network

ROOT = Path("rtl") / "build" / "boards"
FOLDER = Path("rtl") / "boards"
TOP = "top"


@dataclass(frozen=True, slots=True)
class Board:
    """A board that the open tools can configure. `pack`, `{bitstream}` and so on are filled in by `_flags`."""

    name: str
    title: str
    device: Device
    config: Path
    clock_hz: float
    """of the machine, behind the PLL"""
    baud: int
    constraints: str
    router: str
    route: tuple[str, ...]
    packer: str
    pack: tuple[str, ...]
    suffix: str
    loader: tuple[str, ...]
    """openFPGALoader's flags"""
    believed: bool = True
    """Whether the router's clock is to be believed; where not, it is reported as what it is and proves nothing."""

    @property
    def divisor(self) -> int:
        """Clock cycles of a UART bit."""
        return divisor(self.clock_hz, self.baud)


BOARDS: Mapping[str, Board] = {board.name: board for board in (
    Board("ulx3s", "Radiona ULX3S 85F (Lattice LFE5U-85F-6BG381C)", ECP5, Path("configs/ulx3s.toml"),
          clock_hz=80e6, baud=1_000_000, constraints="ulx3s.lpf", router="nextpnr-ecp5",
          route=("--85k", "--package", "CABGA381", "--speed", "6", "--freq", "{mhz}", "--timing-allow-fail",
                 "--seed", "{seed}", "--json", "netlist.json", "--lpf", "{constraints}", "--report", "{report}", "--textcfg",
                  "{placed}"),
          packer="ecppack", pack=("--compress", "--input", "{placed}", "--bit", "{bitstream}"), suffix=".bit",
          loader=("-b", "ulx3s")),
    Board("primer20k", "Sipeed Tang Primer 20K Dock (Gowin GW2A-LV18PG256C8/I7)", GW2A, Path("configs/primer20k.toml"),
          clock_hz=27e6, baud=115_200, constraints="primer20k.cst",
          router="nextpnr-himbaechel-gowin",
          route=("--device", "GW2A-LV18PG256C8/I7", "--vopt", "family=GW2A-18C", "--freq", "{mhz}", "--timing-allow-fail",
                  "--seed",
                 "{seed}", "--json", "netlist.json", "--vopt", "cst={constraints}", "--report", "{report}",
                  "--write", "{placed}"),
          packer="gowin_pack", pack=("-d", "GW2A-18C", "-o", "{bitstream}", "{placed}"), suffix=".fs",
          loader=("-b", "tangprimer20k"), believed=False),
)}

REPORT = """# {{ board.title }}: {{ report.network_name }}

{{ report.what }}. Command: `make bitstream BOARD={{ board.name }}{{ " CONFIG=" + report.config if report.config }}`.

| | |
|---|---|
| machine | {{ m.lanes }} lanes, {{ m.rows_per_cycle }} weight rows a cycle, {{ m.fire_lanes }} fire lanes, \
{{ m.attention_rows }} attention row(s), weights {{ m.weights }}, build {{ report.build_id[:16] }} |
| clock | {{ report.clock_mhz }} MHz asked; best seed {{ report.fmax_mhz }} MHz{{ "" if board.believed else " by nextpnr, \
whose figure for this family is not to be believed" }} |
{%- if report.cycles %}
| cycles an image | {{ "{:,}".format(report.cycles) }} (predicted at the activity that the network file records) |
| images a second | {{ "{:,.0f}".format(report.images_per_second) }} at {{ report.rate_mhz }} MHz; \
{{ "{:,.1f}".format(report.uart_images_per_second) }} where each image comes over the UART at \
{{ "{:,}".format(board.baud) }} baud |
{%- endif %}
{%- for name, label in labels %}
| {{ label }} | {{ "{:,}".format(report.used[name]) }} of {{ "{:,}".format(device.capacity[name]) }} ({{ "%.1f" % (100 * \
report.share[name]) }} %) |
{%- endfor %}
| multipliers | {{ report.used.multipliers }} |
| bitstream | {{ report.bitstream or "none: the clock was not met" }}{% if report.bitstream %}, \
{{ "{:,}".format(report.bytes) }} bytes{% endif %} |

| seed | MHz | seconds | critical path |
|---|---|---|---|
{%- for seed in report.seeds %}
| {{ seed.seed }} | {{ seed.fmax_mhz }} | {{ seed.seconds }} | {{ seed.path_ns }} ns, {{ seed.start }} -> {{ seed.end }} |
{%- endfor %}

Placed: {% for name, number in report.placed.items() %}{{ name }} {{ number }}{{ ", " if not loop.last }}{% endfor %}.
Versions: {% for name, version in report.versions.items() %}{{ name }} {{ version }}{{ "; " if not loop.last }}{% endfor %}.
"""


def bitstream(board: Board, network: Network, seeds: Sequence[int], config: Config, name: str, jobs: int = 1) -> dict[str, Any]:
    """Run what is not there yet, `jobs` seeds at once; returns (and writes as report.json, report.md) the report.

    It calls the network `name`. SynthError when a tool fails or is missing, or when no seed reaches the board's clock: then there
    is no bitstream.
    """
    folder = ROOT / board.name
    folder.mkdir(parents=True, exist_ok=True)
    yosys, router, packer = (synth.tool(name) for name in ("yosys", board.router, board.packer))
    versions = {Path(program).name: synth.version_of(program) for program in (yosys, router)}
    build = emit(network, machine_of(config), config.masking, folder / "machine")
    write_if_changed(folder / f"{UART_TOP}.v", convert(
        UartMachine(build.machine, build.id32, board.divisor, build.program.images), UART_TOP))
    write_if_changed(folder / "network.bin", pack(build.program, build.machine, config.masking, build.id32))
    sources = [folder / f"{UART_TOP}.v", FOLDER / board.name / "top.v"]
    constraints = FOLDER / board.name / board.constraints
    for path in (sources[1], constraints):
        shutil.copyfile(path, folder / path.name)
    script = board.device.script.format(top=TOP, json="netlist.json.part")
    command = [yosys, "-q", "-l", "yosys.log", "-p",
               f"read_verilog {' '.join(path.name for path in sources)}; {script}; tee -q -o cells.json stat -json"]
    with tqdm(total=1 + len(seeds), unit="step", desc=board.name, disable=not sys.stderr.isatty()) as bar:
        key = digest(*(path.read_bytes() for path in sources), repr(command[4:]), versions[Path(yosys).name])
        ecp5 = board.device is ECP5
        key = digest(key, Path(netlist.__file__).read_bytes() if ecp5 else b"")
        seconds = synth.run_step(folder, "netlist.json", key, lambda: synth.make_netlist(command, folder, TOP, ecp5))
        bar.update()
        placing = digest(key, constraints.read_bytes(), versions[Path(router).name])

        def placed_and_routed(seed: int) -> Routed:
            found = _route(board, folder, router, seed, placing)
            bar.update()
            return found

        routed = synth.each_seed(placed_and_routed, seeds, jobs)
    best = max(routed, key=lambda result: result.fmax_mhz)
    met = best.fmax_mhz >= board.clock_hz / 1e6
    report = _report(board, name, build, folder, routed, best, versions, seconds)
    report["config"] = "" if config.file in (None, board.config) else str(config.file)
    target = folder / f"{board.name}{board.suffix}"
    target.unlink(missing_ok=True)  # of another network, or of a clock that was met
    if met:
        synth.run_tool([packer, *_flags(board, board.pack, best.seed)], folder, "pack.log")
        report |= {"bitstream": target.name, "bytes": target.stat().st_size}
    write_if_changed(folder / "report.json", json_text(report))
    write_if_changed(folder / "report.md", report_text(report, board))
    if not met:
        raise SynthError(f"{board.name}: the best of seeds {', '.join(map(str, seeds))} reaches {best.fmax_mhz} MHz, not "
                         f"{board.clock_hz / 1e6:g} (critical: {best.start} -> {best.end}): try others with "
                         "--seeds 4,5,6")
    return report


def _flags(board: Board, flags: tuple[str, ...], seed: int) -> list[str]:
    return [flag.format(mhz=f"{board.clock_hz / 1e6:g}", seed=seed, constraints=board.constraints,
                        report=f"route-{seed}.json.part",
                        placed=f"route-{seed}.placed", bitstream=f"{board.name}{board.suffix}") for flag in flags]


def _route(board: Board, folder: Path, router: str, seed: int, key: str) -> Routed:
    flags = _flags(board, board.route, seed)
    if not (folder / f"route-{seed}.placed").exists():
        (folder / f"route-{seed}.json").unlink(missing_ok=True)
    taken = synth.run_step(folder, f"route-{seed}.json", digest(key, repr(flags)),
                           lambda: synth.run_tool([router, *flags], folder, f"place-{seed}.log"))
    return synth.routed_of(folder, seed, taken)


def _report(board: Board, name: str, build: Build, folder: Path, routed: Sequence[Routed], best: Routed,
            versions: dict[str, str], seconds: float) -> dict[str, Any]:
    cells = synth.cells_of(folder / "cells.json")
    used = board.device.count(cells)
    if used["multipliers"]:
        raise SynthError(f"{board.name}: {used['multipliers']} multiplier cells in {folder / 'cells.json'}: the machine has none")
    cycles = predicted_cycles(build.program)
    met = not board.believed or best.fmax_mhz >= board.clock_hz / 1e6
    rate_hz = board.clock_hz if met else best.fmax_mhz * 1e6  # a clock that was not met promises nothing
    model = build.program.network.model
    beats = -(-model.patch**2 * model.in_channels // build.machine.bus_bytes)
    wire_bytes = model.side(0) ** 2 * beats * build.machine.bus_bytes  # of the image alone
    return {
        "board": board.name, "part": board.device.part, "what": "Synthesis, place and route with open tools",
        "network_name": name, "build_id": build.build_id, "machine": dataclasses.asdict(build.machine),
        "clock_mhz": board.clock_hz / 1e6, "fmax_mhz": best.fmax_mhz, "fmax_believed": board.believed, "best_seed": best.seed,
        "seeds": [dataclasses.asdict(result) for result in routed], "cycles": cycles,
        "rate_mhz": rate_hz / 1e6, "images_per_second": rate_hz / cycles if cycles else None,
        "uart_images_per_second": 1 / (wire_bytes * 10 / board.baud + cycles / rate_hz) if cycles else None,
        "used": used, "share": {name: round(used[name] / size, 4) for name, size in board.device.capacity.items()},
        "cells": cells,
        "placed": synth.utilisation(folder / f"route-{best.seed}.json"), "versions": versions, "synthesis_seconds": seconds,
        "bitstream": "", "bytes": 0}


def report_text(report: dict[str, Any], board: Board) -> str:
    """The report for people (Markdown)."""
    labels = [("luts", "LUTs"), ("registers", "registers"), ("block_rams", f"block RAMs ({board.device.block_ram})")]
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(REPORT)
    return template.render(board=board, device=board.device, report=report, m=report["machine"], labels=labels)


def program(board: Board) -> None:
    """Load the bitstream into the board; SynthError when there is none, or no openFPGALoader."""
    file = ROOT / board.name / f"{board.name}{board.suffix}"
    if not file.is_file():
        raise SynthError(f"{board.name}: no {file}: run make bitstream BOARD={board.name}")
    loader = shutil.which("openFPGALoader")
    if loader is None:
        raise SynthError("openFPGALoader was not found: apt-get install openfpgaloader")
    done = subprocess.run([loader, *board.loader, str(file)], check=False)
    if done.returncode:
        raise SynthError(f"openFPGALoader failed ({done.returncode}): is the board connected, and may you use its USB device?")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    top = argparse.ArgumentParser(prog="python -m hwgen.boards", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    making = commands.add_parser("bitstream", help="emit, synthesise, place and route, pack: the bitstream and its report")
    loading = commands.add_parser("program", help="load the bitstream into the board with openFPGALoader")
    for command in (making, loading):
        command.add_argument("--board", choices=sorted(BOARDS), default="ulx3s", help="default: ulx3s")
    synth.seed_arguments(making)
    network_arguments(making, config="the board's, configs/<board>.toml")
    return top.parse_args(argv)


@command_line(SynthError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an error is one line and exit code 2."""
    args = _arguments(argv)
    board = BOARDS[args.board]
    if args.command == "program":
        program(board)
        return 0
    args.config = args.config or board.config
    config, _, network = read_inputs(args)
    with claimed(ROOT / board.name):
        report = bitstream(board, network, args.seeds, config, network_name(config, args), args.jobs)
    print(report_text(report, board), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
