"""Readers of image data sets: CIFAR batches (pickles), idx files and ImageNet folders.

The batches are read by `model.cifar_batch`, which builds nothing that a file describes.
"""
import gzip
import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model import cifar_batch
from model.dataset import Arrays, DataError, Representation, contents, published
from model.inert_pickle import UnpickleError
from model.pictures import PictureFolder, class_names

CIFAR_SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"
FASHION_SOURCE = "the four *-ubyte.gz files from https://github.com/zalandoresearch/fashion-mnist"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION_CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
PUBLISHED = {  # size and MD5 of the publishers' files; Fashion-MNIST: of the idx files inside their .gz
    "data_batch_1": (31035704, "c99cafc152244af753f735de768cd75f"),
    "data_batch_2": (31035320, "d4bba439e000b95fd0a9bffe97cbabec"),
    "data_batch_3": (31035999, "54ebc095f3ab1f0389bbae665268c751"),
    "data_batch_4": (31035696, "634d18415352ddfa80567beed471001a"),
    "data_batch_5": (31035623, "482c414d41f54cd18b22e5b47cb7c3cb"),
    "test_batch": (31035526, "40351d587109b95175f43aff81a1287e"),
    "train": (155249918, "16019d7e3df5f24257cddd939b257f8d"),
    "test": (31049918, "f0ef6b0ae62326f3e7ffdfab6717acfc"),
    "train-images-idx3-ubyte": (47040016, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    "train-labels-idx1-ubyte": (60008, "9018921c3c673c538a1fc5bad174d6f9"),
    "t10k-images-idx3-ubyte": (7840016, "8181f5470baa50b63fa0f6fddb340f0a"),
    "t10k-labels-idx1-ubyte": (10008, "15d484375f8d13e6eb1aabb0c3f46965"),
}
FILES = {
    "cifar10": (tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",)),
    "cifar100": (("train",), ("test",)),
    "fashion_mnist": (("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
                      ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")),
}
"""Files of the training and of the test part."""
LARGEST_IDX = 1 << 28
"""Bytes of a packed idx file: the largest of Fashion-MNIST has 47 MB."""
LARGEST_ARRAY = 1 << 33
"""Bytes of images that a set in folders returns as one array: the 50,000 validation images at 224 pixels fit."""


def unpickled(path: Path, source: str = CIFAR_SOURCE) -> dict[bytes, Any]:
    """The dictionary of a CIFAR batch: arrays, containers, texts and numbers. DataError names the byte offset."""
    data = contents(path, source)
    if path.name in PUBLISHED:
        published(path, data, *PUBLISHED[path.name])
    stream = io.BytesIO(data)
    try:
        return cifar_batch.read(stream)
    except UnpickleError as error:
        place = "truncated" if stream.tell() >= len(data) else "damaged"
        raise DataError(f"{path}: {place} CIFAR batch, at byte offset {stream.tell()} of {len(data)}: {error}") from None


def _batch(path: Path, key: bytes, classes: int) -> Arrays:
    found = unpickled(path)
    try:
        pixels, labels = found[b"data"], cifar_batch.labels(found[key])
    except (KeyError, UnpickleError) as error:
        raise DataError(f"{path}: damaged CIFAR batch ({error!r}): unpack it again") from None
    if not isinstance(pixels, np.ndarray):
        raise DataError(f"{path}: its pixels are a {type(pixels).__name__}, not an array: unpack it again")
    if pixels.dtype != np.uint8 or labels.ndim != 1 or pixels.shape != (len(labels), 3072):
        raise DataError(f"{path}: expected uint8 [N, 3072], found {pixels.dtype} {list(pixels.shape)}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(f"{path}: labels run from {labels.min()} to {labels.max()}, not 0 to {classes - 1}: unpack it again")
    return pixels.reshape(-1, 3, 32, 32), labels


def cifar10(folder: Path, train: bool, view: Representation | None = None, count: int = 0) -> Arrays:
    """`cifar-10-batches-py`: images uint8 [N, 3, 32, 32], labels int64 [N] (Krizhevsky 2009)."""
    parts = [_batch(folder / name, b"labels", 10) for name in FILES["cifar10"][0 if train else 1]]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def cifar100(folder: Path, train: bool, view: Representation | None = None, count: int = 0) -> Arrays:
    """`cifar-100-python`: images uint8 [N, 3, 32, 32], fine labels int64 [N] (Krizhevsky 2009)."""
    return _batch(folder / ("train" if train else "test"), b"fine_labels", 100)


def cifar100_classes(folder: Path) -> tuple[str, ...]:
    """The fine label names of `meta`."""
    names = unpickled(folder / "meta").get(b"fine_label_names")
    if not isinstance(names, list) or len(names) != 100 or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{folder / 'meta'}: does not hold 100 fine label names: unpack it again")
    return tuple(name.decode("ascii", "replace") for name in names)


def _unzipped(path: Path) -> bytes:
    """An idx file that is packed: no more of it is unpacked than its own header says, and one byte."""
    with gzip.open(path) as file:
        header = file.read(4)
        sides = file.read(4 * header[3]) if len(header) == 4 else b""
        size = math.prod(side for (side,) in struct.iter_unpack(">I", sides[:len(sides) // 4 * 4]))
        if size > LARGEST_IDX:
            raise DataError(f"{path}: its header says {size} bytes, more than {LARGEST_IDX}: download it again")
        return header + sides + file.read(size + 1)


def _idx_bytes(path: Path) -> bytes:
    """What an idx file, or the .gz beside it, holds."""
    packed = path.with_name(path.name + ".gz")
    if not path.is_file() and not packed.is_file():
        raise DataError(f"{path}: no such file, nor .gz; get {FASHION_SOURCE}")
    try:
        return path.read_bytes() if path.is_file() else _unzipped(packed)
    except (OSError, EOFError, zlib.error) as error:
        file = path if path.is_file() else packed
        raise DataError(f"{file}: not a whole gzip file, ends at byte offset {file.stat().st_size} ({error}): download it again"
                        ) from None


def verify(folder: Path, names: tuple[str, ...]) -> None:
    """DataError unless every file of `names` has the published size and MD5 (idx files: what their .gz holds)."""
    for name in names:
        path, (size, md5) = folder / name, PUBLISHED[name]
        data = _idx_bytes(path) if name.endswith("ubyte") else contents(path, CIFAR_SOURCE)
        if len(data) != size:
            raise DataError(f"{path}: ends at byte offset {len(data)}, the published file at {size}: unpack it again")
        published(path, data, size, md5)


def _idx(path: Path) -> NDArray[np.uint8]:
    """An idx file (or its .gz) of unsigned bytes."""
    raw = _idx_bytes(path)
    if path.name in PUBLISHED:
        published(path, raw, *PUBLISHED[path.name])
    dims = raw[3] if len(raw) > 3 else 0
    start = 4 + 4 * dims
    if raw[:3] != b"\0\0\x08" or len(raw) < start:
        raise DataError(f"{path}: not a complete idx file of bytes, at byte offset {min(len(raw), start)}: download it again")
    shape = struct.unpack_from(f">{dims}I", raw, 4)
    wanted = start + int(np.prod(shape, dtype=object))
    if len(raw) != wanted:
        raise DataError(f"{path}: not a complete idx file: ends at byte offset {len(raw)}, not {wanted}: download it again")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def fashion_mnist(folder: Path, train: bool, view: Representation | None = None, count: int = 0) -> Arrays:
    """The four idx files (or .gz): images uint8 [N, 1, 28, 28], labels int64 [N] (Xiao et al. 2017)."""
    part = "train" if train else "t10k"
    pixels, labels = _idx(folder / f"{part}-images-idx3-ubyte"), _idx(folder / f"{part}-labels-idx1-ubyte")
    if pixels.ndim != 3 or labels.shape != pixels.shape[:1]:
        raise DataError(f"{folder}: {part} has images {list(pixels.shape)} and labels {list(labels.shape)}")
    if len(labels) and labels.max() > 9:
        raise DataError(f"{folder / part}-labels-idx1-ubyte: label {labels.max()} at byte offset "
                        f"{8 + int(labels.argmax())}: classes are 0 to 9")
    return pixels[:, None].copy(), labels.astype(np.int64)


class FolderSet:
    """A set in folders, `<part>/<class>/*` (`model.pictures`): what `model.datasets` asks of it.

    `parts`: names of the training and the test part. `enlarged`: pictures are fitted as for ImageNet.
    """

    def __init__(self, name: str, parts: tuple[str, str], enlarged: bool) -> None:
        self.name, self.parts, self.enlarged = name, parts, enlarged

    def classes(self, folder: Path) -> tuple[str, ...]:
        """Sorted names of the class folders, the same in both parts; DataError."""
        return class_names(folder, self.parts)

    def part(self, folder: Path, train: bool) -> PictureFolder:
        """The training or the test part, not decoded; DataError."""
        return PictureFolder(folder / self.parts[0 if train else 1], self.classes(folder), self.enlarged)

    def read(self, folder: Path, train: bool, view: Representation | None = None, count: int = 0) -> Arrays:
        """Images uint8 [N, C, side, side], labels int64 [N] of a part; at most `count`, evenly spread, where that is not 0."""
        part, side, channels = self.part(folder, train), view.side if view else 224, view.colours if view else 3
        total = min(count or len(part), len(part))
        if total * channels * side * side > LARGEST_ARRAY:
            raise DataError(f"{folder}: {total} images of {side} pixels are {total * channels * side * side >> 30} GiB: "
                            "ask for fewer (training reads such a set in a stream)")
        images = np.empty((total, channels, side, side), np.uint8)
        chosen = np.arange(total) if total == len(part) else np.linspace(0, len(part) - 1, total).astype(np.int64)
        for place, index in enumerate(tqdm(chosen, desc=self.name, mininterval=10, disable=total < 1000)):
            images[place] = part.image(int(index), side, channels)
        return images, part.labels[chosen]


IMAGENET = FolderSet("imagenet", ("train", "val"), enlarged=True)
FOLDER = FolderSet("folder", ("train", "test"), enlarged=False)
FOLDER_SETS = {"imagenet": IMAGENET, "folder": FOLDER}
