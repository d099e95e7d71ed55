"""Command line: `python -m firmware pack | build`. Errors are one line on stderr and exit code 2."""
import argparse
import json
import sys
from pathlib import Path

from firmware.build import PREFIX, FirmwareError, driver, host_compiler, size_of, soc_image
from hwgen.config import MachineConfig
from hwgen.files import write_if_changed
from hwgen.inputs import ConfigError, command_line, network_arguments, read_inputs
from hwgen.packed import EXTENSION, PackedError, compiled, pack


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m firmware", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="compile a network into one file that mst_load (firmware/mst.h) takes")
    network_arguments(packing)
    packing.add_argument("--machine", type=Path, metavar="MANIFEST", help="pack for the machine that is on the board: the "
                         "manifest.json of its build (default: the machine of --config)")
    packing.add_argument("-o", "--output", type=Path, help=f"file (default: rtl/build/<config>/network{EXTENSION})")
    building = commands.add_parser("build", help="compile driver and SoC firmware, tell their sizes")
    building.add_argument("-o", "--output", type=Path, default=Path("rtl") / "build" / "firmware", help="build folder")
    return top


def build_command(args: argparse.Namespace) -> None:
    """Compile for this machine, then for rv32."""
    print(f"driver, {host_compiler()}: {size_of(driver(args.output, False), 'size')}")
    print(f"driver, rv32im: {size_of(driver(args.output, True), f'{PREFIX}size')}")
    elf = soc_image(args.output)
    print(f"SoC firmware, rv32im: {size_of(elf, f'{PREFIX}size')}; {elf}")


def board_machine(manifest: Path) -> tuple[MachineConfig, int]:
    """(sized machine, BUILD_ID) of a build's manifest; PackedError when it is not one."""
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
        return MachineConfig(**found["machine"]), int(found["design_id"][:8], 16)
    except FileNotFoundError:
        raise PackedError(f"{manifest}: no such manifest: python -m hwgen emit writes it into the build folder") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ConfigError) as error:
        raise PackedError(f"{manifest}: not a build's manifest ({str(error).splitlines()[0]}): give the manifest.json that "
                          "python -m hwgen emit wrote") from None


def pack_command(args: argparse.Namespace) -> None:
    """Compile, pack, write."""
    config, machine, network = read_inputs(args)
    build_id = None
    if args.machine is not None:
        machine, build_id = board_machine(args.machine)
    program, machine, design_id = compiled(network, machine, config.masking)
    if build_id is None:
        build_id = int(design_id[:8], 16)
    elif machine.weights == "initialised" and build_id != int(design_id[:8], 16):
        raise PackedError(f"{args.machine}: its weights are built in, and are not those of this network: build the board again")
    data = pack(program, machine, config.masking, build_id)
    target = args.output or Path("rtl") / "build" / config.name / f"network{EXTENSION}"
    try:
        write_if_changed(target, data)
    except OSError as error:
        raise PackedError(f"{target}: cannot be written ({error.strerror}): give another -o") from None
    print(f"{target}: {len(data)} bytes, {network.model.image_size}x{network.model.image_size}x{network.model.in_channels} "
          f"-> {network.model.classes} classes, for build {build_id:#010x}")


@command_line(FirmwareError)
def main(argv: list[str] | None = None) -> int:
    """Run one command."""
    args = parser().parse_args(argv)
    pack_command(args) if args.command == "pack" else build_command(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
