"""Spike GEMM of the golden model (docs/semantics.md, section 3.1), and how each layer kind gathers its input."""
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.layers import Ints

Counts = NDArray[np.int32]
PHASES = ((0, 0), (1, 0), (0, 1), (1, 1))
"""(row, column) of a merge's four tokens, in the order of its input channels."""


def accumulate(weight: Ints, values: Counts) -> Ints:
    """acc int64 [..., out] of weight [out, in] and values [..., in].

    Float arithmetic does it where every partial sum is an exact integer of it, for speed; else int64.
    """
    largest = max(-int(values.min()), int(values.max()), 0) if values.size else 0
    bound = int(np.abs(weight).sum(axis=1).max()) * largest
    if bound < 1 << 24:
        dtype: type = np.float32
    elif bound < 1 << 53:
        dtype = np.float64
    else:
        dtype = np.int64
    rows: NDArray[Any] = values.reshape(-1, values.shape[-1]).astype(dtype)
    return (rows @ weight.T.astype(dtype)).astype(np.int64).reshape(*values.shape[:-1], len(weight))


def patches(images: NDArray[np.uint8], patch: int) -> Counts:
    """Pixels [B, T, patch*patch*C] of images [B, H, H, C]: channel (dy*patch + dx)*C + c."""
    count, high, _, channels = images.shape
    side = high // patch
    blocks = images.reshape(count, side, patch, side, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(count, side * side, patch * patch * channels).astype(np.int32)


def merged(planes: Counts, side: int) -> Counts:
    """The four phases of every 2x2 tokens, [B, T/4, 4C], of planes [B, T, C]."""
    count, _, channels = planes.shape
    grid = planes.reshape(count, side, side, channels)
    picked = [grid[:, row::2, column::2] for row, column in PHASES]
    return np.concatenate(picked, axis=3).reshape(count, side * side // 4, 4 * channels)


def pooled(planes: Counts) -> Counts:
    """The sum over all tokens, [B, 1, C]."""
    return planes.sum(axis=1, keepdims=True, dtype=np.int32)
