"""Spike attention of the golden model (docs/semantics.md, section 3.4)."""
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantize.formats import SCORE_SHIFT
from quantize.layers import Attention
from sim.golden.fire import Exact, fire
from sim.golden.gemm import exact_type


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


@dataclass(frozen=True, slots=True)
class Softmax:
    """The ROMs of one attention layer by (window, head, query, key): `place` [windows or 1, heads, n, n] + score is an index.

    `num`, `den` [entries]: the ROMs in a row, and zeros where `place` puts the pairs that the window mask forbids.
    """

    place: Exact
    num: Exact
    den: Exact

    @classmethod
    def of(cls, layer: Attention, where: Geometry, levels: int) -> "Softmax":
        """Tables of `layer`, in float32 where that holds every sum and every place."""
        n, positions = layer.window**2, layer.rom_num.shape[1]
        # The sums: num * v, to which half of the denominator is added.
        bound = n * (levels + 1) * int(max(layer.rom_num.max(), layer.rom_den.max()))
        kind = exact_type(max(bound, layer.rom_num.size + levels))
        head = np.arange(layer.heads)[:, None, None] * positions
        place = np.broadcast_to((head + where.relative) * (levels + 1), (len(where.allowed), layer.heads, n, n))
        if where.allowed.all():
            place = place[:1]
        else:
            place = np.where(where.allowed[:, None], place, layer.rom_num.size)
        none: Exact = np.zeros(levels + 1, kind)
        return cls(place.astype(kind), np.append(layer.rom_num.astype(kind), none), np.append(layer.rom_den.astype(kind), none))


def heads_of(counts: Exact, layer: Attention, where: Geometry) -> tuple[Exact, Exact, Exact]:
    """q, k, v, each [B, windows, heads, n, d], of the counts [B, T, 3C] of qkv."""
    images = len(counts)
    gathered = counts.take(where.token.reshape(-1), axis=1)
    shape = (images, layer.windows, layer.window**2, 3, layer.heads, layer.head_size)
    q, k, v = gathered.reshape(shape).transpose(3, 0, 1, 4, 2, 5)
    return q, k, v


def scores(q: Exact, k: Exact, layer: Attention, levels: int) -> Exact:
    """Score counts a [B, windows, heads, n, n] (query, key), before any spike mask; float32, of integers int32."""
    kind = exact_type(layer.head_size * levels * levels << SCORE_SHIFT)
    charge: Exact = q.astype(kind, copy=False) @ k.astype(kind, copy=False).swapaxes(-1, -2)
    charge *= 1 << SCORE_SHIFT
    charge += layer.score_threshold >> 1
    a = fire(charge, layer.score_threshold, levels)
    return a if q.dtype.kind == "f" else a.astype(np.int32)


def weighted(a: Exact, v: Exact, layer: Attention, where: Geometry, levels: int, rom: Softmax | None = None) -> Exact:
    """Counts [B, T, C]: the ROM softmax of scores `a` over `v`, each row's threshold being its own denominator.

    `rom`: `Softmax.of(layer, where, levels)`, made once for many calls. Floats are overwritten; of integers int32.
    """
    rom = rom or Softmax.of(layer, where, levels)
    images, windows, heads, n, d = v.shape
    kind = rom.num.dtype
    index = (a + rom.place).astype(np.intp)
    # `clip` checks no bounds: every index is within the ROM by construction.
    num, den = rom.num.take(index, mode="clip"), rom.den.take(index, mode="clip")
    charge = num @ v.astype(kind, copy=False)
    # One product gives every row's denominator for each of its channels.
    threshold = (den.reshape(-1, n) @ np.ones((n, d), kind)).reshape(charge.shape)
    charge += np.floor(threshold * 0.5)
    out = fire(charge, threshold, levels)
    result = np.empty((images, windows * n, heads * d), v.dtype if v.dtype.kind == "f" else np.int32)
    result[:, where.token] = out.transpose(0, 1, 3, 2, 4).reshape(images, windows, n, heads * d)
    return result
