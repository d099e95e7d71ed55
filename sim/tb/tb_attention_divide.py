"""Bench of hwgen/attention_divide.py: rows of sums divided as Python's integers are, and their neurons over several time steps.

MUTATE=rounded (to the nearest quotient), short (the last bit of the quotient missing), forgotten (no potential is kept),
late (`take` a cycle later) and kept (`start` drops nothing) must fail.
"""
import random
from dataclasses import dataclass, field
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge
from numpy.typing import NDArray

from hwgen.attention_cycles import OUTPUT_STAGES
from hwgen.config import MachineConfig
from quantize.formats import CURRENT_FRACTION
from sim.golden.stepwise import integrate
from sim.scoreboard import Scoreboard
from sim.streams import reset, start_clock
from sim.tb.cases import pack_lanes
from sim.tb.duts import machine, mutated
from sim.tb.step_duts import POTENTIAL_WORDS, ROW_SUM_BITS, SUM_BITS

Exact = NDArray[np.float64]
Sums = tuple[list[int], int]
"""N of each channel, D."""
IMAGES = 2


def quotient(n: int, d: int) -> int:
    """The current of a sum."""
    if mutated("rounded"):
        return ((n << CURRENT_FRACTION) + d // 2) // d
    current = (n << CURRENT_FRACTION) // d
    return current & ~1 if mutated("short") else current


def random_sum(rng: random.Random, d: int, bits: int, v: int) -> int:
    """N of a quotient below 2^bits: one that takes `v` to the threshold or beside it; any; none; the largest; one without a
    remainder, or with the largest."""
    top = min((d << bits - CURRENT_FRACTION) - 1, (1 << SUM_BITS) - 1)
    style = rng.choice(("near", "near", "near", "any", "small", "none", "largest", "even", "odd"))
    if style == "largest":
        return top
    if style == "near" and v < 1 << CURRENT_FRACTION:
        return min(top, (((1 << CURRENT_FRACTION) - v) * d >> CURRENT_FRACTION) + rng.randint(0, 1))
    if style == "small":
        return min(top, rng.randint(0, 2 * d))
    if style == "even":
        return min(top // d, rng.randint(0, 3)) * d
    if style == "odd" and d & 1:  # (N << 16) % d is d - 1
        return -pow(1 << CURRENT_FRACTION, -1, d) % d
    return 0 if style == "none" else rng.randint(0, top)


def random_row(rng: random.Random, m: MachineConfig, old: Exact | None) -> Sums:
    """A row of sums whose quotients fit, for the potentials `old`."""
    d = rng.randint(1, (1 << rng.choice((ROW_SUM_BITS, rng.randint(1, ROW_SUM_BITS)))) - 1)
    v = [1 << CURRENT_FRACTION - 1] * m.head_lanes if old is None else [int(value) for value in old]
    return [random_sum(rng, d, m.current_bits, value) for value in v], d


def junk_row(rng: random.Random, m: MachineConfig) -> Sums:
    """A row beyond the last query: its sums are anything."""
    return [rng.getrandbits(SUM_BITS) for _ in range(m.head_lanes)], rng.getrandbits(ROW_SUM_BITS) if rng.random() < 0.7 else 0


@dataclass(slots=True)
class Timeline:
    """What goes in by cycle, and every `take` in order: cycle, `take_last` and spikes (None: of a row beyond the last query)."""

    starts: dict[int, tuple[int, int]] = field(default_factory=dict)
    """potential_base and initial"""
    loads: dict[int, list[Sums]] = field(default_factory=dict)
    takes: list[tuple[int, int, int | None]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    end: int = 0

    def layer(self, rng: random.Random, m: MachineConfig, label: str, kept: dict[int, Exact], base: int, queries: int,
              first: bool, slack: int, row_cycles: int) -> None:
        """A layer of `queries` rows that starts at `end`; its rows beyond the last query are dropped where they are late."""
        count = m.attention_rows
        self.starts[self.end] = base, int(first)
        at, last, found = self.end + 1, 0, []
        for low in range(0, queries, count):
            at += rng.randint(0, slack)
            words = [None if first else kept.get(base + low + r) for r in range(count)]
            self.loads[at] = rows = [random_row(rng, m, old) if low + r < queries else junk_row(rng, m)
                                     for r, old in enumerate(words)]
            for r, sums in enumerate(rows):
                at += row_cycles
                spikes = fire(kept, base + low + r, sums, first) if low + r < queries else None
                last = last if spikes is None else at + OUTPUT_STAGES
                found.append((at + OUTPUT_STAGES, int(r == count - 1), spikes))
        self.end = rng.randint(last + 1, found[-1][0] + 2)
        for item in found:
            if item[0] <= self.end or mutated("kept"):
                self.takes.append((item[0] + mutated("late"), *item[1:]))
                self.labels.append(label)


def fire(kept: dict[int, Exact], word: int, sums: Sums, first: bool) -> int:
    """A row's spikes, channel 0 lowest."""
    n, d = sums
    old = None if first else np.zeros(len(n)) if mutated("forgotten") else kept[word]
    spikes, kept[word] = integrate(old, np.array([quotient(value, d) for value in n], np.float64), 1 << CURRENT_FRACTION)
    return pack_lanes(spikes.astype(np.int64), 1)


@cocotb.test()
@cocotb.parametrize(slack=[0, 9], slow=[0, 5])
async def layers(dut: Any, slack: int, slow: int) -> None:
    """Two layers after each other in each time step of some images.

    `slack`: most cycles that a pass is later than it may be; `slow`: cycles that a row takes beyond those of its division.
    """
    m, rng, line = machine(), random.Random(f"divide {slack} {slow}"), Timeline()
    room, row_cycles = POTENTIAL_WORDS // 2, m.current_bits + slow
    for image in range(IMAGES):
        kept, queries = dict[int, Exact](), [rng.randint(1, room) for _ in range(2)]
        for step, layer in np.ndindex(m.steps, 2):
            line.layer(rng, m, f"image {image} step {step} layer {layer}", kept, layer * room, queries[layer], step == 0, slack,
                       row_cycles)
    line.starts[line.end] = 0, 1  # of a layer that is not watched
    start_clock(dut)
    dut.start.value = dut.load.value = 0
    dut.row_last.value = row_cycles - 1
    await reset(dut)
    board = Scoreboard(line.takes, label=line.labels.__getitem__)
    for cycle in range(line.end + 3 * row_cycles):
        dut.start.value, dut.load.value = int(cycle in line.starts), int(cycle in line.loads)
        if cycle in line.starts:
            dut.potential_base.value, dut.first_step.value = line.starts[cycle]
        else:
            dut.potential_base.value = rng.randrange(POTENTIAL_WORDS)  # only `start` takes it
        row_sums = line.loads.get(cycle) or [junk_row(rng, m) for _ in range(m.attention_rows)]
        dut.n.value = pack_lanes(np.array([n for n, _ in row_sums]).ravel(), SUM_BITS)
        dut.d.value = pack_lanes(np.array([d for _, d in row_sums]), ROW_SUM_BITS)
        await RisingEdge(dut.clk)
        if int(dut.take.value):
            wanted = board.checked < len(line.takes) and line.takes[board.checked][2] is not None
            board.check((cycle, int(dut.take_last.value), int(dut.row.value) if wanted else None))
    board.finish()
