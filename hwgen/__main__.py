"""Command line: `python -m hwgen emit | synth`. Errors are one line on stderr and exit code 2."""

import argparse
import sys
from pathlib import Path

from hwgen.config import machine_config
from hwgen.emit import Build, emit
from hwgen.program import CompileError, demands
from hwgen.schedule import layer_table
from hwgen.shapes import memory_shapes
from hwgen.synth import SynthError, add_arguments, report_text, synthesise
from hwgen.synth_devices import DEVICES
from hwgen.traffic import traffic_line
from model import config as configuration
from model.config import ConfigError
from quantize import network as network_file
from quantize.check import has_integer_form
from quantize.layers import NetworkError
from quantize.random_network import TRAINED, random_network


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m hwgen", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    emitting = commands.add_parser("emit", help="write Verilog, program, memory images and a file list")
    synth = commands.add_parser("synth", help="emit, then synthesise, place and route: size and clock on an FPGA")
    add_arguments(synth)
    for command in (emitting, synth):
        _network_arguments(command)
    return top


def _network_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", required=True, type=Path, help="such as configs/cifar10-tiny.toml")
    command.add_argument("--network", type=Path, help="network file (default: beside the configuration)")
    command.add_argument("--random-weights", type=int, metavar="SEED", help="an untrained network instead of a trained one")
    command.add_argument("--trained-activity", action="store_true", help="random weights that fire as trained ones do")
    command.add_argument("-o", "--output", type=Path, help="build folder (default: rtl/build/<config>)")


def print_build(build: Build) -> None:
    """What was compiled: per layer tiles, cycles, memory; then the machine's memories."""
    print(layer_table(build.program))
    used, machine = demands(build.program), build.machine
    print("memories: " + ", ".join(f"{name} {used[name]} of {getattr(machine, name)}" for name in used))
    if machine.memory_bits:
        print(traffic_line(build.program))
    bits = sum(width * depth for width, depth in memory_shapes(machine).values())
    print(
        f"loaded memory {bits / 8192:.0f} KiB; {build.verilog} {'written' if build.regenerated else 'is up to date'}; "
        f"build {build.build_id[:16]}"
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command."""
    args = parser().parse_args(argv)
    try:
        config = configuration.load(args.config)
        has_integer_form(config.model)
        machine = machine_config(config.machine)
        if args.random_weights is not None:
            network = random_network(config.model, args.random_weights, config.quantize,
                                     TRAINED if args.trained_activity else None)
        else:
            file = args.network or args.config.with_suffix(network_file.EXTENSION)
            network = network_file.load(file)
            if network.model != config.model:
                raise NetworkError(
                    f"{file}: its model differs from [model] of {args.config}: run make quantize CONFIG={args.config}"
                )
        build = emit(network, machine, config.masking, args.output or Path("rtl") / "build" / config.name)
        if args.command == "synth":
            device = DEVICES[args.device]
            print(report_text(synthesise(build, device, args.seeds, not args.no_route), device), end="")
        else:
            print_build(build)
    except (ConfigError, NetworkError, CompileError, SynthError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
