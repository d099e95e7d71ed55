"""Command line: `python -m sim.soc --config ...`: firmware on a RISC-V SoC in RTL simulation. Errors: one line, exit code 2."""
import argparse
import sys
from pathlib import Path

from firmware.build import FirmwareError
from hwgen.files import claimed
from hwgen.inputs import network_arguments, read_inputs
from model.command_line import command_line
from model.datasets import unpadded
from quantize.random_network import random_images
from sim.images import load, sample
from sim.runner import SimulationFailed, SimulatorMissing
from sim.soc.run import SocError, simulate_soc


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m sim.soc", description=__doc__)
    network_arguments(top)
    top.add_argument("--images", type=int, default=2, help="images to classify (default: 2)")
    top.add_argument("--images-file", type=Path, help="images (default: the committed sample of the configuration's data set)")
    top.add_argument("--mishaps", action="store_true", help="also repeat images between aborts and errors")
    top.add_argument("-o", "--output", type=Path, help="build folder (default: rtl/build/<config>-soc)")
    return top


@command_line(FirmwareError, SocError, SimulatorMissing, SimulationFailed)
def main(argv: list[str] | None = None) -> int:
    """Run the SoC; 0 when its UART agrees with the golden model, 1 when not, 2 when it cannot be run."""
    args = parser().parse_args(argv)
    if args.images < 1:
        raise SocError(f"--images must be at least 1, not {args.images}")
    config, machine, network = read_inputs(args)
    file = args.images_file or sample(config)
    random = args.random_weights is not None and args.images_file is None
    images = random_images(config.model, 1, args.images) if random else \
        unpadded(load(file, args.images)[0], config.model.image_size)
    wanted = (config.model.image_size, config.model.image_size, config.model.in_channels)
    if images.shape[1:] != wanted:
        raise SocError(f"{file}: images are {list(images.shape[1:])}, the network takes {list(wanted)}: give --images-file")
    folder = args.output or Path("rtl") / "build" / f"{config.name}-soc"
    with claimed(folder):
        run = simulate_soc(network, machine, config.masking, images, folder, mishaps=args.mishaps,
                           echo=lambda line: print(f"uart: {line}", flush=True))
    for failure in run.failures:
        print(failure)
    verdict = "PASS" if run.passed else "FAIL"
    print(f"{verdict} {len(run.images)} classifications on the SoC, {len(run.failures)} differences from the golden model")
    return 0 if run.passed else 1


if __name__ == "__main__":
    sys.exit(main())
