"""Image data sets as numpy arrays, without torch: CIFAR-10 (official Python batches) and Fashion-MNIST (idx files).

The batches are pickles; they are read with an unpickler that knows only numpy arrays and builtin containers.
"""
import gzip
import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]
SOURCES = {
    "cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html"),
    "fashion_mnist": ("fashion-mnist", "the four *-ubyte.gz files from https://github.com/zalandoresearch/fashion-mnist"),
}
ALLOWED = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
           ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class DataError(ValueError):
    """A data set that is missing, damaged or of the wrong shape; the message names the file and the remedy."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise DataError(f"the batch asks for {module}.{name}, which no CIFAR-10 batch does: "
                            "it is not the official file")
        return super().find_class(module, name)


def data_root(given: str | Path | None = None) -> Path:
    """Folder of the data sets: `given`, else the variable MST_DATA, else `data`."""
    return Path(given or os.environ.get("MST_DATA") or "data")


def read(dataset: str, train: bool, root: str | Path | None = None) -> Arrays:
    """The training or the test part of `dataset` under `root`: images uint8 [N, C, H, W], labels int64 [N].

    DataError where it is missing or damaged.
    """
    if dataset not in SOURCES:
        raise DataError(f"unknown dataset {dataset!r}; known: {', '.join(SOURCES)}")
    folder, source = SOURCES[dataset]
    path = data_root(root) / folder
    if not path.is_dir():
        raise DataError(f"{path}: no such folder: unpack {source} there, "
                        "or point to its parent with --data or MST_DATA")
    return _cifar(path, train) if dataset == "cifar10" else _fashion(path, train)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); see {SOURCES['cifar10'][1]}") from None


def _cifar(path: Path, train: bool) -> Arrays:
    names = [f"data_batch_{i}" for i in range(1, 6)] if train else ["test_batch"]
    images, labels = [], []
    for name in names:
        try:
            batch = _Unpickler(io.BytesIO(_bytes(path / name)), encoding="bytes").load()
            pixels, classes = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"], np.int64)
        except DataError as error:
            raise DataError(f"{path / name}: {error}" if not str(error).startswith(str(path)) else str(error)) from None
        except Exception as error:  # a damaged pickle may raise anything
            raise DataError(f"{path / name}: damaged CIFAR-10 batch ({type(error).__name__}): "
                            "unpack it again") from None
        if pixels.dtype != np.uint8 or pixels.shape != (len(classes), 3072):
            raise DataError(f"{path / name}: expected uint8 [N, 3072], found {pixels.dtype} {list(pixels.shape)}")
        images.append(pixels.reshape(-1, 3, 32, 32))
        labels.append(classes)
    return np.concatenate(images), np.concatenate(labels)


def _idx(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An idx file (or its .gz) of unsigned bytes."""
    packed = path.with_name(path.name + ".gz")
    if not path.is_file() and not packed.is_file():
        raise DataError(f"{path}: no such file, nor .gz; get {SOURCES['fashion_mnist'][1]}")
    try:
        raw = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
        zero, kind, dims = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{dims}I", raw, 4)
        data = np.frombuffer(raw, np.uint8, offset=4 + 4 * dims)
        if zero or kind != 8 or data.size != int(np.prod(shape)):
            raise ValueError
    except (ValueError, struct.error, OSError, EOFError):
        raise DataError(f"{path}: not a complete idx file of bytes; download it again") from None
    return data.reshape(shape)


def _fashion(path: Path, train: bool) -> Arrays:
    part = "train" if train else "t10k"
    pixels, classes = _idx(path / f"{part}-images-idx3-ubyte"), _idx(path / f"{part}-labels-idx1-ubyte")
    if pixels.ndim != 3 or classes.shape != pixels.shape[:1]:
        raise DataError(f"{path}: {part} has images {list(pixels.shape)} and labels {list(classes.shape)}")
    return pixels[:, None].copy(), classes.astype(np.int64)


def margin(height: int, width: int, side: int) -> int:
    """Zero pixels to add on each edge of an image so that it is `side` wide (28 -> 32); DataError when it cannot fit."""
    if height != width or height > side or (side - height) % 2:
        raise DataError(f"images of {height}x{width} do not fit a network of image_size {side}")
    return (side - height) // 2


def enlargement(height: int, side: int) -> int:
    """Side of the square that each pixel becomes where `side` is a multiple of an image's `height` (32 -> 224: 7), else 1."""
    return side // height if height and side % height == 0 else 1


def fitted(images: NDArray[np.uint8], channels: int, side: int) -> NDArray[np.uint8]:
    """Images [N, C, H, W] as a machine takes them: uint8 [N, side, side, C]; DataError when they cannot fit.

    They are enlarged where `side` is a multiple of theirs, else zero-padded.
    """
    if images.shape[1] != channels:
        raise DataError(f"images of {images.shape[1]} channels do not fit a network of {channels}")
    times = enlargement(images.shape[2], side)
    images = images.repeat(times, axis=2).repeat(times, axis=3) if times > 1 else images
    edge = margin(images.shape[2], images.shape[3], side)
    return np.pad(images.transpose(0, 2, 3, 1), ((0, 0), (edge, edge), (edge, edge), (0, 0)))
