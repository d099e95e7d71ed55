"""Small look-alikes of data sets, for tests that read or train on one."""
import gzip
import pickle
import struct
from pathlib import Path

import numpy as np


def write_cifar(root: Path, per_batch: int = 3) -> np.ndarray:
    """A CIFAR-10 look-alike; returns the pixels [5 * per_batch, 3, 32, 32] of its training part."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (6, per_batch, 3072), np.uint8)
    for index, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        batch = {b"data": pixels[index], b"labels": [index] * per_batch, b"batch_label": b"x"}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return pixels[:5].reshape(-1, 3, 32, 32)


def write_fashion(root: Path) -> None:
    """Two training and one test image of a Fashion-MNIST look-alike, one of them packed."""
    folder = root / "fashion-mnist"
    folder.mkdir(parents=True)
    for part, count in (("train", 2), ("t10k", 1)):
        images = struct.pack(">HBB3I", 0, 8, 3, count, 28, 28) + bytes(range(256)) * 4 * count
        images = images[:16 + count * 784]
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, count) + bytes([7] * count))
