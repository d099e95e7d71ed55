"""Image files for simulation: `.npz` with `images` uint8 [N, H, W, C] and `labels` int64 [N]; never unpickled."""
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import datasets
from model.config import Config

LARGEST = 1 << 28
"""Bytes of an array: 87,000 pictures of 32x32, or 1,700 of 224x224 pixels."""


def sample(config: Config) -> Path:
    """The first test images of `config`'s data set: what `python -m quantize sample` put beside it, else the committed ones."""
    beside, committed = (folder / f"{config.train.dataset}-sample.npz" for folder in (config.network.parent, Path("configs")))
    return committed if committed.exists() and not beside.exists() else beside


def of(config: Config, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first `count` test images uint8 [N, H, W, C] of `config`'s data set and their labels int64 [N].

    From its sample; event recordings are not shipped, so their frames are made from the data folder (MST_DATA).
    ValueError in one line where they are not there.
    """
    if not datasets.known(config.train.dataset).events:
        images, labels = load(sample(config), count)
        return datasets.unpadded(images, config.model.image_size), labels
    pictures, labels = datasets.read(config.train.dataset, False, None, datasets.representation(config), count)
    if count > len(labels):
        raise ValueError(f"{config.train.dataset}: holds {len(labels)} test recordings, not {count}: ask for fewer")
    return datasets.fitted(pictures, config.model.in_channels, config.model.image_size), labels


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """One array of an .npz; its shape is compared with its size before memory is taken. ValueError where they differ."""
    info = archive.getinfo(name)
    if max(info.file_size, info.compress_size) > LARGEST:
        raise ValueError(f"{name} has {max(info.file_size, info.compress_size)} bytes, more than {LARGEST}")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name} has the array format {version}")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
        if dtype.hasobject or dtype.itemsize == 0 or math.prod(shape) * dtype.itemsize != info.file_size - file.tell():
            raise ValueError(f"{name} of shape {list(shape)} and {dtype} is not what its {info.file_size} bytes hold")
        raw = file.read()
    return np.frombuffer(bytearray(raw), dtype).reshape(shape, order="F" if fortran else "C")


def load(path: Path, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first `count` images and labels of `path`; ValueError in one line when it is not such a file or holds too few."""
    try:
        with zipfile.ZipFile(path) as archive:
            images, labels = (_array(archive, f"{name}.npy") for name in ("images", "labels"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such image file: run `python -m quantize sample`, or give --images-file") from None
    except (KeyError, ValueError, OSError, EOFError, NotImplementedError, RuntimeError, SyntaxError, zlib.error, struct.error,
            tokenize.TokenError, zipfile.BadZipFile) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: not an .npz file with `images` and `labels` ({said or type(error).__name__})") from None
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"{path}: images are {images.dtype} {list(images.shape)}, not uint8 [N, H, W, C]")
    if labels.ndim != 1 or len(labels) != len(images) or labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: labels are {labels.dtype} {list(labels.shape)}, not integers [{len(images)}]")
    if count > len(images):
        raise ValueError(f"{path}: holds {len(images)} images, not {count}: ask for fewer, or give --images-file")
    return images[:count], labels[:count].astype(np.int64)
