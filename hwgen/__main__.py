"""Command line: `python -m hwgen emit | synth | registers`. Errors are one line on stderr and exit code 2."""

import argparse
import math
import sys
from pathlib import Path

from hwgen import register_files
from hwgen.emit import Build, check_name, emit, emit_mmio, emit_named
from hwgen.files import claimed
from hwgen.inputs import network_arguments, read_inputs
from hwgen.program import demands
from hwgen.schedule import layer_table, rate_line
from hwgen.shapes import memory_shapes
from hwgen.synth import FREQUENCY_MHZ, SynthError, add_arguments, report_text, synthesise
from hwgen.synth_devices import DEVICES
from hwgen.traffic import traffic_line
from model.command_line import command_line


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m hwgen", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    emitting = commands.add_parser("emit", help="write Verilog, program, memory images and a file list")
    synth = commands.add_parser("synth", help="emit, then synthesise, place and route: size and clock on an FPGA")
    add_arguments(synth)
    emitting.add_argument("--mmio", action="store_true", help="also mst_mmio.v: the machine behind a stream window")
    emitting.add_argument("--clock", type=clock_mhz, default=FREQUENCY_MHZ, metavar="MHZ",
                          help=f"clock at which the prediction is told as a time (default: {FREQUENCY_MHZ}, what synth aims at)")
    emitting.add_argument("--name", metavar="NAME", help="also NAME.v: the machine with all its modules named after NAME, for a "
                          "design that holds several")
    for command in (emitting, synth):
        network_arguments(command)
        _output_argument(command)
    registers = commands.add_parser("registers", help="write the C header, Python map and document of the registers")
    registers.add_argument("--check", action="store_true", help="write nothing; exit code 2 when a file is not up to date")
    return top


def _output_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("-o", "--output", type=Path, help="build folder (default: rtl/build/<config>)")


def clock_mhz(text: str) -> float:
    """A clock in MHz, above 0; ArgumentTypeError."""
    try:
        clock = float(text)
    except ValueError:
        clock = math.nan
    if not 0 < clock < math.inf:
        raise argparse.ArgumentTypeError(f"--clock takes a number of MHz above 0, such as {FREQUENCY_MHZ}, not {text!r}")
    return clock


def print_build(build: Build, clock: float) -> None:
    """What was compiled: per layer tiles, cycles, memory; the time of an image at `clock` MHz; then the machine's memories."""
    print(layer_table(build.program))
    print(rate_line(build.program, clock))
    used, machine = demands(build.program), build.machine
    print("memories: " + ", ".join(f"{name} {used[name]} of {getattr(machine, name)}" for name in used))
    if machine.memory_bits:
        print(traffic_line(build.program))
    bits = sum(width * depth for width, depth in memory_shapes(machine).values())
    print(
        f"loaded memory {bits / 8192:.0f} KiB; {build.verilog} {'written' if build.regenerated else 'is up to date'}; "
        f"build {build.build_id[:16]}"
    )


def registers_command(check: bool) -> int:
    """Write the generated files, or only compare them."""
    if check:
        stale = register_files.stale()
        if stale:
            names = ", ".join(str(path.relative_to(register_files.ROOT)) for path in stale)
            print(f"{names}: not as hwgen/registers.py says: run make regs", file=sys.stderr)
        return 2 if stale else 0
    for path in register_files.write():
        print(f"{path.relative_to(register_files.ROOT)} written")
    return 0


@command_line(SynthError)
def main(argv: list[str] | None = None) -> int:
    """Run one command."""
    args = parser().parse_args(argv)
    if args.command == "registers":
        return registers_command(args.check)
    if args.command == "emit" and args.name is not None:
        check_name(args.name)
    config, machine, network = read_inputs(args)
    build = emit(network, machine, config.masking, args.output or Path("rtl") / "build" / config.name)
    if args.command == "synth":
        device = DEVICES[args.device]
        with claimed(build.folder / f"synth-{device.name}"):
            report = synthesise(build, device, args.seeds, not args.no_route, args.jobs)
        print(report_text(report, device), end="")
    else:
        print_build(build, args.clock)
        mmio = emit_mmio(build) if args.mmio else None
        if mmio:
            print(f"{mmio}: behind a stream window")
        for file in emit_named(build, args.name, mmio) if args.name is not None else ():
            print(f"{file}: the same, named after {args.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
