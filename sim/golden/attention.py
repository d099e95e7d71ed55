"""Spike attention of the golden model (docs/semantics.md, section 3.4)."""
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantize.formats import SCORE_SHIFT
from quantize.layers import Attention
from sim.golden.fire import Counts, fire


@dataclass(frozen=True, slots=True)
class Geometry:
    """Index tables of one attention layer.

    `token` [windows, n]: the map's token at each window position. `allowed` bool [windows, n, n]: the window mask of
    query i and key j. `relative` [n, n]: ROM row of (i, j).
    """

    token: NDArray[np.int64]
    allowed: NDArray[np.bool_]
    relative: NDArray[np.int64]


def geometry(layer: Attention) -> Geometry:
    """Index tables of `layer`."""
    side, window, shift = layer.side, layer.window, layer.shift
    across = side // window
    wy, wx = (grid.reshape(-1, 1) for grid in np.divmod(np.arange(across * across), across))
    iy, ix = (grid.reshape(1, -1) for grid in np.divmod(np.arange(window * window), window))
    token = (wy * window + iy + shift) % side * side + (wx * window + ix + shift) % side
    allowed = np.ones((across * across, window * window, window * window), bool)
    if shift:
        for position, place in ((wy, iy), (wx, ix)):
            before = (place < window - shift).reshape(-1)
            same = before[:, None] == before[None, :]
            allowed &= same | (position != across - 1)[:, :, None]
    dy, dx = (place.reshape(-1, 1) - place + window - 1 for place in (iy, ix))
    return Geometry(token, allowed, dy * (2 * window - 1) + dx)


def heads_of(counts: Counts, layer: Attention, where: Geometry) -> tuple[Counts, Counts, Counts]:
    """q, k, v, each [B, windows, heads, n, d], of the counts [B, T, 3C] of qkv."""
    images = len(counts)
    gathered = counts[:, where.token]
    shape = (images, layer.windows, layer.window**2, 3, layer.heads, layer.head_size)
    q, k, v = gathered.reshape(shape).transpose(3, 0, 1, 4, 2, 5)
    return q, k, v


def scores(q: Counts, k: Counts, layer: Attention, levels: int) -> Counts:
    """Score counts a [B, windows, heads, n, n] (query, key), before any spike mask."""
    # Float32 sums are exact below 2^24.
    assert layer.head_size * levels * levels < 1 << 24
    dot = q.astype(np.float32) @ k.astype(np.float32).swapaxes(-1, -2)
    charge = (dot.astype(np.int64) << SCORE_SHIFT) + (layer.score_threshold >> 1)
    return fire(charge, layer.score_threshold, levels)


def weighted(a: Counts, v: Counts, layer: Attention, where: Geometry, levels: int) -> Counts:
    """Counts [B, T, C]: the ROM softmax of scores `a` over `v`, each row's threshold being its own denominator."""
    images, windows, heads, n, d = v.shape
    # Float64 sums of 16-bit ROM values are exact below 2^53.
    assert n * levels * 2**16 < 1 << 53
    head = np.arange(heads)[:, None, None]
    seen = where.allowed[None, :, None]
    num = np.where(seen, layer.rom_num[head, where.relative, a], 0)
    den = np.where(seen, layer.rom_den[head, where.relative, a], 0).sum(axis=-1)[..., None]
    charge = (num.astype(np.float64) @ v.astype(np.float64)).astype(np.int64)
    out = fire(charge + (den >> 1), den, levels)
    result = np.empty((images, windows * n, heads * d), np.int32)
    result[:, where.token] = out.transpose(0, 1, 3, 2, 4).reshape(images, windows, n, heads * d)
    return result
