"""Command line: `python -m sim.fast bench --config C`: the compiled path against the cocotb bench, as JSON."""
import argparse
import json
import sys
from pathlib import Path

from model import config as configuration
from model.command_line import command_line
from quantize import network as network_file
from sim import images as image_files
from sim.fast.bench import COCOTB_IMAGES, speedup
from sim.run import BUILD_ROOT
from sim.runner import SimulationFailed, SimulatorMissing


@command_line(SimulatorMissing, SimulationFailed)
def main(argv: list[str] | None = None) -> int:
    """Run the comparison; an error is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m sim.fast", description=__doc__)
    bench = parser.add_subparsers(dest="command", required=True).add_parser("bench", help="images per second of both")
    bench.add_argument("--config", required=True, type=Path, help="such as configs/cifar10-tiny.toml")
    bench.add_argument("--processes", type=int, help="of the compiled path, at a time (default: one a core)")
    args = parser.parse_args(argv)
    config = configuration.load(args.config)
    network = network_file.load(config.network)
    images, _ = image_files.of(config, COCOTB_IMAGES)
    found = speedup(config, network, images, folder=BUILD_ROOT / config.name, processes=args.processes)
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
