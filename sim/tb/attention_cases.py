"""Random attention layers for the bench, their scratchpad and ROM images, and what the golden model makes of them."""
import random
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from hwgen.attention_cycles import AttentionShape
from hwgen.attention_desc import attention_fields, pack_attention
from hwgen.config import MachineConfig
from model.lfsr import LEAP, ROW_DRAWS, jump, start_state
from model.masking import draws
from quantize.formats import SCORE_SHIFT
from quantize.layers import Attention
from sim.golden.attention import geometry, heads_of, scores, weighted
from sim.golden.fire import fire

WINDOWS, HEADS, HEAD_SIZES, RATIOS = (1, 2, 3, 4, 7, 8), (1, 2, 3, 5, 8), (5, 8, 16, 24, 32, 33), (0, 64, 192, 240, 255)
ROM_GAP = 50
STYLES = ("spread", "ties", "largest")
GUARD = 3
"""Random words before, between and after the regions, which must stay."""


@dataclass(frozen=True, slots=True)
class Case:
    """One layer: shape, mask ratio (in 1/256), and the style of its ROM and threshold ("spread", "ties", "largest")."""

    shape: AttentionShape
    ratio: int
    style: str = "spread"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Image:
    """What to load and what to expect. `spikes`: words from the base on; `expected`: the same words after the run."""

    descriptor: int
    mask_state: int
    spikes: list[int]
    rom: list[int]
    expected: list[int]
    writes: int
    label: str


def draw_cases(m: MachineConfig, count: int, seed: int, spike_words: int, rom_words: int,
               largest: int = 6000) -> list[Case]:
    """`count` layers that machine `m` can run, in the given words, of at most about `largest` score cycles each."""
    # not the whole configuration: a knob that the unit does not know must not change its cases
    knobs = (m.lanes, m.planes, m.attention_rows, m.head_lanes, m.window_tokens, m.rom_bits)
    generator = random.Random(f"attention {knobs} {seed}")
    cases: list[Case] = []
    while len(cases) < count:
        w = generator.choice([w for w in WINDOWS if w * w <= m.window_tokens])
        side = w * generator.choice((1, 2, 2, 3))
        shape = AttentionShape(side, w, generator.choice((0, w // 2)) if side > w else 0, generator.choice(HEADS),
                               generator.choice([d for d in HEAD_SIZES if d <= m.head_lanes]),
                               generator.choice((m.planes, m.planes, generator.randint(1, m.planes))))
        words = shape.side**2 * sum(shape.token_words(m.lanes, slots * shape.heads) for slots in (1, 3)) + 3 * GUARD
        entries = shape.heads * (2 * w - 1) ** 2 * (1 << shape.planes) + ROM_GAP
        cycles = shape.jobs * shape.passes(m) * shape.pass_cycles(m)
        if words <= spike_words and entries <= rom_words and cycles <= largest:
            cases.append(Case(shape, generator.choice(RATIOS), generator.choice(STYLES), len(cases)))
    return cases


def pack(counts: NDArray[np.int32], slots: int, shape: AttentionShape, m: MachineConfig) -> list[int]:
    """Counts [T, slots * head_size] as spike words, token by token."""
    d, lanes = shape.head_size, m.lanes
    per_word, per_head = shape.heads_per_word(lanes), shape.words_per_head(lanes)
    words = []
    for token in counts.reshape(len(counts), slots, d):
        row = [0] * shape.token_words(lanes, slots)
        for slot in range(slots):
            for c in range(d):
                word = slot // per_word * per_head + c // lanes
                row[word] |= int(token[slot, c]) << m.planes * (slot % per_word * d + c % lanes)
        words += row
    return words


def _rom(case: Case, m: MachineConfig, generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    shape, top = case.shape, (1 << m.rom_bits) - 1
    size = (shape.heads, (2 * shape.window - 1) ** 2, 1 << shape.planes)
    if case.style == "largest":
        return np.full(size, top), generator.integers(1, top + 1, size) | (top >> 1)
    high = 3 if case.style == "ties" else top
    return generator.integers(0, high + 1, size), generator.integers(1, high + 1, size)


def _late(v: NDArray[np.int64], threshold: int, levels: int) -> NDArray[np.int32]:
    """A wrong neuron: fires while v > threshold."""
    return fire(v - 1, threshold, levels)


def build(m: MachineConfig, case: Case, mutate: str = "", spike_base: int = 0, rom_base: int = 0) -> Image:
    """Stimulus and expectation of one case, to be loaded from the two bases on.

    `mutate` spoils the golden: "score_fire", "out_fire" (fires at `>`), "ratio" (a larger one).
    """
    shape, generator = case.shape, np.random.default_rng(case.seed)
    tokens, levels = shape.side**2, (1 << shape.planes) - 1
    channels = shape.heads * shape.head_size
    density = generator.choice((0.3, 0.7, 1.0))
    size = (tokens, 3 * channels)
    counts = (generator.integers(0, levels + 1, size) * (generator.random(size) < density)).astype(np.int32)
    num, den = _rom(case, m, generator)
    # about half of the largest score, so that all counts occur; ties need a multiple of the scale
    typical = max(1, int(shape.head_size * levels * density**2 / 4 * generator.choice((0.5, 1, 3))))
    threshold = (typical << SCORE_SHIFT) + (0 if case.style == "ties" else int(generator.integers(0, 256)))
    threshold = min(threshold, (1 << 20) - 1)
    layer = Attention("s0.b0.attn", shape.side, shape.heads, shape.head_size, shape.window, shape.shift, threshold,
                      num.astype(np.int32), den.astype(np.int32))

    where = geometry(layer)
    q, k, v = heads_of(counts[None], layer, where)
    with patch("sim.golden.attention.fire", _late if mutate == "score_fire" else fire):
        a = scores(q, k, layer, levels)
    n, seed, row = shape.tokens, int(generator.integers(0, 1 << 32)), int(generator.integers(0, 1000))
    ratio = case.ratio + 16 if mutate == "ratio" else case.ratio
    drawn = draws(seed, np.zeros(1, np.int64), row, shape.jobs * n, n)
    a = a * (drawn.reshape(a.shape) >= ratio)
    with patch("sim.golden.attention.fire", _late if mutate == "out_fire" else fire):
        out = weighted(a, v, layer, where, levels)

    state = jump(start_state(seed, 0), LEAP * ROW_DRAWS * row)
    return assemble(m, case, generator, counts, out[0], (num, den), state, spike_base, rom_base, score_threshold=threshold)


def assemble(m: MachineConfig, case: Case, generator: np.random.Generator, counts: NDArray[np.int32], out: NDArray[np.int32],
             rom: tuple[NDArray[np.int64], NDArray[np.int64]], mask_state: int, spike_base: int, rom_base: int,
             **fields: Any) -> Image:
    """The image of counts [T, 3C] of which the unit is to make `out` [T, C]. `rom`: num and den; `fields`: of the descriptor."""
    shape, (num, den) = case.shape, rom
    words_in, words_out = pack(counts, 3 * shape.heads, shape, m), pack(out, shape.heads, shape, m)
    noise = [int(x) for x in generator.integers(0, 1 << 62, 3 * GUARD + len(words_out))]
    noise = [x * 0x9E3779B97F4A7C15F39CC0605CEDC834_1082276BF3A27251 & (1 << m.word_bits) - 1 for x in noise]
    guards, stale = [noise[i:i + GUARD] for i in range(0, 3 * GUARD, GUARD)], noise[3 * GUARD:]
    before, after = guards[0] + words_in + guards[1], guards[2]
    gap = int(generator.integers(0, ROM_GAP))
    entries = [0] * gap + [int(d) << m.rom_bits | int(x) for x, d in zip(num.reshape(-1), den.reshape(-1), strict=True)]
    packed = pack_attention(attention_fields(
        m, shape, in_base=spike_base + GUARD, out_base=spike_base + len(before), rom_base=rom_base + gap, mask_ratio=case.ratio,
        **fields))
    return Image(packed, mask_state, before + stale + after, entries, before + words_out + after, len(words_out),
                 f"{shape} ratio {case.ratio}/256 {case.style}")
