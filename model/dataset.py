"""What is known of a data set, and the errors of reading one: shared by the readers and the registry (`model.datasets`)."""
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


class DataError(ValueError):
    """A data set that is missing, damaged or of the wrong shape; the message names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class Representation:
    """What a network takes: pictures of `side` pixels a side, with values of `bits` bits.

    `colours`: channels of pictures from folders, 3 or 1. For event recordings
    (`model.frames`): `frames` of equal `by` ("time" or "count"), `polarity` "split" (OFF and ON
    channels) or "merged", and `fit` "crop" or "scale" from sensor to picture.
    """

    side: int
    bits: int = 8
    frames: int = 1
    by: str = "time"
    polarity: str = "split"
    fit: str = "crop"
    colours: int = 3

    @property
    def channels(self) -> int:
        """Channels of an event picture: channel = frame * polarities + polarity."""
        return self.frames * (2 if self.polarity == "split" else 1)


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set in its publishers' layout.

    `folders`: where it lies below the root, the first that exists is taken. `source`: what to get, and from where.
    `read(folder, train, representation, count)`: images uint8 [N, C, H, W] and labels int64 [N] of a part, at most
    `count` where that is not 0. `counts`: images of the training and test parts as published. `statistics`: mean and
    standard deviation of pixel / 255 per channel; None: measured on the training images. `mirrors`: a mirrored image
    keeps its class. `holds`: the folder must hold one of these.
    `class_count`: classes as published; 0: as many as there are folders.
    """

    folders: tuple[str, ...]
    source: str
    citation: str
    read: Callable[[Path, bool, Representation | None, int], Arrays]
    classes: Callable[[Path], tuple[str, ...]]
    counts: tuple[int, int]
    statistics: Statistics | None = None
    events: bool = False
    mirrors: bool = True
    class_count: int = 0
    holds: tuple[str, ...] = ()


def expect_labels(labels: NDArray[np.int64], classes: int, source: object) -> None:
    """DataError where `labels` [N] of `source` name a class that a network of `classes` classes does not have."""
    if len(labels) and int(labels.min()) < 0:
        raise DataError(f"{source} has the label {int(labels.min())}: labels are 0 to classes - 1")
    if len(labels) and int(labels.max()) >= classes:
        raise DataError(f"{source} has labels up to {int(labels.max())}, but [model] classes is {classes}: "
                        f"set it to {int(labels.max()) + 1} or more")


def contents(path: Path, source: str) -> bytes:
    """All bytes of a file; DataError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); see {source}") from None


def published(path: Path, data: bytes, size: int, md5: str) -> None:
    """DataError where a file of the published size has not the published MD5; one of another size is not the published
    file, and its reader judges it."""
    if len(data) == size and hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise DataError(f"{path}: damaged: its {size} bytes have not the published MD5 {md5}: unpack it again")


def subfolders(path: Path) -> list[str]:
    """Names of the folders in `path`, sorted: the class list of a set with one folder a class. DataError where none."""
    try:
        names = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if not names:
        raise DataError(f"{path}: holds no folder, but one for each class is expected: unpack the data set again")
    return names
