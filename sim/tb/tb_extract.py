"""Bench of hwgen/extract.py: every emission of random walks, in order, whatever `hold` does; and cycles without `hold`.

MUTATE=shift (the shift between groups dropped), MUTATE=plane (all events in plane 0), MUTATE=zero (empty words take a cycle) must
fail.
"""
import dataclasses
import random
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hwgen.config import MachineConfig
from hwgen.descriptors import GEMM, pack
from hwgen.extract import EMIT_STAGES, emission
from sim.scoreboard import Scoreboard
from sim.streams import reset, start_clock
from sim.tb.cases import Emission, Walk, descriptor, emissions, random_walk
from sim.tb.duts import SPIKES, machine, mutated

WALKS = 6
QUIET = EMIT_STAGES + 3
"""Cycles without an emission after which a walk has nothing left."""


def emitted(m: MachineConfig, word: int) -> Emission | None:
    """The emission in the packed `out`, None without valid."""
    out = emission(m).from_bits(word)
    if not out.valid:
        return None
    flags = out.flags
    hot = [int(out.plane[port]) for port in range(m.rows_per_cycle)]
    assert all(plane & plane - 1 == 0 for plane in hot), f"planes {hot} are not one hot"
    return Emission(tuple(int(out.row[port]) for port, plane in enumerate(hot) if plane),
                    tuple(plane.bit_length() - 1 for plane in hot if plane),
                    bool(flags.load), bool(flags.shift), bool(flags.negate), bool(flags.last))


def expected(m: MachineConfig, walk: Walk) -> list[Emission]:
    """The walk's emissions, spoilt where the run is to fail."""
    found = emissions(m, walk, zero_words=mutated("zero"))
    if mutated("shift"):
        return [dataclasses.replace(e, shift=False) for e in found]
    return [dataclasses.replace(e, planes=(0,) * len(e.planes)) for e in found] if mutated("plane") else found


async def begin(dut: Any, walk: Walk) -> None:
    """Load the walk's words and pulse start; returns just after the edge that took it."""
    dut.load__select.value = SPIKES
    for address, word in walk.memory.items():
        dut.load__address.value, dut.load__data.value, dut.load__en.value = address, word, 1
        await RisingEdge(dut.clk)
    dut.load__en.value = 0
    dut.desc.value, dut.start.value = pack(GEMM, descriptor(walk.fields)), 1
    await RisingEdge(dut.clk)
    dut.start.value = 0


@cocotb.test()
@cocotb.parametrize(density=[0.0, 0.1, 0.5, 1.0], stall=[0, 2, 9])
async def matrix(dut: Any, density: float, stall: int) -> None:
    """`hold` is up for 1 to `stall` cycles at a time, half of the time."""
    m, rng = machine(), random.Random(f"extract {density} {stall}")
    start_clock(dut)
    dut.hold.value, dut.start.value, dut.load__en.value = 0, 0, 0
    await reset(dut)
    for index in range(WALKS):
        walk = random_walk(rng, m, density)
        board = Scoreboard(expected(m, walk), label=f"walk {index} emission {{}}".format)
        await begin(dut, walk)
        hold, left, ending, quiet, waited = 0, 0, [0] * EMIT_STAGES, 0, 0
        while quiet < QUIET or board.missing:
            if not left:
                hold = int(stall > 0 and not hold)
                left = rng.randint(1, stall + 1)
            left -= 1
            dut.hold.value = hold
            await RisingEdge(dut.clk)
            got = emitted(m, int(dut.out.value))
            assert ending.pop(0) == (got is not None and got.last), "`ending` is not EMIT_STAGES before a token's last emission"
            ending.append(int(dut.ending.value))
            assert not (hold and ending[-1]), "a token ended while hold was up"
            quiet = 0 if got else quiet + 1
            waited += 1
            if got:
                board.check(got)
            assert waited < 50_000, f"{board.missing} emissions missing"
        board.finish()


@cocotb.test()
async def zeros_are_free(dut: Any) -> None:
    """While the queue holds work every cycle has an event: a word of all ones hides the zero words behind it."""
    m, rng = machine(), random.Random("free")
    start_clock(dut)
    dut.hold.value, dut.start.value, dut.load__en.value = 0, 0, 0
    await reset(dut)
    done = 0
    while done < 3:
        walk = random_walk(rng, m, 0.0)
        words = walk.fields["words"] + 1
        per = walk.values.shape[1]
        busy = -(-min(m.lanes, per) // m.rows_per_cycle)
        if words < 3 or busy < words or walk.fields["phases_x"] or walk.fields["phases_y"] or walk.fields["stride"]:
            continue
        walk.values[0] = 0
        walk.values[:, :m.lanes] = -1 if walk.fields["signed"] else (1 << walk.bits) - 1
        ones = sum(((1 << m.planes) - 1) << lane * m.planes for lane in range(m.lanes))
        tokens = [y * ((walk.fields["tokens_x"]) * walk.fields["token_step"] + walk.fields["row_step"])
                  + x * walk.fields["token_step"] for y in range(walk.fields["tokens_y"] + 1)
                  for x in range(walk.fields["tokens_x"] + 1)]
        groups = range(walk.fields["first_group"], -1, -walk.fields["group_step"])
        base = walk.fields["in_base"]
        memory = {base + t + g + w: ones * (w == 0) for t in tokens for g in groups for w in range(words)}
        walk = dataclasses.replace(walk, memory=memory)
        board = Scoreboard(expected(m, walk), label="emission {}".format)
        await begin(dut, walk)
        bubbles = 0
        while board.missing:
            await RisingEdge(dut.clk)
            got = emitted(m, int(dut.out.value))
            if got:
                board.check(got)
            elif board.checked:
                bubbles += 1
            assert bubbles == 0, f"{bubbles} cycles without an emission"
        done += 1
