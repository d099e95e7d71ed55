"""`mst-host`: classify pictures on a board, or in simulation. Errors are one line on stderr and exit code 2."""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from firmware.host.driver import HostError
from firmware.host.link import RETRIES, TIMEOUT, LinkBus
from firmware.host.png import PngError, read_header, read_png
from firmware.host.ports import FORMS
from firmware.host.serial_port import BAUD
from firmware.host.session import Session, load_file

NETWORK = Path("network.bin")


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="mst-host", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    classify = commands.add_parser("classify", help="load the network, classify PNG pictures: class, logit and cycles of each")
    classify.add_argument("images", nargs="+", type=Path, metavar="IMAGE.png", help="pictures of the network's size")
    classify.add_argument("--network", type=Path, default=NETWORK, help="packed network (default: network.bin)")
    classify.add_argument("--logits", action="store_true", help="print every logit")
    classify.add_argument("--steps", type=int, help="time steps of a machine that fires step by step (default: all that it has)")
    for name, text in (("probe", "what the machine is"), ("counters", "counters of its last run"),
                       ("clear", "end what is under way, clear errors")):
        commands.add_parser(name, help=text)
    for command in commands.choices.values():
        command.add_argument("--port", required=True, help=FORMS)
        command.add_argument("--baud", type=int, default=BAUD, help=f"of a serial port (default: {BAUD})")
        command.add_argument("--timeout", type=float, default=TIMEOUT, help=f"seconds for an answer (default: {TIMEOUT})")
        command.add_argument("--retries", type=int, default=RETRIES, help=f"of an unanswered request (default: {RETRIES})")
    return top


def picture(path: Path, side: int, channels: int) -> NDArray[np.uint8]:
    """The picture as the network takes it, uint8 [side, side, channels]; gray is repeated, equal channels are joined.

    HostError names the file, its size and the remedy.
    """
    header = read_header(path)  # before the picture is unpacked: a large one takes its time
    if (header.width, header.height) != (side, side):
        raise HostError(f"{path}: {header.width}x{header.height} pixels, the network takes {side}x{side}: scale it, for "
                        f"example with convert {path.name} -resize {side}x{side}! small.png")
    image = read_png(path)
    if channels == 3:
        return np.ascontiguousarray(np.broadcast_to(image, (side, side, 3)))
    if (image != image[..., :1]).any():
        raise HostError(f"{path}: is in colour, the network takes gray: convert it, for example with convert -colorspace gray")
    return np.ascontiguousarray(image[..., :1])


def classify(session: Session, args: argparse.Namespace) -> None:
    """Load the network and print a line for each picture."""
    network = load_file(args.network)
    pictures = [picture(path, network.header["image_side"], network.header["image_channels"]) for path in args.images]
    size = sum(len(data) for data in network.sections.values())
    with tqdm(total=size, unit="B", unit_scale=True, desc="loading", disable=not sys.stderr.isatty() or not size) as bar:
        if isinstance(session.bus, LinkBus):
            session.bus.progress = bar.update
        session.load(network)
    if args.steps is not None:
        session.set_steps(args.steps)
    if isinstance(session.bus, LinkBus):
        session.bus.progress = None
    for index, (path, image) in enumerate(zip(args.images, pictures, strict=True)):
        answer = session.classify(image, index)
        print(f"{path}: class {answer.class_index}, logit {answer.logits[answer.class_index]}, {answer.counters.cycles} cycles, "
              f"{answer.counters.events} events")
        if args.logits:
            print("  logits " + " ".join(map(str, answer.logits.tolist())))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command."""
    args = parser().parse_args(argv)
    try:
        with Session.open(args.port, baud=args.baud, timeout=args.timeout, retries=args.retries) as session:
            if args.command == "classify":
                classify(session, args)
            elif args.command == "probe":
                print(f"register map {session.identity.version}, build {session.identity.build_id:#010x}")
                for name, value in session.identity.fields.items():
                    print(f"  {name:<28}{value:>10}")
            elif args.command == "counters":
                counters = session.counters()
                print(f"cycles {counters.cycles}, events {counters.events}, stalls {counters.stalls}, descriptor {counters.layer}"
                      f", next image {counters.image_index}")
    except (HostError, PngError, ValueError) as error:
        print(f"mst-host: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mst-host: interrupted: mst-host clear ends what the machine is still doing", file=sys.stderr)
        return 130
    return 0
