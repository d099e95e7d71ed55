"""Bench of hwgen/gemm.py: whole tiles from spike words to results, one after the other; and their cycles.

All memories are there; Python loads and reads them and is not in the cycle loop. MUTATE=greater (fires when
v > threshold), MUTATE=shift (all planes weigh the same) and MUTATE=cycles (one more predicted) must fail. A stepwise machine
runs each tile for some time steps; there MUTATE=sums (logits of the last step alone) must fail too.
"""
import random
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge, with_timeout

from hwgen.config import MachineConfig
from hwgen.descriptors import GEMM, After, pack
from hwgen.gemm_cycles import gemm_cycles, vectors
from quantize.formats import limits
from sim.golden.gemm import accumulate
from sim.scoreboard import Scoreboard
from sim.streams import PERIOD_NS, reset, start_clock
from sim.tb.cases import FireCase, Ints, Walk, descriptor, pack_lanes, random_fire, random_walk
from sim.tb.duts import BRANCH, LOGITS, NEURON, SPIKE_WORDS, SPIKES, STREAM, WEIGHT_ROWS, WEIGHTS, machine, mutated
from sim.tb.step_cases import STEPS, random_steps
from sim.tb.tb_fire import spoil

CASES = 12


async def _load(dut: Any, select: int, words: dict[int, int]) -> None:
    dut.load__en.value, dut.load__select.value = 1, select
    for address, word in words.items():
        dut.load__address.value, dut.load__data.value = address, word
        await RisingEdge(dut.clk)
    dut.load__en.value = 0


async def _look(dut: Any, select: int, address: int) -> int:
    dut.look__select.value, dut.look__address.value = select, address
    await RisingEdge(dut.clk)
    await RisingEdge(dut.clk)
    return int(dut.look__data.value)


def _sums(walk: Walk, weights: Ints) -> Ints:
    """Sums [T, lanes] of the walk's values and the weight rows that they select."""
    values = walk.values
    if mutated("shift"):
        values = (values[..., None] >> np.arange(walk.bits) & 1).sum(axis=-1)
    return accumulate(weights[walk.rows].T, values.astype(np.int32))


def _image(m: MachineConfig, memory: dict[int, int]) -> Ints:
    """The spike scratchpad as counts [words, lanes]."""
    image = np.zeros((SPIKE_WORDS, m.lanes), np.int64)
    for address, word in memory.items():
        image[address] = [word >> lane * m.planes & (1 << m.planes) - 1 for lane in range(m.lanes)]
    return image


@cocotb.test()
@cocotb.parametrize(density=[0.05, 0.4, 1.0])
async def tiles(dut: Any, density: float) -> None:
    """Random tiles of every kind; results, cycles and events exact."""
    spoil()
    m, rng = machine(), random.Random(f"gemm {density}")
    start_clock(dut)
    dut.start.value, dut.load__en.value = 0, 0
    await reset(dut)
    low, high = limits(m.weight_bits, True)
    weights = np.array([[rng.choice([0, low, high, rng.randint(low, high)]) for _ in range(m.lanes)]
                        for _ in range(WEIGHT_ROWS)])
    await _load(dut, WEIGHTS, {address: pack_lanes(row, m.weight_bits) for address, row in enumerate(weights)})
    spikes: dict[int, int] = {}
    for index in range(CASES):
        walk = random_walk(rng, m, density, small=rng.random() < 0.3)
        channels = m.lanes if rng.random() < 0.5 else rng.randint(1, m.lanes)
        used = weights[walk.rows].copy()
        used[:, channels:] = 0  # lanes without a channel hold weights of 0
        rows = {int(row): pack_lanes(line, m.weight_bits) for row, line in zip(walk.rows, used, strict=True)}
        for row, line in zip(walk.rows, used, strict=True):
            weights[row] = line
        acc = _sums(walk, weights)[:, :channels]
        tokens = walk.fields["tokens_x"] + 1, walk.fields["tokens_y"] + 1
        if m.stepwise:
            found = random_steps(rng, m, np.array([acc] * STEPS), tokens, After(index % 4), part=index % 4)
        else:
            found = [random_fire(rng, m, acc, tokens, After(index % 4), part=index % 4)]
        await _load(dut, WEIGHTS, rows)
        for step, case in enumerate(found):
            dut.first_step.value, dut.last_step.value = int(step == 0), int(step == len(found) - 1)
            await _load(dut, SPIKES, walk.memory)
            spikes |= walk.memory
            await _tile(dut, m, walk, case, spikes, f"tile {index} step {step}")


async def _tile(dut: Any, m: MachineConfig, walk: Walk, case: FireCase, spikes: dict[int, int], label: str) -> None:
    """Run a tile; `spikes`: what the spike scratchpad holds, before and after."""
    fields = descriptor(case.fields, walk.fields)
    for select, words in ((NEURON, case.neuron), (BRANCH, case.branch), (STREAM, case.stream)):
        await _load(dut, select, words)
    dut.desc.value, dut.masked.value, dut.mask_state.value = pack(GEMM, fields), case.masked, case.mask_state
    dut.mask_override.value, dut.override_ratio.value, dut.start.value = case.override, case.override_ratio, 1
    await RisingEdge(dut.clk)
    dut.start.value = 0
    await with_timeout(RisingEdge(dut.finished), 200_000 * PERIOD_NS, "ns")
    await RisingEdge(dut.clk)
    written = [w for w in case.writes if w.port != "logits"]
    places = [f"{label} {w.port} word {w.address}" for w in written]
    board = Scoreboard([w.data for w in written], label=places.__getitem__, show=hex)
    for write in written:
        board.check(await _look(dut, SPIKES if write.port == "spike" else STREAM, write.address))
        if write.port == "spike":
            spikes[write.address] = write.data
    board.finish()
    logits = [w.address << 32 * m.fire_lanes | w.data for w in case.writes if w.port == "logits"]
    assert int(dut.logit_words.value) == len(logits), f"{label}: {dut.logit_words.value} groups of logits"
    board = Scoreboard(logits, label=f"{label} logits {{}}".format, show=hex)
    for address in range(len(logits)):
        board.check(await _look(dut, LOGITS, address))
    board.finish()
    # `cycles` counts the cycles of start and of done.
    predicted = gemm_cycles(fields, m, vectors(fields, m, _image(m, spikes)))
    measured = int(dut.elapsed.value) + 1, int(dut.taken.value)
    want = predicted.cycles + mutated("cycles"), predicted.events
    assert measured == want, f"{label} (cycles, events): measured {measured}, predicted {want}"
