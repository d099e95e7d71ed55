"""Neurons of the golden model (docs/semantics.md, sections 1, 3.2 and 3.3). No clock.

Every value is an integer. `run` holds them in floats, for speed: float32 where it holds each of them exactly, else
float64. A function answers floats in their own type and may reuse their memory; integers of any type it answers in int32.
"""
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.layers import NormFire, Requantise, Residual

Counts = NDArray[np.int32]
Wide = NDArray[np.int64]
Exact = NDArray[Any]
"""Integers, held in any type that holds them exactly."""

EXACT32 = 1 << 24
"""Every integer up to here in absolute value is a float32."""


def fire(v: Exact, threshold: Exact | int, levels: int) -> Exact:
    """Spike count 0..levels of a potential `v`: fires while v >= threshold, soft reset. Shapes broadcast; floats are overwritten.

    Exact: a quotient just below k is k - 1/threshold or less. It could round up to k <= 15 only if 1/threshold were at most
    2^-21 in float32 (2^-50 in float64), and thresholds have 20 bits. Beyond 0..levels rounding changes nothing.
    """
    if v.dtype.kind != "f":
        return fire(v.astype(np.float64), threshold, levels).astype(np.int32)
    np.divide(v, threshold, out=v)
    np.floor(v, out=v)
    return np.clip(v, 0, levels, out=v)


def fire_biased(charge: Exact, bias: Wide, threshold: Wide, levels: int) -> Exact:
    """`fire` of a charge [..., C] from half a threshold and a bias, both [C]; a float charge is overwritten."""
    start = bias + (threshold >> 1)
    if charge.dtype == np.float32 and np.abs(start).max(initial=0) <= EXACT32:
        # A sum beyond 2^24 is rounded, but stays beyond levels * threshold, which has 24 bits.
        np.add(charge, start.astype(np.float32), out=charge)
        return fire(charge, threshold.astype(np.float32), levels)
    kind = charge.dtype if charge.dtype.kind == "f" else np.dtype(np.int32)
    return fire(charge + start.astype(np.float64), threshold, levels).astype(kind)


def residual(stream: Exact | None, counts: Exact, add: Residual) -> Exact:
    """The stream [..., C] after `counts` have joined it; float counts are overwritten.

    OverflowError beyond int16, which `check` excludes.
    """
    if counts.dtype.kind == "f":
        joined = np.multiply(counts, add.gain.astype(counts.dtype), out=counts)
    else:
        joined = add.gain.astype(np.int32) * counts
    if not add.fresh:
        assert stream is not None
        joined += stream
    if joined.size and not -32768 <= int(joined.min()) <= int(joined.max()) <= 32767:
        raise OverflowError("the residual stream leaves int16: run quantize.network.check on this network")
    return joined


def norm_fire(stream: Exact, norm: NormFire, levels: int) -> Exact:
    """BatchNorm and neuron on the stream [..., C], which is kept."""
    signed = stream * np.where(norm.negate != 0, -1, 1).astype(stream.dtype)
    return fire_biased(signed, norm.bias, norm.threshold, levels)


def requantise(stream: Exact, to: Requantise) -> Exact:
    """The stream, which is kept, as signed planes of `to.bits`: rounding shift, then saturation."""
    top = 1 << to.bits - 1
    if stream.dtype.kind != "f":
        return np.clip((stream + ((1 << to.shift) >> 1)) >> to.shift, -top, top - 1).astype(np.int32)
    shifted = stream + ((1 << to.shift) >> 1)
    shifted *= 2.0**-to.shift
    np.floor(shifted, out=shifted)
    return np.clip(shifted, -top, top - 1, out=shifted)
