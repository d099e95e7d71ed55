"""Random cases of the GEMM engine's benches: a walk over input tokens, and what the fire unit does with the sums.

Expected values come from `sim.golden`; what is added here is only where the words lie (hwgen/descriptors.py) and, for
the blocks' benches, the cycle in which each is written (the timing their docstrings state).
"""
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.config import MachineConfig
from hwgen.descriptors import GEMM, After
from hwgen.fire import PLANES_MAX
from hwgen.gemm_cycles import logits_delay, write_delay
from hwgen.gemm_desc import NO_EDGE
from hwgen.parameters import BRANCH, NEURON, pack_channel
from hwgen.potential import neuron_stages
from model.lfsr import LEAP, ROW_DRAWS, jump, start_state
from model.masking import draws
from quantize.formats import BIAS_BITS, LOGIT_BITS, STREAM_BITS, THRESHOLD_BITS, limits
from quantize.layers import NormFire, Requantise, Residual
from sim.golden import fire as golden
from sim.tb.duts import PARAM_WORDS, SPIKE_WORDS, STREAM_WORDS, WEIGHT_ROWS

Ints = NDArray[np.int64]
Fields = dict[str, int]
OUT_BASE = SPIKE_WORDS // 2
"""Inputs lie below, results from here on."""
STREAM_PARTS = 4
"""Residuals of consecutive descriptors lie in different parts of the stream scratchpad."""


def pack_lanes(values: Ints, bits: int) -> int:
    """One word of `values`, lane 0 lowest, `bits` bits each (two's complement)."""
    word = 0
    for lane, value in enumerate(values.tolist()):
        word |= (value & (1 << bits) - 1) << lane * bits
    return word


@dataclass(frozen=True, slots=True)
class Emission:
    """What the extractor gives in one cycle: weight rows, the power of two of each, and flags."""

    rows: tuple[int, ...]
    planes: tuple[int, ...]
    load: bool
    shift: bool
    negate: bool
    last: bool


@dataclass(frozen=True, slots=True)
class Walk:
    """The input side of a descriptor: spike `memory` by address, `values` [T, inputs], the weight row of each input."""

    fields: Fields
    memory: dict[int, int]
    values: Ints
    rows: Ints
    bits: int


def random_walk(rng: random.Random, m: MachineConfig, density: float, small: bool = False) -> Walk:
    """Random shape, strides and values; a share of `density` of the values is not 0, and some tokens are all 0."""
    while True:
        walk = _random_walk(rng, m, density, small)
        if walk is not None:
            return walk


def _random_walk(rng: random.Random, m: MachineConfig, density: float, small: bool) -> Walk | None:
    lanes, b = m.lanes, m.planes
    tx, ty = rng.randint(1, 3), rng.randint(1, 3)
    px, py = rng.choice([(1, 1), (1, 1), (2, 2), (2, 1), (1, 3)])
    channels = rng.randint(1, lanes if small else 3 * lanes)
    bits = rng.choice([b, b, 1, rng.randint(1, 8), 12])
    signed = rng.random() < 0.5
    words, groups = -(-channels // lanes), -(-bits // b)
    group_step = words + rng.randint(0, 2)
    token_words = groups * group_step + rng.randint(0, 2)
    row_words = tx * px * token_words + rng.randint(0, 3)
    size = ty * py * row_words
    row_word_step = lanes + rng.randint(0, 3)
    row_phase_step = (words - 1) * row_word_step + lanes + rng.randint(0, 3)
    if size >= OUT_BASE or px * py * row_phase_step >= WEIGHT_ROWS:
        return None
    base = rng.randint(0, OUT_BASE - size)
    weight_base = rng.randint(0, WEIGHT_ROWS - px * py * row_phase_step)
    fields = {
        "in_base": base, "token_step": px * token_words, "row_step": py * row_words - (tx - 1) * px * token_words,
        "tokens_x": tx - 1, "tokens_y": ty - 1, "phases_x": px - 1, "phases_y": py - 1, "off_x": token_words,
        "off_y": row_words, "words": words - 1, "group_step": group_step, "first_group": (groups - 1) * group_step,
        "first_bit": (bits - 1) % b, "passes_less_one": groups - 1 + int(signed and (bits - 1) % b > 0),
        "signed": int(signed), "weight_base": weight_base, "stride": 0, "padding": 0, "side": NO_EDGE,
        "row_word_step": row_word_step, "row_phase_step": row_phase_step}
    if rng.random() < 0.5:  # some gathered tokens lie outside of the map: whatever the memory holds there counts as 0
        fields |= {"stride": rng.randint(1, 3), "padding": rng.randint(0, 2), "side": rng.randint(0, 5)}
    low, high = limits(bits, signed)
    raw = np.array([[rng.randint(low, high) if rng.random() < density else 0 for _ in range(px * py * channels)]
                    for _ in range(tx * ty)], np.int64)
    raw[[rng.random() < 0.2 for _ in range(tx * ty)]] = 0
    memory, rows = {}, []
    for phase in range(px * py):
        rows += [weight_base + phase * row_phase_step + c // lanes * row_word_step + c % lanes for c in range(channels)]
        for token in range(tx * ty):
            x, y = token % tx * px + phase // py, token // tx * py + phase % py  # y is the inner one
            for group in range(groups):
                part = raw[token, phase * channels:(phase + 1) * channels] >> group * b & (1 << b) - 1
                for word in range(words):
                    at = base + y * row_words + x * token_words + group * group_step + word
                    memory[at] = pack_lanes(part[word * lanes:(word + 1) * lanes], b)
    for token, phase in np.ndindex(tx * ty, px * py):
        at_x = token % tx * fields["stride"] - fields["padding"] + phase // py
        at_y = token // tx * fields["stride"] - fields["padding"] + phase % py
        if not (0 <= at_x <= fields["side"] and 0 <= at_y <= fields["side"]):
            raw[token, phase * channels:(phase + 1) * channels] = 0
    return Walk(fields, memory, raw, np.array(rows), bits)


def passes(m: MachineConfig, walk: Walk) -> list[list[int]]:
    """Planes that each pass takes together, by weight: groups of `m.planes`; the sign plane goes alone."""
    groups = [list(range(low, min(low + m.planes, walk.bits))) for low in range(0, walk.bits, m.planes)][::-1]
    if walk.fields["signed"] and len(groups[0]) > 1:
        return [[groups[0].pop()], *groups]
    return groups


def emissions(m: MachineConfig, walk: Walk, zero_words: bool = False) -> list[Emission]:
    """Every emission of the walk, in order; `zero_words` (wrong on purpose) lets empty words take a cycle."""
    found = []
    f, channels = walk.fields, walk.values.shape[1]
    phases = (f["phases_x"] + 1) * (f["phases_y"] + 1)
    per = channels // phases
    for token in walk.values:
        group = None
        for number, planes in enumerate(passes(m, walk)):
            fresh, shifts = True, group not in (None, planes[0] // m.planes)
            group = planes[0] // m.planes
            for phase in range(phases):
                for word in range(f["words"] + 1):
                    start = phase * per + word * m.lanes
                    span = slice(start, min(start + m.lanes, (phase + 1) * per))
                    left = [(row, plane % m.planes) for plane in planes for row in walk.rows[span][token[span] >> plane & 1 == 1]]
                    end = phase == phases - 1 and word == f["words"]
                    if not left and not end and not zero_words:
                        continue
                    first = True
                    while first or left:
                        picked = [left.pop(0)] if left else []
                        if left and m.rows_per_cycle == 2:
                            picked.append(left.pop())
                        found.append(Emission(tuple(int(row) for row, _ in picked), tuple(plane for _, plane in picked),
                                              fresh and first and number == 0, fresh and first and shifts,
                                              bool(f["signed"]) and number == 0, end and planes[0] == 0 and not left))
                        first = False
                    fresh = False
    return found


@dataclass(frozen=True, slots=True)
class Write:
    """A memory write or a group of logits (`port` logits: address 0 or, for the last of a token, 1)."""

    port: str
    address: int
    data: int
    after: int
    """cycles after its token's `ready`"""
    token: int


@dataclass(frozen=True, slots=True)
class FireCase:
    """The output side of a descriptor: `fields`, mask inputs, parameters and residuals by address, expected writes."""

    fields: Fields
    masked: int
    mask_state: int
    override: int
    override_ratio: int
    neuron: dict[int, int]
    branch: dict[int, int]
    stream: dict[int, int]
    writes: list[Write]
    done: int
    """cycles from the last token's `ready` to `done`"""


def near(rng: random.Random, levels: int, charge: Ints, threshold: Ints) -> Ints:
    """Biases [C] that put the potential of a random token of `charge` [T, C] at a firing edge, or one beside it."""
    low, high = limits(BIAS_BITS, True)
    picked = np.array([charge[rng.randrange(len(charge)), c] for c in range(charge.shape[1])], np.int64)
    steps = np.array([rng.randint(0, levels + 1) for _ in threshold], np.int64)
    beside = np.array([rng.choice([-1, 0, 0, 1]) for _ in threshold], np.int64)
    return np.clip(steps * threshold + beside - (threshold >> 1) - picked, low, high)


def thresholds(rng: random.Random, count: int) -> Ints:
    """Thresholds of every magnitude, 1 .. 2^20 - 1."""
    return np.array([rng.randint(1, (1 << rng.randint(1, THRESHOLD_BITS)) - 1) for _ in range(count)], np.int64)


@dataclass(frozen=True, slots=True)
class MaskPlace:
    """Where a tile's draws lie, and the override of its ratios."""

    seed: int
    image: int
    row: int
    column: int
    override_ratio: int

    @property
    def state(self) -> int:
        """LFSR state before the first draw."""
        return jump(start_state(self.seed, self.image), LEAP * (ROW_DRAWS * self.row + self.column))


def random_tile(rng: random.Random, m: MachineConfig, shape: tuple[int, int], tokens: tuple[int, int], after: After,
                part: int) -> tuple[Fields, MaskPlace]:
    """The output side's fields of a tile of `shape` (tokens, channels), `tokens` (x, y); where its mask draws lie."""
    count, channels = shape
    lanes, b = m.fire_lanes, m.planes
    enabled = b if rng.random() < 0.7 else rng.randint(1, b)
    groups, bits, shift = -(-channels // lanes), rng.randint(2, PLANES_MAX), rng.randint(0, 8)
    out_words = -(-bits // b) if after == After.PLANES else 1
    fresh = rng.random() < 0.4
    seed, image, row0, column0 = rng.getrandbits(32), rng.randint(0, 999), rng.randint(0, 40), rng.randint(0, 40)
    span = STREAM_WORDS // STREAM_PARTS
    stream_step = groups + rng.randint(0, 3)
    out_word_step = rng.randint(1, 3)
    out_step = (out_words - 1) * out_word_step + 1 + rng.randint(0, 2)
    neuron_base, branch_base = (rng.randint(0, PARAM_WORDS - groups) for _ in range(2))
    stream_base = part * span + rng.randint(0, max(0, span - count * stream_step))
    out_base = OUT_BASE + rng.randint(0, SPIKE_WORDS - OUT_BASE - count * out_step - 1)
    ratio0, ratio1, override_ratio = (rng.choice([0, 64, 192, 255]) for _ in range(3))
    fields = {
        "groups": groups - 1, "spacing": max(groups, out_words) - 1,
        "neuron_base": neuron_base, "branch_base": branch_base,
        "phases": (1 << enabled) - 1, "after": int(after), "fresh": int(fresh), "shift": shift, "plane_bits": bits - 1,
        "stream_base": stream_base, "stream_step": stream_step, "out_base": out_base, "out_step": out_step,
        "out_words": out_words - 1, "out_word_step": out_word_step, "ratio0": ratio0, "ratio1": ratio1,
        "count": channels, "final": rng.randint(0, 1), "tokens_x": tokens[0] - 1, "tokens_y": tokens[1] - 1}
    return fields, MaskPlace(seed, image, row0, column0, override_ratio)


def dropped(fields: Fields, select: Ints, masked: int, override: bool, place: MaskPlace) -> NDArray[np.bool_]:
    """Which spikes [T, C] the mask takes; `select` [C]: which ratio is a channel's."""
    count = (fields["tokens_x"] + 1) * (fields["tokens_y"] + 1)
    ratios = np.where(select == 2, fields["ratio1"], fields["ratio0"])
    ratio = np.where(select == 0, 0, place.override_ratio if override else ratios) * masked
    drawn = draws(place.seed, np.array([place.image]), place.row, count, place.column + len(select))
    return drawn[0, :, place.column:] < ratio


def random_residual(rng: random.Random, levels: int, count: int, channels: int) -> tuple[Ints, NDArray[np.int32]]:
    """Gains [C], and residuals [count, C] to which counts up to `levels` can be added."""
    largest = 32767 // levels
    gain = np.array([rng.randint(-largest, largest) >> rng.randint(0, 12) for _ in range(channels)], np.int64)
    room = 32767 - np.abs(gain) * levels
    return gain, np.array([[rng.randint(-int(r), int(r)) for r in room] for _ in range(count)], np.int32)


def parameters(rng: random.Random, m: MachineConfig, fields: Fields, neurons: dict[str, Ints],
               branches: dict[str, Ints]) -> tuple[dict[int, int], dict[int, int]]:
    """Words of the parameter memories, by address, of channels with these fields [C]; lanes without a channel are silent."""
    lanes, channels = m.fire_lanes, len(neurons["offset"])
    neuron: dict[int, int] = {}
    branch: dict[int, int] = {}
    for group, lane in np.ndindex(fields["groups"] + 1, lanes):
        c = group * lanes + lane
        # sums of time steps begin at half a threshold
        n = {"offset": 0, "threshold": int(fields["after"] != After.LOGITS), "select": rng.randint(0, 2)}
        r = {"gain": 0, "negate": 0, "offset": 0, "threshold": 1}
        if c < channels:
            n, r = ({name: int(values[c]) for name, values in table.items()} for table in (neurons, branches))
        for words, base, kind, of in ((neuron, "neuron_base", NEURON, n), (branch, "branch_base", BRANCH, r)):
            at = fields[base] + group
            words[at] = words.get(at, 0) | pack_channel(kind, of) << kind.size * lane
    return neuron, branch


def stream_words(m: MachineConfig, fields: Fields, values: NDArray[np.integer]) -> dict[int, int]:
    """Words of the residual scratchpad, by address, of `values` [T, C]."""
    return {fields["stream_base"] + token * fields["stream_step"] + group:
            pack_lanes(_group(values[token], group, m.fire_lanes), STREAM_BITS)
            for group in range(fields["groups"] + 1) for token in range(len(values))}


def expected_writes(m: MachineConfig, fields: Fields, sums: Ints, stream: NDArray[np.integer],
                    out: NDArray[np.integer]) -> tuple[list[Write], int]:
    """Writes of a tile, in order, and its cycles to `done`. Logits `sums`, or residuals `stream` and results `out`: [T, C]."""
    lanes, b, after = m.fire_lanes, m.planes, After(fields["after"])
    groups, out_words, residuals = fields["groups"] + 1, fields["out_words"] + 1, stream_words(m, fields, stream)
    writes = []
    for token in range(len(sums)):
        for group in range(groups):
            if after == After.LOGITS:
                word = pack_lanes(_group(sums[token], group, lanes), LOGIT_BITS)
                writes.append(Write("logits", int(group == groups - 1), word, group + 1 + logits_delay(m), token))
            elif after != After.COUNTS:
                address = fields["stream_base"] + token * fields["stream_step"] + group
                writes.append(Write("stream", address, residuals[address], group + neuron_stages(m) + 5, token))
        for index in range(out_words if after != After.LOGITS else 0):
            word = pack_lanes(out[token].astype(np.int64) >> index * b, b)
            writes.append(Write("spike", fields["out_base"] + token * fields["out_step"] + index * fields["out_word_step"], word,
                                groups + write_delay(m) + index, token))
    return writes, groups + logits_delay(m) if after == After.LOGITS else groups + write_delay(m) - 1 + out_words


def random_fire(rng: random.Random, m: MachineConfig, acc: Ints, tokens: tuple[int, int], after: After,
                part: int = 0) -> FireCase:
    """A case for the sums `acc` [T, C], C <= lanes, of `tokens` (x, y); residuals in part `part` of their memory."""
    count, channels = acc.shape
    fields, place = random_tile(rng, m, (count, channels), tokens, after, part)
    levels, fresh, bits, shift = fields["phases"], bool(fields["fresh"]), fields["plane_bits"] + 1, fields["shift"]
    masked, override = rng.randint(0, 1), rng.random() < 0.3
    select = np.array([rng.randint(0, 2) for _ in range(channels)])
    gone = dropped(fields, select, masked, override, place)

    threshold = thresholds(rng, channels)
    bias = near(rng, levels, acc, threshold)
    gain, old = random_residual(rng, levels, count, channels)
    negate = np.array([rng.randint(0, 1) for _ in range(channels)], np.int64)
    threshold2 = thresholds(rng, channels)

    counts = golden.fire_biased(acc, bias, threshold, levels)
    stream = golden.residual(old, counts, Residual(gain, fresh))
    bias2 = near(rng, levels, np.where(negate == 1, -stream, stream).astype(np.int64), threshold2)
    if after == After.COUNTS:
        out = np.where(gone, 0, counts)
    elif after == After.NORM:
        out = np.where(gone, 0, golden.norm_fire(stream, NormFire(negate, bias2, threshold2, ""), levels))
    else:
        out = golden.requantise(stream, Requantise(shift, bits))
    half = 0 * threshold if after == After.LOGITS else threshold >> 1
    neuron, branch = parameters(
        rng, m, fields, {"offset": bias + half, "threshold": threshold, "select": select},
        {"gain": gain, "negate": negate, "offset": bias2 + (threshold2 >> 1), "threshold": threshold2})
    writes, done = expected_writes(m, fields, acc + bias, stream, out)
    return FireCase(fields, masked, place.state, int(override), place.override_ratio, neuron, branch,
                    stream_words(m, fields, old), writes, done)


def _group(values: NDArray[np.integer], group: int, lanes: int) -> Ints:
    """The channels of one fire group, 0 where there is none."""
    part = values[group * lanes:(group + 1) * lanes].astype(np.int64)
    return np.pad(part, (0, lanes - len(part)))


def descriptor(*parts: Fields) -> Fields:
    """All fields of a GEMM descriptor, those of `parts` and 0 else."""
    fields = dict.fromkeys(GEMM, 0)
    for part in parts:
        fields |= part
    return fields
