"""Neurons of the golden model (docs/semantics.md, sections 1, 3.2 and 3.3). Integers in, integers out; no clock."""
import numpy as np
from numpy.typing import NDArray

from quantize.layers import NormFire, Requantise, Residual

Counts = NDArray[np.int32]
Wide = NDArray[np.int64]


def fire(v: Wide, threshold: Wide | int, levels: int) -> Counts:
    """Spike count 0..levels of a potential `v`: fires while v >= threshold, soft reset. Shapes broadcast."""
    return np.clip(v // threshold, 0, levels).astype(np.int32)


def fire_biased(charge: Wide, bias: Wide, threshold: Wide, levels: int) -> Counts:
    """`fire` of a charge [..., C] from half a threshold and a bias, both [C]."""
    return fire(charge + (bias + (threshold >> 1)), threshold, levels)


def residual(stream: Counts | None, counts: Counts, add: Residual) -> Counts:
    """The stream int32 [..., C] after `counts` have joined it. OverflowError beyond int16, which `check` excludes."""
    joined = add.gain.astype(np.int32) * counts
    if not add.fresh:
        assert stream is not None
        joined += stream
    if joined.size and not -32768 <= int(joined.min()) <= int(joined.max()) <= 32767:
        raise OverflowError("the residual stream leaves int16: run quantize.network.check on this network")
    return joined


def norm_fire(stream: Counts, norm: NormFire, levels: int) -> Counts:
    """BatchNorm and neuron on the stream [..., C]."""
    signed = np.where(norm.negate != 0, -stream, stream).astype(np.int64)
    return fire_biased(signed, norm.bias, norm.threshold, levels)


def requantise(stream: Counts, to: Requantise) -> Counts:
    """The stream as signed planes of `to.bits`: rounding shift, then saturation."""
    top = 1 << to.bits - 1
    return np.clip((stream + ((1 << to.shift) >> 1)) >> to.shift, -top, top - 1).astype(np.int32)
