"""Exact cycles of a GEMM descriptor, from the spike words it reads: the timing contract of `hwgen.gemm` as a recurrence.

Cycle 0 is the cycle of `start`. The word issued in cycle c (one a cycle from cycle 2 on) is judged in c + FETCH_STAGES and,
if it is queued, can be taken from the next cycle on. A word of k events, all planes of its pass together, holds the emitter
max(1, ceil(k / rows_per_cycle)) cycles. A token's last emission waits until `spacing` cycles after the one before.
docs/architecture.md draws it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.config import MachineConfig
from hwgen.descriptors import ADDRESS_BITS, After
from hwgen.extract import EMIT_STAGES, FETCH_STAGES
from hwgen.lanes import LaneArray
from hwgen.potential import SUM_STAGES, neuron_stages

Ints = NDArray[np.int64]
Fields = dict[str, int]

EMIT_TO_READY = EMIT_STAGES + LaneArray.LATENCY
"""Cycles from a token's last emission to its sums being ready."""
FIRST_JUDGED = 2 + FETCH_STAGES
"""Cycle in which the first word is judged."""


def logits_delay(m: MachineConfig) -> int:
    """Cycles from a group of sums entering the fire unit to its logits."""
    return 2 + (SUM_STAGES if m.stepwise else 0)


def write_delay(m: MachineConfig) -> int:
    """Cycles from a token's last group entering the fire unit to the write of its first spike word."""
    return 2 * neuron_stages(m) + 7


@dataclass(frozen=True, slots=True)
class GemmCycles:
    """What a GEMM descriptor costs for one image."""

    cycles: int
    """from the cycle of `start` to the cycle of `done`, inclusive"""
    events: int
    """weight rows read"""
    emitting: int
    """cycles in which the extractor emitted at least one event"""


def input_planes(f: Fields, m: MachineConfig) -> int:
    """Bit planes of an input value."""
    return f["first_bit"] + 1 + f["first_group"] // f["group_step"] * m.planes


def by_pass(f: Fields, m: MachineConfig, events: Ints) -> Ints:
    """Events [tokens, passes, words] of events [tokens, planes, words], heaviest plane first: what is taken together."""
    alone = [1] if f["signed"] and f["first_bit"] else []  # the sign plane, then the others of its group
    starts = [0, *alone, *range(f["first_bit"] + 1, events.shape[1], m.planes)]
    return np.add.reduceat(events, starts, axis=1)


def addresses(f: Fields, m: MachineConfig) -> Ints:
    """Spike words read, for each plane: [tokens, planes, gathered tokens * words], without the plane's group."""
    y, x = np.meshgrid(np.arange(f["tokens_y"] + 1), np.arange(f["tokens_x"] + 1), indexing="ij")
    row = f["tokens_x"] * f["token_step"] + f["row_step"]
    token = f["in_base"] + y.ravel() * row + x.ravel() * f["token_step"]
    px, py = np.meshgrid(np.arange(f["phases_x"] + 1), np.arange(f["phases_y"] + 1), indexing="ij")
    gathered = (px * f["off_x"] + py * f["off_y"]).ravel()
    inner = (gathered[:, None] + np.arange(f["words"] + 1)[None, :]).ravel()
    where = token[:, None, None] + np.zeros((1, input_planes(f, m), 1), np.int64) + inner[None, None, :]
    return where % (1 << ADDRESS_BITS)


def inside(f: Fields) -> NDArray[np.bool_]:
    """Which of the words [tokens, gathered tokens * words] lie inside the map; the others are not read and count as 0."""
    y, x = (np.arange(f[name] + 1) * f["stride"] - f["padding"] for name in ("tokens_y", "tokens_x"))
    row, column = y[:, None] + np.arange(f["phases_y"] + 1), x[:, None] + np.arange(f["phases_x"] + 1)
    row_in, column_in = (0 <= row) & (row <= f["side"]), (0 <= column) & (column <= f["side"])
    both = row_in[:, None, None, :] & column_in[None, :, :, None]  # [y, x, px, py]
    return both.reshape(len(y) * len(x), -1).repeat(f["words"] + 1, axis=1)


def vectors(f: Fields, m: MachineConfig, memory: Ints) -> Ints:
    """Events by plane, heaviest first, [tokens, planes, gathered tokens * words], from a scratchpad image [words, lanes]."""
    real = inside(f)
    where = np.where(real[:, None], addresses(f, m), 0)
    group, bit = f["first_group"], f["first_bit"]
    counts = np.empty(where.shape, np.int64)
    for plane in range(where.shape[1]):
        counts[:, plane] = (memory[where[:, plane] + group] >> bit & 1).sum(axis=-1) * real
        bit -= 1
        if bit < 0:
            bit, group = m.planes - 1, group - f["group_step"]
    return counts


def gemm_cycles(f: Fields, m: MachineConfig, events: Ints) -> GemmCycles:
    """Cycles of the descriptor with fields `f` (`hwgen.descriptors.GEMM`) for `events` as `vectors` gives them."""
    events = by_pass(f, m, events)
    flat = events.reshape(-1)
    pass_end = np.zeros(events.shape, bool)
    pass_end[:, :, -1] = True
    token_end = np.zeros(events.shape, bool)
    token_end[:, -1, -1] = True
    queued = np.flatnonzero((flat > 0) | pass_end.reshape(-1))
    gaps = np.diff(queued, prepend=-1)
    busy = np.maximum(1, -(-flat[queued] // m.rows_per_cycle))
    ends = token_end.reshape(-1)[queued]
    spacing, depth = f["spacing"] + 1, m.queue_depth
    taken = [0] * len(queued)
    judged, free, last = FIRST_JUDGED - 1, 0, -spacing
    for index, (gap, cycles, end) in enumerate(zip(gaps.tolist(), busy.tolist(), ends.tolist(), strict=True)):
        judged += gap
        if index >= depth and taken[index - depth] >= judged:
            judged = taken[index - depth] + 1
        take = max(judged + 1, free)
        taken[index] = take
        free = take + cycles
        if end:
            free = last = max(free, last + spacing)
    groups = f["groups"] + 1
    if f["after"] == After.LOGITS:
        done = last + EMIT_TO_READY + groups + logits_delay(m)
    else:
        done = last + EMIT_TO_READY + groups + write_delay(m) + f["out_words"]
    return GemmCycles(done + 1, int(flat.sum()), int((-(-flat // m.rows_per_cycle)).sum()))
