"""Spike GEMM of the golden model (docs/semantics.md, section 3.1), and how each layer kind gathers its input."""
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantize.layers import Gather, Ints
from sim.golden.fire import EXACT32, Counts, Exact

PHASES = ((0, 0), (1, 0), (0, 1), (1, 1))
"""(row, column) of a merge's four tokens, in the order of its input channels."""


def exact_type(bound: int) -> type:
    """The fastest type whose sums are exact while no partial one exceeds `bound`."""
    return np.float32 if bound < EXACT32 else np.float64 if bound < 1 << 53 else np.int64


@dataclass(frozen=True, slots=True)
class Weights:
    """A weight matrix [in, out], ready for exact sums over values up to the one it was made for."""

    matrix: Exact

    @classmethod
    def of(cls, weight: Ints, largest: int) -> "Weights":
        """Of weight [out, in], for values of at most `largest` in absolute value."""
        bound = int(np.abs(weight).sum(axis=1).max()) * largest
        return cls(np.ascontiguousarray(weight.T, exact_type(bound)))

    def sums(self, values: Exact) -> Exact:
        """acc [..., out] of values [..., in], in the type of the matrix."""
        rows = values.reshape(-1, values.shape[-1]).astype(self.matrix.dtype, copy=False)
        return (rows @ self.matrix).reshape(*values.shape[:-1], self.matrix.shape[1])


def accumulate(weight: Ints, values: Exact) -> Ints:
    """acc int64 [..., out] of weight [out, in] and values [..., in]."""
    largest = max(-int(values.min()), int(values.max()), 0) if values.size else 0
    return Weights.of(weight, largest).sums(values).astype(np.int64)


def patches(images: NDArray[np.uint8], patch: int) -> Counts:
    """Pixels [B, T, patch*patch*C] of images [B, H, H, C]: channel (dy*patch + dx)*C + c."""
    count, high, _, channels = images.shape
    side = high // patch
    blocks = images.reshape(count, side, patch, side, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(count, side * side, patch * patch * channels).astype(np.int32)


def merged(planes: Exact, side: int) -> Exact:
    """The four phases of every 2x2 tokens, [B, T/4, 4C], of planes [B, T, C]."""
    count, _, channels = planes.shape
    grid = planes.reshape(count, side, side, channels)
    picked = [grid[:, row::2, column::2] for row, column in PHASES]
    return np.concatenate(picked, axis=3).reshape(count, side * side // 4, 4 * channels)


def gathered(counts: Exact, side: int, gather: Gather) -> Exact:
    """The taps of every output token of a convolution, [B, T', K*K*C] in channel order (kx, ky, c), of counts [B, T, C]."""
    images, _, channels = counts.shape
    edge, out = gather.padding, gather.out_side(side)
    grid = np.zeros((images, side + 2 * edge, side + 2 * edge, channels), counts.dtype)
    grid[:, edge:edge + side, edge:edge + side] = counts.reshape(images, side, side, channels)
    reach = gather.stride * (out - 1) + 1
    found = np.empty((images, out, out, gather.kernel, gather.kernel, channels), counts.dtype)
    for column in range(gather.kernel):
        for row in range(gather.kernel):
            found[:, :, :, column, row] = grid[:, row:row + reach:gather.stride, column:column + reach:gather.stride]
    return found.reshape(images, out * out, -1)


def pooled(planes: Exact) -> Exact:
    """The sum over all tokens, [B, 1, C]; of floats in float64."""
    return planes.sum(axis=1, keepdims=True, dtype=np.float64 if planes.dtype.kind == "f" else np.int32)
