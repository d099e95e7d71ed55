"""Command line: `python -m sim.uart --config C`: a board in simulation and its network, for `mst-host --port sim:...`."""
import argparse
import sys
from pathlib import Path

from hwgen.config import machine_config
from hwgen.emit import emit
from hwgen.packed import pack
from hwgen.program import CompileError
from model import config as configuration
from quantize import network as network_file
from quantize.random_network import random_network
from sim.run import BUILD_ROOT
from sim.runner import SimulationFailed, SimulatorMissing, find_simulator
from sim.uart import build


def main(argv: list[str] | None = None) -> int:
    """Build; errors are one line and exit code 2."""
    top = argparse.ArgumentParser(prog="python -m sim.uart", description=__doc__)
    top.add_argument("--config", required=True, type=Path, help="such as configs/cifar10-tiny.toml")
    top.add_argument("--network", type=Path, help="network file (default: beside the configuration)")
    top.add_argument("--random-weights", type=int, metavar="SEED", help="an untrained network instead of a trained one")
    args = top.parse_args(argv)
    try:
        find_simulator()
        config = configuration.load(args.config)
        network = random_network(config.model, args.random_weights, config.quantize) if args.random_weights is not None else \
            network_file.load(args.network or args.config.with_suffix(network_file.EXTENSION))
        made = emit(network, machine_config(config.machine), config.masking, BUILD_ROOT / config.name)
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
