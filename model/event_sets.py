"""Layouts of event data sets: which recordings a part has, with which labels, and their frames."""
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.dataset import Arrays, DataError, Representation, contents, subfolders
from model.event_files import Events, read_events
from model.frames import frames

DIGITS = tuple(str(digit) for digit in range(10))
TEST_SHARE = 10
"""Where the publishers name no test part: the last tenth of each class."""


@dataclass(frozen=True, slots=True)
class Recordings:
    """The recordings of one part: `files` and `labels` int64 [N]; `sensor`: columns and rows of the picture; `bound`: of
    the chip, which no coordinate may leave; `bottom`: rows are numbered from the bottom."""

    files: list[Path]
    labels: NDArray[np.int64]
    sensor: tuple[int, int]
    bound: tuple[int, int]
    bottom: bool = False

    def events(self, index: int) -> Events:
        """Events of one recording, rows from the top; DataError with a byte offset."""
        found = read_events(self.files[index], self.bound)
        if self.bottom:
            found["y"] = self.bound[1] - 1 - found["y"]
        return found


def _number(path: Path) -> tuple[int, str]:
    """Sorts image_2 before image_10."""
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else -1), path.name


def _classes(folder: Path, names: list[str], suffix: str) -> list[list[Path]]:
    """Recordings of each class folder of `names`, in the order of their numbers; DataError where one has none."""
    found = []
    for name in names:
        if not (folder / name).is_dir():
            raise DataError(f"{folder / name}: no such folder: unpack the data set again")
        files = sorted((entry for entry in (folder / name).iterdir() if entry.suffix == suffix), key=_number)
        if not files:
            raise DataError(f"{folder / name}: holds no {suffix} recording: unpack the data set again")
        found.append(files)
    return found


def _part(files: list[list[Path]]) -> tuple[list[Path], NDArray[np.int64]]:
    labels = np.repeat(np.arange(len(files)), [len(part) for part in files]).astype(np.int64)
    return [file for part in files for file in part], labels


def _split(files: list[list[Path]], train: bool) -> list[list[Path]]:
    cut = [len(part) - max(1, len(part) // TEST_SHARE) for part in files]
    return [part[:end] if train else part[end:] for part, end in zip(files, cut, strict=True)]


def nmnist(folder: Path, train: bool) -> Recordings:
    """`Train/<digit>/*.bin`, `Test/<digit>/*.bin` (Orchard et al. 2015)."""
    files = _part(_classes(folder / ("Train" if train else "Test"), list(DIGITS), ".bin"))
    return Recordings(*files, (34, 34), (34, 34))


def nmnist_small(folder: Path, train: bool) -> Recordings:
    """`<number>.bs2` with the lists `train1K.txt`, `test100.txt` of number and digit: the small set of SLAYER."""
    listing = folder / ("train1K.txt" if train else "test100.txt")
    files, labels = [], []
    data, offset = contents(listing, "the SLAYER example data"), 0
    for line in data.splitlines(keepends=True):
        words = line.split(b"#")[0].split()
        if words:
            if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) > 9:
                raise DataError(f"{listing}: byte offset {offset}: {line[:40]!r} is not a number and a digit")
            files.append(folder / f"{int(words[0])}.bs2")
            labels.append(int(words[1]))
        offset += len(line)
    if not files:
        raise DataError(f"{listing}: byte offset {len(data)}: lists no recording")
    return Recordings(files, np.array(labels, np.int64), (34, 34), (34, 34))


def ncaltech101(folder: Path, train: bool) -> Recordings:
    """`<class>/*.bin`, classes in the order of their folders (Orchard et al. 2015); no published split, see TEST_SHARE."""
    files = _part(_split(_classes(folder, subfolders(folder), ".bin"), train))
    return Recordings(*files, (240, 180), (240, 180))


def ncars(folder: Path, train: bool) -> Recordings:
    """`n-cars_train/<class>/*.dat`, `n-cars_test/...`: pictures of at most 120x100 cut from a 304x240 chip (Sironi 2018)."""
    files = _part(_classes(folder / ("n-cars_train" if train else "n-cars_test"), list(NCARS), ".dat"))
    return Recordings(*files, (120, 100), (304, 240))


NCARS = ("background", "cars")


def cifar10dvs(folder: Path, train: bool) -> Recordings:
    """`<class>/cifar10_<class>_<number>.aedat` (Li et al. 2017); no published split, see TEST_SHARE. Rows from the bottom."""
    from model.image_sets import CIFAR10_CLASSES
    files = _part(_split(_classes(folder, list(CIFAR10_CLASSES), ".aedat"), train))
    return Recordings(*files, (128, 128), (128, 128), bottom=True)


PARTS = {"nmnist": nmnist, "nmnist_small": nmnist_small, "ncaltech101": ncaltech101, "ncars": ncars, "cifar10dvs": cifar10dvs}
"""The recordings of a part, by data set."""


def read(name: str, folder: Path, train: bool, view: Representation | None, count: int) -> Arrays:
    """Frames uint8 [N, channels, side, side] and labels int64 [N] of a part. `count`, if not 0: at most so many, the first
    ones, or evenly spread ones of a part that lies class by class."""
    part = PARTS[name](folder, train)
    view = view or Representation(max(part.sensor))
    total = min(count or len(part.files), len(part.files))
    by_class = bool((np.diff(part.labels) >= 0).all())
    chosen = np.linspace(0, len(part.files) - 1, total).astype(np.int64) if by_class else np.arange(total)
    images = np.empty((total, view.channels, view.side, view.side), np.uint8)
    for place, index in enumerate(tqdm(chosen, desc=name, mininterval=10, disable=total < 5000)):
        images[place] = frames(part.events(int(index)), part.sensor, view)
    return images, part.labels[chosen]
