"""Command line: `python -m sim.uart --config C`: a board in simulation and its network, for `mst-host --port sim:...`."""
import argparse
import sys

from hwgen.emit import emit
from hwgen.inputs import network_arguments, read_inputs
from hwgen.packed import pack
from hwgen.program import CompileError
from sim.run import BUILD_ROOT
from sim.runner import SimulationFailed, SimulatorMissing, find_simulator
from sim.uart import build


def main(argv: list[str] | None = None) -> int:
    """Build; errors are one line and exit code 2."""
    top = argparse.ArgumentParser(prog="python -m sim.uart", description=__doc__)
    network_arguments(top)
    args = top.parse_args(argv)
    try:
        find_simulator()
        config, machine, network = read_inputs(args)
        made = emit(network, machine, config.masking, BUILD_ROOT / config.name)
        program = build(made)
        packed = made.folder / "network.bin"
        packed.write_bytes(pack(made.program, made.machine, config.masking, made.id32))
    except (ValueError, CompileError, SimulatorMissing, SimulationFailed, OSError) as error:
        print(f"{error}".splitlines()[0], file=sys.stderr)
        return 2
    print(f"{program} and {packed}; next: mst-host classify IMAGE.png --network {packed} --port sim:{program}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
