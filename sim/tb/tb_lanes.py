"""Bench of hwgen/lanes.py: values come in by groups of bit planes, one or two events a cycle, with idle cycles; sums are exact.

MUTATE=shift (all events of a group weigh the same), MUTATE=late (`ready` a cycle later) must fail.
"""
import random
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from hwgen.extract import emission
from hwgen.lanes import LaneArray
from quantize.formats import limits
from sim.golden.gemm import accumulate
from sim.scoreboard import Scoreboard
from sim.streams import reset, start_clock
from sim.tb.cases import pack_lanes
from sim.tb.duts import WEIGHT_ROWS, WEIGHTS, machine, mutated

TOKENS = 25


@cocotb.test()
@cocotb.parametrize(idle=[0, 3], empty=[0.0, 0.5])
async def sums(dut: Any, idle: int, empty: float) -> None:
    """`idle`: most idle cycles before an emission; `empty`: share of the emissions with fewer events than ports."""
    m, rng = machine(), random.Random(f"lanes {idle} {empty}")
    shape = emission(m)
    start_clock(dut)
    dut.events.value = 0
    await reset(dut)
    low, high = limits(m.weight_bits, True)
    weights = np.array([[rng.choice([low, high, rng.randint(low, high)]) for _ in range(m.lanes)]
                        for _ in range(WEIGHT_ROWS)])
    dut.load__select.value, dut.load__en.value = WEIGHTS, 1
    for address, row in enumerate(weights):
        dut.load__address.value, dut.load__data.value = address, pack_lanes(row, m.weight_bits)
        await RisingEdge(dut.clk)
    dut.load__en.value = 0

    items: list[dict[str, Any]] = []
    expected: list[tuple[int, ...]] = []
    for _ in range(TOKENS):
        bits, signed, count = rng.randint(1, 6), rng.random() < 0.5, rng.randint(1, 20)
        rows = rng.sample(range(WEIGHT_ROWS), count)
        values = np.array([rng.randint(*limits(bits, signed)) for _ in rows])
        reference = (values[:, None] >> np.arange(bits) & 1).sum(axis=1) if mutated("shift") else values
        expected.append(tuple(accumulate(weights[rows].T, reference[None].astype(np.int32)).ravel().tolist()))
        groups = [list(range(low, min(low + m.planes, bits))) for low in range(0, bits, m.planes)][::-1]
        # (planes, shifts, negates): the sign plane alone, then group by group
        passes = [(group, number > 0, False) for number, group in enumerate(groups)]
        if signed:
            passes[:1] = [([bits - 1], False, True), *([(groups[0][:-1], False, False)] if len(groups[0]) > 1 else [])]
        for number, (planes, shifts, negates) in enumerate(passes):
            left = [(row, plane % m.planes) for row, value in zip(rows, values, strict=True) for plane in planes
                    if value >> plane & 1]
            rng.shuffle(left)
            first = True
            while first or left:
                take = min(len(left), 0 if rng.random() < empty / 2 else rng.randint(1, m.rows_per_cycle))
                ports = rng.sample(range(m.rows_per_cycle), take)
                hot, row = [0] * m.rows_per_cycle, [rng.randrange(WEIGHT_ROWS) for _ in range(m.rows_per_cycle)]
                for port in ports:
                    row[port], plane = left.pop()
                    hot[port] = 1 << plane
                items.append({"valid": 1, "plane": hot, "row": row, "flags": {
                    "load": int(first and number == 0), "shift": int(first and shifts), "negate": int(negates),
                    "last": int(number == len(passes) - 1 and not left)}})
                first = False

    board = Scoreboard(expected, label=lambda index: f"token {index}")
    due: list[int] = []
    junk: dict[str, Any] = {"valid": 0, "plane": [1] * m.rows_per_cycle, "row": [3] * m.rows_per_cycle,
                            "flags": {"load": 1, "shift": 1, "negate": 1, "last": 1}}
    cycle = wait = position = 0
    while position < len(items) or cycle <= (due[-1] if due else 0) + 2:
        item = junk  # without valid nothing of it may count
        if position < len(items):
            if wait:
                wait -= 1
            else:
                item, position, wait = items[position], position + 1, rng.randint(0, idle)
                if item["flags"]["last"]:
                    due.append(cycle + LaneArray.LATENCY + mutated("late"))
        dut.events.value = shape.const(item).as_bits()
        await RisingEdge(dut.clk)
        if int(dut.ready.value):
            assert cycle in due, f"ready in cycle {cycle}, expected in {due[-3:]}"
            word, mask = int(dut.acc.value), (1 << m.acc_bits) - 1
            fields = [word >> lane * m.acc_bits & mask for lane in range(m.lanes)]
            board.check(tuple(v - (1 << m.acc_bits) if v >> m.acc_bits - 1 else v for v in fields))
        cycle += 1
    board.finish()
