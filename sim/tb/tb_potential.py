"""Bench of hwgen/potential.py: neurons of several time steps, every sum and spike in its cycle, kept potentials by later steps.

MUTATE=greater (fires when v > threshold), reset (hard: v is 0 after a spike), forgotten (no potential is kept) and initial
(v starts at 0) must fail.
"""
import random
from dataclasses import dataclass
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge
from numpy.typing import NDArray

from hwgen.potential import NEURON_STAGES, SUM_STAGES
from quantize.formats import THRESHOLD_BITS, limits
from sim.golden.stepwise import integrate
from sim.scoreboard import Scoreboard
from sim.streams import reset, start_clock
from sim.tb.cases import pack_lanes, thresholds
from sim.tb.duts import machine, mutated
from sim.tb.step_duts import CHARGE_BITS, POTENTIAL_WORDS

Exact = NDArray[np.float64]
IMAGES = 6
LEAST = NEURON_STAGES + 2
"""Cycles after which a word's address may come again: one after its neurons are back in the memory."""


def neuron(v: Exact | None, charge: Exact, threshold: Exact, enable: bool) -> tuple[Exact, Exact, Exact]:
    """Potential before it fires, spikes, and what is kept, of a time step; `v` None: the first one."""
    if mutated("initial" if v is None else "forgotten"):
        v = np.zeros_like(charge)
    late = int(mutated("greater"))
    spikes, kept = integrate(v, charge - late, threshold)
    kept = kept + late
    before = kept + spikes * threshold
    if not enable:
        return before, np.zeros_like(charge), before
    return before, spikes, np.where(spikes * mutated("reset"), 0, kept)


@dataclass(frozen=True, slots=True)
class Access:
    """What goes in, from cycle `at` on (address, then charge and threshold), and what is to come out."""

    at: int
    address: int
    charge: Exact
    threshold: Exact
    sums: Exact
    spikes: Exact


def charge_near(rng: random.Random, v: Exact, threshold: Exact) -> Exact:
    """A charge of any size, or one that takes v to the threshold, or beside it."""
    low, high = limits(CHARGE_BITS, True)
    drawn = [int(t) - int(old) + rng.choice([-1, 0, 1]) if rng.random() < 0.4
             else rng.randint(*limits(rng.choice((4, 14, 22, CHARGE_BITS)), True)) for old, t in zip(v, threshold, strict=True)]
    return np.clip(np.array(drawn, np.float64), low, high)


def random_steps(rng: random.Random, levels: int, lanes: int, steps: int, gap: int, enable: bool) -> list[list[Access]]:
    """The accesses of an image's first time step, and those of all others: between the two, `initial` falls.

    Every word is visited in the first step, some in each later one, as soon as they may be or up to `gap` cycles later.
    """
    words = rng.sample(range(POTENTIAL_WORDS), rng.choice([1, 3, LEAST, LEAST + 1, POTENTIAL_WORDS]))
    threshold = {word: levels * thresholds(rng, lanes).astype(np.float64) for word in words}
    kept: dict[int, Exact] = {}
    parts: list[list[Access]] = [[], []]
    at, last = -1, dict.fromkeys(words, -LEAST)
    for step in range(steps):
        visited = [word for word in words if step == 0 or rng.random() < 0.9]
        for word in visited if rng.random() < 0.7 else rng.sample(visited, len(visited)):
            if step == 1 and not parts[1]:
                at, last = -1, dict.fromkeys(words, -LEAST)
            at = max(at + 1, last[word] + LEAST) + rng.randint(0, gap)
            last[word] = at
            # half a threshold is only what the charge is drawn from: what is expected comes from the golden
            charge = charge_near(rng, kept.get(word, threshold[word] / 2), threshold[word])
            sums, spikes, kept[word] = neuron(kept.get(word), charge, threshold[word], enable)
            parts[step > 0].append(Access(at, word, charge, threshold[word] // levels, sums, spikes))
    return parts


@cocotb.test()
@cocotb.parametrize(gap=[0, 3], enable=[1, 0])
async def neurons(dut: Any, gap: int, enable: int) -> None:
    """Images one after the other; `gap`: most idle cycles before an address; `enable`: whether neurons may fire."""
    m, rng = machine(), random.Random(f"potential {gap} {enable}")
    start_clock(dut)
    dut.valid.value, dut.enable.value = 0, enable
    await reset(dut)
    closest = set[int]()
    for image in range(IMAGES):
        for late, part in enumerate(random_steps(rng, (1 << m.level_bits) - 1, m.fire_lanes, m.steps, gap, bool(enable))):
            dut.first_step.value = 1 - late
            await _part(dut, rng, part, f"image {image}, {'later steps' if late else 'first step'}")
            closest |= {b.at - a.at for a in part for b in part if a.address == b.address and b.at > a.at}
    assert gap or min(closest) == LEAST, f"no word came again after {LEAST} cycles: {sorted(closest)[:3]}"


async def _part(dut: Any, rng: random.Random, part: list[Access], label: str) -> None:
    """Drive the accesses; compare every sum and spike in its cycle; without `valid`, addresses and charges are anything."""
    m = machine()
    bits, lanes = m.potential_bits, m.fire_lanes
    opened, charged = ({access.at + later: access for access in part} for later in (0, 1))
    summed, fired = ({access.at + 1 + later: access for access in part} for later in (SUM_STAGES, NEURON_STAGES))
    boards = [Scoreboard([pack_lanes(getattr(access, name).astype(np.int64), width) for access in part],
                         label=f"{label}: {name} {{}}".format, show=hex) for name, width in (("sums", bits), ("spikes", 1))]
    for cycle in range(part[-1].at + LEAST if part else 0):
        now, due = opened.get(cycle), charged.get(cycle)
        dut.valid.value, dut.address.value = int(now is not None), rng.randrange(POTENTIAL_WORDS) if now is None else now.address
        if due is None:
            dut.charge.value, dut.threshold.value = rng.getrandbits(CHARGE_BITS * lanes), rng.getrandbits(THRESHOLD_BITS * lanes)
        else:
            dut.charge.value = pack_lanes(due.charge.astype(np.int64), CHARGE_BITS)
            dut.threshold.value = pack_lanes(due.threshold.astype(np.int64), THRESHOLD_BITS)
        await RisingEdge(dut.clk)
        if cycle in summed:
            boards[0].check(int(dut.sums.value))
        if cycle in fired:
            boards[1].check(int(dut.spike.value))
    for board in boards:
        board.finish()
