"""Integer scales of the residual stream: real x[c] = rho[c] * X[c] + offset[c], one plan per stage.

Source: docs/semantics.md, 3.2. A branch adds gain * count. BatchNorm on the shortcut only changes rho and offset, so
the stream is never rescaled.
"""
from dataclasses import dataclass

import numpy as np

from quantize.fold import Affine, ExportError, Floats, FoldedNorm
from quantize.formats import BIAS_BITS, STREAM_BITS, THRESHOLD_BITS, limits
from quantize.layers import Ints, NormFire, Requantise

STREAM_MAX = limits(STREAM_BITS, signed=True)[1]
THRESHOLD_MAX = limits(THRESHOLD_BITS, signed=False)[1]
SMALLEST_FIRST_GAIN = 4
"""A norm that nearly erases the shortcut would blow up all later gains: its scale is held up, so that this remains."""
HELD_ERROR = 0.125
"""Largest standard deviation, in spikes of the next branch, of what a held scale adds to the stream: more is refused."""
RANGE_SIGMAS = 4.0
"""Requantised planes hold mean + this many standard deviations of a channel, as the next BatchNorm saw them."""


@dataclass(frozen=True, slots=True)
class Step:
    """A branch that joins the stream with threshold `theta`; `move`: the norm that then moves the stream, or None."""

    theta: float
    move: Affine | None


@dataclass(frozen=True, slots=True)
class Scale:
    """The stream's meaning after a step: real x = rho * X + offset, float64 [C]."""

    rho: Floats
    offset: Floats


@dataclass(frozen=True, slots=True)
class Hold:
    """A norm's scale that the stream cannot follow: of `channel` after the branch number `step`, `wanted` by the network, `used`
    in integers. `error`: standard deviation of the difference, in spikes of the largest branch that follows."""

    step: int
    channel: int
    wanted: float
    used: float
    error: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One stage: the gain [C] of each step, the scale just before and just after its norm moves the stream.

    `requantise` leads to the next merge or head. `holds`: norm scales that were held up.
    """

    gains: tuple[Ints, ...]
    before: tuple[Scale, ...]
    after: tuple[Scale, ...]
    requantise: Requantise
    holds: tuple[Hold, ...]

    @property
    def held(self) -> int:
        """Channels of which a norm scale was held up."""
        return len({hold.channel for hold in self.holds})


def _gains(first: Floats, ratios: Floats) -> Ints:
    return np.rint(first * ratios).astype(np.int64)


def plan_stage(steps: list[Step], leaving: Affine, levels: int, bits: int, target_shift: int | None = None) -> Plan:
    """Scales and gains of a stage of `steps` (the first one fresh), requantised to `bits` signed planes at its end.

    `leaving`: the norm of the merge (per phase, 4C) or head (C), whose training statistics tell the range.
    Never leaves int16: sum over steps of |gain| * levels <= 32767 for every channel; ExportError if the branches'
    thresholds are too far apart for that.
    """
    width = len(leaving.mean)
    channels = next((len(step.move.scale) for step in steps if step.move is not None), width)
    fold = width // channels
    ratios, scale, holds = [], np.ones(channels), list[Hold]()
    largest = STREAM_MAX / (levels * SMALLEST_FIRST_GAIN * len(steps))
    moves: list[Floats] = []
    for index, step in enumerate(steps):
        ratios.append(step.theta / (steps[0].theta * scale))
        if step.move is None:
            moves.append(np.ones(channels))
            continue
        following = max((later.theta for later in steps[index + 1:]), default=0.0)
        floor = following / (steps[0].theta * largest) / np.abs(scale)
        moves.append(np.where(step.move.scale < 0, -1.0, 1.0) * np.maximum(np.abs(step.move.scale), floor))
        for channel in np.flatnonzero(np.abs(step.move.scale) < floor):
            wanted, used = float(step.move.scale[channel]), float(moves[-1][channel])
            holds.append(Hold(index, int(channel), wanted, used, abs(used - wanted) * float(step.move.std[channel]) / following))
        scale = scale * moves[-1]
    table = np.array(ratios)
    total = np.abs(table).sum(0)
    first = np.floor(STREAM_MAX / (levels * total))
    if (first < 2).any():
        worst = int(first.argmin())
        raise ExportError(f"residual channel {worst}: the branches' thresholds differ by a factor of "
                          f"{total[worst]:.3g}, which {STREAM_BITS} bits cannot hold: take another checkpoint")
    while (over := np.abs(_gains(first, table)).sum(0) * levels > STREAM_MAX).any():
        first = np.where(over, first - 1, first)

    # How far each channel reaches at the stage's end decides the planes' shift; wide channels then give up scale.
    offset = np.zeros(channels)
    for step in steps:
        if step.move is not None:
            offset = step.move.scale * offset + step.move.shift
    mean, std = leaving.mean.reshape(fold, channels), leaving.std.reshape(fold, channels)
    rho = steps[0].theta * scale / first
    reach = ((np.abs(mean - offset) + RANGE_SIGMAS * std) / np.abs(rho)).max(0)
    bound = np.abs(_gains(first, table)).sum(0) * levels
    reach = np.minimum(reach, bound)
    top = limits(bits, signed=True)[1]
    shift = target_shift
    if shift is None:
        shift = max(0, int(np.floor(np.log2(max(float(np.median(reach)) / top, 1.0)))))
    room = np.minimum(1.0, (top << shift) / np.maximum(reach, 1.0))
    first = np.maximum(np.floor(first * room), np.minimum(first, SMALLEST_FIRST_GAIN))

    gains = tuple(_gains(first, row) for row in table)
    rho, offset = steps[0].theta / first, np.zeros(channels)
    before, after = [], []
    for step, move in zip(steps, moves, strict=True):
        before.append(Scale(rho, offset))
        if step.move is not None:
            rho, offset = rho * move, step.move.scale * offset + step.move.shift
        after.append(Scale(rho, offset))
    return Plan(gains, tuple(before), tuple(after), Requantise(shift, bits), tuple(holds))


def norm_fire(norm: FoldedNorm, scale: Scale, levels: int) -> NormFire:
    """BatchNorm and neuron of `norm` on a stream of `scale`, as one threshold, bias and sign per channel.

    y / theta = slope * X + level; the neuron's k-th spike needs sign * X >= (k - 1/2 - level) / |slope|.
    A slope that moves less than half a count over the whole stream becomes a constant count.
    """
    slope = norm.affine.scale * scale.rho / norm.theta
    level = (norm.affine.scale * scale.offset + norm.affine.shift) / norm.theta
    size = np.abs(slope)
    constant = size * (THRESHOLD_MAX + 0.5) <= 1
    exact = 1 / np.where(constant, 1.0, size)
    threshold = np.where(constant, THRESHOLD_MAX, np.maximum(1, np.rint(exact))).astype(np.int64)
    middle = (levels + 1) // 2
    # Meets the real threshold exactly at the middle count; the rounding of `threshold` is shared by both sides.
    low, high = limits(BIAS_BITS, signed=True)
    wanted = np.ceil((middle - 0.5 - level) * exact)
    bias = middle * threshold - (threshold >> 1) - np.clip(wanted, -high, high).astype(np.int64)
    count = np.clip(np.floor(level + 0.5), 0, levels).astype(np.int64)
    bias = np.clip(np.where(constant, count * THRESHOLD_MAX, bias), low, high)
    return NormFire((slope < 0).astype(np.int64), bias, threshold, norm.site)
