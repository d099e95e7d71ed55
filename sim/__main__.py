"""Command line: `python -m sim run | verify-all | golden | report | matrix`. Exit code 1: a mismatch; 2: an error in one line."""

import argparse
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwgen.files import claimed
from hwgen.inputs import machine_of, network_of
from model import config as configuration
from model import datasets
from model.command_line import command_line
from model.config import Config, ConfigError
from model.dataset import expect_labels
from model.masking import SpikeMask
from quantize.random_network import random_images
from sim import images as image_files
from sim.host import HostError
from sim.runner import SimulationFailed, SimulatorMissing, find_simulator

DEFAULT_IMAGES = 16


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m sim", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="simulate the generated RTL and compare every layer with the golden model")
    every = commands.add_parser("verify-all", help="the whole test set through the compiled RTL, bit by bit; resumable")
    single = commands.add_parser("single", help="one image through the compiled RTL, saved layer by layer; for large networks")
    golden = commands.add_parser("golden", help="classify images with the golden model alone")
    report = commands.add_parser("report", help="write report.md again from the last run's report.json")
    matrix = commands.add_parser("matrix", help="many untrained networks of every shape on one machine, bit by bit")
    matrix.add_argument("--lanes", type=int, default=16, help="lanes of the machine (default: 16)")
    matrix.add_argument("--fire-lanes", type=int, default=8, help="fire lanes of the machine (default: 8)")
    matrix.add_argument("--attention-rows", type=int, default=2, help="attention rows of the machine (default: 2)")
    matrix.add_argument("--rows-per-cycle", type=int, default=2, help="weight rows read a cycle (default: 2)")
    matrix.add_argument("--images", type=int, default=1, help="images for each network (default: 1)")
    matrix.add_argument("--cases", nargs="*", help="only these networks")
    every.add_argument("--processes", type=int, help="simulations at a time (default: one a core)")
    every.add_argument("--every", type=int, default=100, help="compare all layers of every so many images (default: 100)")
    every.add_argument("--data", type=Path, help="folder of the data sets (default: MST_DATA, else data)")
    every.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True, help="go on where an earlier run ended")
    single.add_argument("--latency", type=int, default=60, help="of external memory, in cycles (default: 60)")
    single.add_argument("--bandwidth", type=_beats, default=Fraction(1), help="of external memory, beats a cycle (default: 1)")
    for command in (run, every, single, golden, report):
        command.add_argument("--config", required=True, type=Path, help="such as configs/cifar10-tiny.toml")
    for command in (run, every, single, golden):
        command.add_argument("--network", type=Path, help="network file (default: beside the configuration)")
        command.add_argument("--random-weights", type=int, metavar="SEED", help="an untrained network instead of a trained one")
        command.add_argument("--trained-activity", action="store_true", help="random weights that fire as trained ones do")
        command.add_argument("--images", type=int, help=f"number of images (default: {DEFAULT_IMAGES}; verify-all: all)")
        command.add_argument("--images-file", type=Path, help=".npz with `images` uint8 [N, H, W, C] and `labels`")
        command.add_argument("--mask", type=float, help="spike mask ratio in place of the configuration's")
    golden.add_argument("--steps", type=int, help="time steps of `stepwise` mode (default: `exact` mode)")
    run.add_argument("--sim", default="verilator", help="verilator or icarus")
    run.add_argument("--steps", type=int, help="time steps of a machine with firing = \"stepwise\" (default: all that it has)")
    run.add_argument("--waves", action="store_true", help="write a waveform")
    for command in (run, every, single):
        command.add_argument("--build", type=Path, help="build folder (default: rtl/build/<config>)")
    return top


def _beats(text: str) -> Fraction:
    try:
        return Fraction(text)
    except ZeroDivisionError:
        raise argparse.ArgumentTypeError(f"not a number of beats a cycle: {text!r}") from None


def load_images(config: Config, args: argparse.Namespace) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    """Images uint8 [B, H, W, C] and their labels (None for random ones)."""
    count = DEFAULT_IMAGES if args.images is None else args.images
    if count < 1:
        raise ConfigError(f"--images must be at least 1, not {count}")
    if args.random_weights is not None and args.images_file is None:
        return random_images(config.model, args.random_weights, count), None
    images, labels = image_files.of(config, count) if args.images_file is None else image_files.load(args.images_file, count)
    expect_labels(labels, config.model.classes, args.images_file or config.train.dataset)
    return images, labels


def load_test_set(config: Config, args: argparse.Namespace) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    """The first `--images` images (all, by default) of the data set's official test part, fitted to the network."""
    if args.random_weights is not None or args.images_file is not None:
        return load_images(config, args)
    pictures, labels = datasets.read_for(config, False, args.data)
    images = datasets.fitted(pictures, config.model.in_channels, config.model.image_size)
    count = len(images) if args.images is None else args.images
    if not 1 <= count <= len(images):
        raise ConfigError(f"--images must be 1 to {len(images)}, the size of the test set, not {count}")
    return images[:count], labels[:count]


def _verify_all(args: argparse.Namespace) -> int:
    from hwgen.emit import emit
    from sim.fast.verify_all import verify_all
    from sim.run import BUILD_ROOT, masked_config

    config = configuration.load(args.config)
    network = network_of(config, args)
    masking = masked_config(config, args.mask)
    images, labels = load_test_set(config, args)
    find_simulator()  # before any long work
    folder = args.build or BUILD_ROOT / config.name
    print(f"{config.name}: {len(images)} images, mask ratio {_ratio(config, args)}; building in {folder}", flush=True)
    with claimed(folder / "sim"):
        build = emit(network, machine_of(config), config.masking, folder)
        summary = verify_all(build, network, masking, images, labels, ratio=args.mask, every=args.every,
                             processes=args.processes, resume=args.resume)
    for failure in summary.failures[:10]:
        print(f"  {failure}")
    if summary.correct is not None:
        print(f"RTL: {summary.correct}/{summary.images} images classified correctly")
    print(summary.line())
    return 0 if summary.passed else 1


def _single(args: argparse.Namespace) -> int:
    from hwgen.emit import emit
    from hwgen.timeline import MemoryTiming
    from sim.fast.single import run_single
    from sim.run import BUILD_ROOT, masked_config
    from sim.traffic import write_single_report

    if args.images not in (None, 1):
        raise ConfigError(f"single runs one image, not {args.images}: take run or verify-all for more")
    timing = MemoryTiming(args.latency, args.bandwidth)
    config = configuration.load(args.config)
    network = network_of(config, args)
    args.images = 1
    images, _ = load_images(config, args)
    find_simulator()  # before any long work
    folder = args.build or BUILD_ROOT / config.name
    print(f"{config.name}: one image, mask ratio {_ratio(config, args)}; building in {folder}", flush=True)
    with claimed(folder / "sim"):
        build = emit(network, machine_of(config), config.masking, folder)
        found = run_single(build, images[0], masked_config(config, args.mask), ratio=args.mask, timing=timing)
    for failure in found.verdict.failures[:10]:
        print(f"  {failure}")
    print(f"report: {write_single_report(build, found, timing)}")
    print(found.verdict.line())
    return 1 if found.verdict.failures else 0


def _run(args: argparse.Namespace) -> int:
    from sim.report import write_report
    from sim.run import BUILD_ROOT, simulate

    config = configuration.load(args.config)
    network = network_of(config, args)
    images, labels = load_images(config, args)
    folder = args.build or BUILD_ROOT / config.name
    find_simulator(args.sim)  # before any long work
    begin = time.monotonic()
    print(f"{config.name}: {len(images)} images, mask ratio {_ratio(config, args)}, {args.sim}; building in {folder}", flush=True)
    outcome = simulate(config, network, images, ratio=args.mask, simulator=args.sim, waves=args.waves, folder=folder,
                       steps=args.steps)
    for failure in outcome.verdict.failures[:10]:
        print(f"  {failure}")
    if labels is not None:
        steps = outcome.verdict.steps
        print(f"golden model: {int((outcome.trace.classes[steps - 1::steps] == labels).sum())}/{len(labels)} images "
              "classified correctly")
    write_report(outcome, config, folder)
    if outcome.waveform:
        print(f"waveform: {outcome.waveform} (open it with GTKWave or Surfer)")
    print(f"report: {folder / 'report.md'}  ({time.monotonic() - begin:.0f} s)")
    print(outcome.verdict.line())
    return 1 if outcome.verdict.failures else 0


def _golden(args: argparse.Namespace) -> int:
    from sim.golden.network import run
    from sim.golden.stepwise import run_stepwise

    config = configuration.load(args.config)
    network = network_of(config, args)
    images, labels = load_images(config, args)
    from sim.run import masked_config

    mask = SpikeMask.of(masked_config(config, args.mask))
    if args.steps is None:
        classes = run(network, images, mask=mask, keep=False).classes
    else:
        classes = run_stepwise(network, images, args.steps, mask=mask).classes[-1]
    for index, chosen in enumerate(classes):
        known = "" if labels is None else f"  label {labels[index]}"
        print(f"image {index}: class {chosen}{known}")
    if labels is not None:
        print(f"{int((classes == labels).sum())}/{len(labels)} correct")
    return 0


def _report(args: argparse.Namespace) -> int:
    from sim.report import render_again
    from sim.run import BUILD_ROOT

    config = configuration.load(args.config)
    print(render_again(BUILD_ROOT / config.name))
    return 0


def _matrix(args: argparse.Namespace) -> int:
    from hwgen.config import MachineConfig
    from sim.matrix import CASES, run_matrix
    from sim.run import BUILD_ROOT

    base = MachineConfig(
        lanes=args.lanes, fire_lanes=args.fire_lanes, attention_rows=args.attention_rows, rows_per_cycle=args.rows_per_cycle
    )
    known = {case.name: case for case in CASES}
    names = args.cases or list(known)
    for name in names:
        if name not in known:
            raise ConfigError(f"--cases: no network {name!r}; known: {', '.join(known)}")
    bad = 0
    folder = BUILD_ROOT / f"matrix-{args.lanes}-{args.fire_lanes}-{args.attention_rows}-{args.rows_per_cycle}"
    for case, outcome in run_matrix([known[name] for name in names], base, folder, args.images):
        bad += bool(outcome.verdict.failures)
        print(f"{case.name:<14} mask {case.ratio:<7} {outcome.verdict.line()}", flush=True)
    print(f"{len(names) - bad} passed, {bad} failed")
    return int(bad > 0)


def _ratio(config: Config, args: argparse.Namespace) -> str:
    if args.mask is not None or not config.masking.ratios:
        return str(config.masking.ratio if args.mask is None else args.mask)
    return ", ".join(f"{name} {ratio}" for name, ratio in config.masking.ratios) + f", else {config.masking.ratio}"


@command_line(SimulatorMissing, SimulationFailed, HostError)
def main(argv: list[str] | None = None) -> int:
    """Run one command."""
    args = parser().parse_args(argv)
    commands = {"run": _run, "verify-all": _verify_all, "single": _single, "golden": _golden, "report": _report,
                "matrix": _matrix}
    return commands[args.command](args)


if __name__ == "__main__":
    sys.exit(main())
