"""Image files for simulation: `.npz` with `images` uint8 [N, H, W, C] and `labels` int64 [N]; never unpickled."""
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def sample(dataset: str) -> Path:
    """The committed sample of a data set: the first images of its official test set."""
    return Path("configs") / f"{dataset}-sample.npz"


def load(path: Path, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first `count` images and labels of `path`; ValueError in one line when it is not such a file or holds too few."""
    try:
        with np.load(path, allow_pickle=False) as found:
            images, labels = found["images"], found["labels"]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such image file: run `python -m quantize sample`, or give --images-file") from None
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not an .npz file with `images` and `labels` ({str(error).splitlines()[0]})") from None
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"{path}: images are {images.dtype} {list(images.shape)}, not uint8 [N, H, W, C]")
    if labels.ndim != 1 or len(labels) != len(images) or labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: labels are {labels.dtype} {list(labels.shape)}, not integers [{len(images)}]")
    if count > len(images):
        raise ValueError(f"{path}: holds {len(images)} images, not {count}: ask for fewer, or give --images-file")
    return images[:count], labels[:count].astype(np.int64)
