"""Command line: `python -m sim.uart --config C`: a board in simulation and its network, for `mst-host --port sim:...`."""
import argparse
import sys

from hwgen.emit import emit
from hwgen.files import claimed
from hwgen.inputs import network_arguments, read_inputs
from hwgen.packed import pack
from model.command_line import command_line
from sim.run import BUILD_ROOT
from sim.runner import SimulationFailed, SimulatorMissing, find_simulator
from sim.uart import build
from sim.uart.pty import PtyBoard


@command_line(SimulatorMissing, SimulationFailed)
def main(argv: list[str] | None = None) -> int:
    """Build; errors are one line and exit code 2."""
    top = argparse.ArgumentParser(prog="python -m sim.uart", description=__doc__)
    network_arguments(top)
    top.add_argument("--pty", action="store_true", help="then run it as a serial port of this computer, until Ctrl-C")
    args = top.parse_args(argv)
    find_simulator()
    config, machine, network = read_inputs(args)
    folder = BUILD_ROOT / config.name
    with claimed(folder / "sim"):
        made = emit(network, machine, config.masking, folder)
        program = build(made)
    packed = made.folder / "network.bin"
    packed.write_bytes(pack(made.program, made.machine, config.masking, made.id32))
    if not args.pty:
        print(f"{program} and {packed}; next: mst-host classify IMAGE.png --network {packed} --port sim:{program}")
        return 0
    with PtyBoard(program) as board:
        print(f"{program} at {board.port}, until Ctrl-C; in another terminal:\n"
              f"mst-host classify IMAGE.png --network {packed} --port {board.port} --timeout 30", flush=True)
        try:
            board.wait()
        except KeyboardInterrupt:
            return 0
        print(board.error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
