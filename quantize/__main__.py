"""Command line: `python -m quantize export | accuracy | sample`. Errors are one line on stderr and exit code 2."""
import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model import config as configuration
from model.command_line import command_line
from model.config import Config
from model.datasets import DATASETS, unpadded
from quantize.layers import Network
from quantize.measured import accuracy_file, measured

if TYPE_CHECKING:
    from model.spiking import SpikingNetwork

SAMPLE_IMAGES = 64
ACTIVITY_IMAGES = 16
AGREEMENT_IMAGES = 500
RESULTS = Path("runs") / "results"


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m quantize", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="trained checkpoint -> integer network file")
    accuracy = commands.add_parser("accuracy", help="accuracy and per-layer agreement with the float QCFS model")
    sample = commands.add_parser("sample",
                                 help=f"first {SAMPLE_IMAGES} test images -> <dataset>-sample.npz beside the configuration")
    for command in (export, accuracy, sample):
        command.add_argument("--config", required=True, type=Path, help="such as configs/cifar10-tiny.toml")
    for command in (export, accuracy):
        command.add_argument("--checkpoint", type=Path, help="trained network (default: beside the configuration)")
        command.add_argument("-o", "--output", type=Path, help="network file (default: beside the configuration)")
    for command in (accuracy, sample):
        command.add_argument("--data", help="folder that holds the data sets (default: $MST_DATA, or data)")
    accuracy.add_argument("--images", type=int, help="test images from the first on (default: all)")
    accuracy.add_argument("--agreement-images", type=int, default=AGREEMENT_IMAGES,
                          help=f"images of the agreement table (default: {AGREEMENT_IMAGES})")
    accuracy.add_argument("--results", type=Path, default=RESULTS, help=f"folder of the agreement table (default: {RESULTS})")
    accuracy.add_argument("--record", action="store_true",
                          help="also note the accuracy in the network file and in NAME.accuracy.json beside it")
    return top


def _write(path: Path, text: str) -> None:
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _notes(known: dict[str, object], digest: str) -> dict[str, object]:
    """Accuracies for the network file; the integer one only if it was measured on this very network."""
    if known.get("integer_network") != digest:
        known = {key: value for key, value in known.items() if not key.startswith("integer")}
    return {"accuracy": known} if known else {}


def _activity(network: Network, dataset: str, config: Path) -> dict[str, object]:
    """Activity on the committed sample images, for the network file; nothing where there are none."""
    from quantize.activity import activity
    sample = config.with_name(f"{dataset}-sample.npz")
    if not sample.is_file():
        return {}
    with np.load(sample, allow_pickle=False) as found:
        return {"activity": activity(network, unpadded(found["images"][:ACTIVITY_IMAGES], network.model.image_size))}


def _trained(path: Path) -> "tuple[SpikingNetwork, dict[str, Any]]":
    """The trained network of a checkpoint, and what it says of itself.

    An imported one of the authors' code is refused with what has no integer form.
    """
    from model.checkpoint import load
    from model.reference import files
    if files.is_reference(path):
        raise ValueError(f"{path}: an imported checkpoint has no integer form: " + "; ".join(files.unmappable(files.load(path))))
    return load(path)


def _export(args: argparse.Namespace, config: Config) -> None:
    from model import checkpoint
    from quantize.export import export, reports
    from quantize.network import digest, save
    if args.output is None:
        checkpoint.expect_own(config, "export")
    output = args.output or config.network
    trained, info = _trained(args.checkpoint or checkpoint.of(config))
    network = export(trained, config)
    for line in reports(trained, config):
        print(line)
    notes = _notes(measured(accuracy_file(config)), digest(network)) | _activity(network, config.train.dataset, args.config)
    network = dataclasses.replace(network, notes=notes, class_names=tuple(info.get("class_names", ())))
    changed = save(output, network)
    state = "written" if changed else "unchanged"
    print(f"{output}: {network.parameters} parameters, {len(network.layers)} layers, {state}")


def _accuracy(args: argparse.Namespace, config: Config) -> None:
    from model import checkpoint
    from model.data import fit, load_for
    from quantize.agreement import accuracies, agreement, table
    from quantize.export import export
    from quantize.network import digest, save
    from quantize.network import load as load_network
    output = args.output or config.network
    network = load_network(output)
    args.results.mkdir(parents=True, exist_ok=True)  # before the measurement, not behind it
    trained = args.checkpoint or checkpoint.of(config)
    mst, _ = _trained(trained)
    name = digest(network)
    if digest(export(mst, config)) != name:
        raise ValueError(f"{output}: is not the export of {trained}: run `python -m quantize export` first")
    data = load_for(config, False, args.data)
    count = len(data.images) if args.images is None else args.images
    if not 1 <= count <= len(data.images):
        raise ValueError(f"--images must be 1 to {len(data.images)}, not {count}")
    if args.record and count < len(data.images):
        raise ValueError(f"--record notes the accuracy on all {len(data.images)} test images, not on {count}: leave --images out")
    if args.agreement_images < 1:
        raise ValueError(f"--agreement-images must be at least 1, not {args.agreement_images}")
    pixels = fit(data.images[:count], config.model.in_channels, config.model.image_size)
    images, labels = pixels.permute(0, 2, 3, 1).contiguous().numpy(), data.labels[:count].numpy()
    real, integer = accuracies(mst, network, images, labels, progress=True)
    rows = agreement(mst.double(), network, images[:args.agreement_images], progress=True)
    count = min(args.agreement_images, count)
    options = ("" if len(images) == len(data.images) else f" --images {len(images)}") + (
        "" if args.agreement_images == AGREEMENT_IMAGES else f" --agreement-images {args.agreement_images}")
    lines = (f"Float QCFS {100 * real:.2f} %, integer network {100 * integer:.2f} % "
             f"({100 * (integer - real):+.2f} points) on {len(images)} test images.")
    _write(args.results / f"{config.name}-agreement.md", (
        f"# {config.name}: integer network against the float QCFS model\n\n"
        f"{DATASETS[config.train.dataset].citation}. {lines}\n\n"
        f"Share of equal spike counts on the first {count} test images, integers against float64. *This layer alone*:\n"
        "its inputs are the float model's counts, so that only its own rounding shows. Then with both networks\n"
        "running freely, where every difference is carried on by all later layers. Made by\n"
        f"`python -m quantize accuracy --config {args.config}{options}`.\n\n"
        f"{table(rows)}"))
    if args.record:
        known = measured(accuracy_file(config))
        known |= {"integer": integer, "integer_images": len(images), "integer_network": name}
        _write(accuracy_file(config), json.dumps(known, indent=1) + "\n")
        save(output, dataclasses.replace(network, notes=network.notes | _notes(known, name)))
    print(lines)
    if len(images) == len(data.images) and not args.record:
        print(f"{output} is left as it is: --record notes the accuracy in it")
    print(f"predicted class equal on {100 * rows[-1].equal:.2f} % of {count} images; "
          f"per layer: {args.results / f'{config.name}-agreement.md'}")


def _sample(args: argparse.Namespace, config: Config) -> None:
    from model.data import fit, load_for
    if DATASETS[config.train.dataset].events:
        raise ValueError(f"recordings of {config.train.dataset} are not shipped: `python -m sim run` reads them from MST_DATA")
    data = load_for(config, False, args.data)
    pixels = fit(data.images[:SAMPLE_IMAGES], config.model.in_channels, config.model.image_size)
    path = args.config.with_name(f"{config.train.dataset}-sample.npz")
    images = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    np.savez_compressed(path, images=images, labels=data.labels[:SAMPLE_IMAGES].numpy())
    print(f"{path}: first {len(images)} test images of {DATASETS[config.train.dataset].citation}")


@command_line()
def main(argv: list[str] | None = None) -> int:
    """Run one command; a bad configuration, checkpoint, network or data set gives one line and exit code 2."""
    args = parser().parse_args(argv)
    commands = {"export": _export, "accuracy": _accuracy, "sample": _sample}
    commands[args.command](args, configuration.load(args.config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
