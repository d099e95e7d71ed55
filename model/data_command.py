"""`python -m model data`: whether a data set is whole, and what is in it. Needs no torch."""
import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model import config as configuration
from model import image_sets
from model.dataset import DataError, DataSet, Representation
from model.datasets import DATASETS, folder_of, known, representation
from model.event_sets import PARTS, Recordings
from model.frames import frames
from model.pictures import NO_PILLOW

PARTS_OF = {"train": (True,), "test": (False,), "both": (True, False)}
NAMED = 10
"""Bad files that are named one by one."""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's grammar."""
    command = commands.add_parser("data", help="check a data set's folder and print what is in it")
    command.add_argument("--dataset", help=f"{', '.join(DATASETS)} (default: list them, and where each is looked for)")
    command.add_argument("--root", "--data", dest="root", help="folder that holds the data sets (default: $MST_DATA, or data)")
    command.add_argument("--part", choices=list(PARTS_OF), default="both", help="check only this part (default: both)")
    command.add_argument("--config", help="show the pictures as this configuration's network takes them")
    command.add_argument("--tonic", action="store_true", help="compare every recording with what tonic reads (make events)")


def _labels(labels: np.ndarray, classes: tuple[str, ...]) -> str:
    counts = np.bincount(labels, minlength=len(classes))
    return f"labels int64 [{len(labels)}], {len(classes)} classes of {counts.min()} to {counts.max()}"


def _amount(entry: DataSet, train: bool, found: int, folder: Path) -> None:
    wanted = entry.counts[0 if train else 1]
    if wanted and found != wanted:
        raise DataError(f"{folder}: the {'training' if train else 'test'} part holds {found} of {wanted}: get {entry.source}")


def _recordings(name: str, entry: DataSet, folder: Path, train: bool, view: Representation | None, tonic: bool) -> str:
    """Reads every recording of a part; the line about it."""
    part: Recordings = PARTS[name](folder, train)
    _amount(entry, train, len(part.files), folder)
    view = view or Representation(max(part.sensor))
    events, longest, largest, equal = 0, 0, 0, 0
    for index in tqdm(range(len(part.files)), desc=f"{name} {'train' if train else 'test'}", mininterval=5,
                      disable=len(part.files) < 500):
        found = part.events(index)
        events += len(found)
        longest = max(longest, int(found["t"][-1] - found["t"][0]))
        largest = max(largest, int(frames(found, part.sensor, view).max()))
        equal += tonic and _equal(part, index)
    line = (f"{len(part.files)} recordings, {events} events ({events // len(part.files)} each) of a {part.bound[0]}x"
            f"{part.bound[1]} sensor, the longest {longest / 1e6:.3f} s; {_labels(part.labels, entry.classes(folder))}; frames "
            f"uint8 [{len(part.files)}, {view.channels}, {view.side}, {view.side}], the largest count {largest}")
    return line + (f"; equal to tonic: {equal} of {len(part.files)}" if tonic else "")


def _equal(part: Recordings, index: int) -> bool:
    from model.tonic_reader import read_with_tonic
    ours, theirs = part.events(index), read_with_tonic(part.files[index])
    if part.bottom:
        theirs["y"] = part.bound[1] - 1 - theirs["y"]
    if not np.array_equal(ours, theirs):
        raise DataError(f"{part.files[index]}: tonic reads {len(theirs)} events, we {len(ours)}, and they are not the same")
    return True


def _folders(name: str, entry: DataSet, folder: Path, train: bool) -> str:
    """Decodes every picture of a part in folders; the line about it. DataError names the bad ones."""
    part = image_sets.FOLDER_SETS[name].part(folder, train)
    bad = []
    for index in tqdm(range(len(part)), desc=name, mininterval=5, disable=len(part) < 500):
        try:
            part.image(index, 32)
        except DataError as error:
            if str(error) == NO_PILLOW:
                raise
            bad.append((part.path(index).relative_to(folder), error))
    if bad:
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise DataError(f"{folder}: {len(bad)} bad images: {', '.join(str(path) for path, _ in bad[:NAMED])}{more}; "
                        f"the first: {bad[0][1]}")
    _amount(entry, train, len(part), folder)
    return f"{len(part)} images, all decoded; {_labels(part.labels, tuple(part.classes))}"


def _arrays(name: str, entry: DataSet, folder: Path, train: bool) -> str:
    """Checks size and MD5 of a part's files, and reads it; the line about it."""
    files = image_sets.FILES[name][0 if train else 1]
    image_sets.verify(folder, files)
    images, labels = entry.read(folder, train, None, 0)
    _amount(entry, train, len(labels), folder)
    return (f"images {images.dtype} {list(images.shape)}; {_labels(labels, entry.classes(folder))}; "
            f"{len(files)} files of the published size and MD5")


def _list(root: str | None) -> None:
    """A line for each data set: where it is, or what to get."""
    for name in DATASETS:
        try:
            print(f"{name}: {folder_of(name, root)}")
        except DataError as error:
            print(f"{name}: not there ({error})")


def run(args: argparse.Namespace) -> None:
    """Check and describe one data set, or list all; DataError where it is missing, incomplete or damaged."""
    if args.dataset is None:
        _list(args.root)
        return
    name, entry = args.dataset, known(args.dataset)
    if args.tonic and not entry.events:
        raise DataError(f"--tonic compares event recordings, which {name} has none of")
    view = None
    if args.config:
        config = configuration.load(args.config)
        if config.train.dataset != name:
            raise DataError(f"{args.config} is for {config.train.dataset}, not for {name}")
        view = representation(config)
    folder = folder_of(name, args.root)
    if args.tonic:
        from model.tonic_reader import tonic_version
        print(f"tonic {tonic_version()}")
    print(f"{name}: {folder}")
    for train in PARTS_OF[args.part]:
        if entry.events:
            line = _recordings(name, entry, folder, train, view, args.tonic)
        elif name in image_sets.FOLDER_SETS:
            line = _folders(name, entry, folder, train)
        else:
            line = _arrays(name, entry, folder, train)
        print(f"  {'train' if train else 'test'}: {line}")
    names = entry.classes(folder)
    print(f"  classes: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}")
    print(f"  {entry.citation}")
