"""Bench of hwgen/lfsr.py against model.masking: draws, rows, and jumps of 32 cycles. MUTATE=leap must fail."""
import random
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import ReadOnly, RisingEdge, Timer

from hwgen.lfsr import Jump
from model.lfsr import LEAP, ROW_DRAWS, apply_polynomial, jump_polynomial, start_state
from model.masking import draws
from sim.streams import reset, start_clock
from sim.tb.duts import LFSR_DRAWS, mutated

ROWS = 3


async def _jump(dut: Any, state: int, polynomial: int) -> int:
    """The result; the inputs change right after start, `done` must pulse once and in time."""
    dut.start.value, dut.state.value, dut.polynomial.value = 1, state, polynomial
    await RisingEdge(dut.clk)
    dut.start.value, dut.state.value, dut.polynomial.value = 0, ~state & 0xFFFFFFFF, ~polynomial & 0xFFFFFFFF
    for cycle in range(1, Jump.CYCLES + 3):
        await RisingEdge(dut.clk)
        assert int(dut.done.value) == (cycle == Jump.CYCLES), f"done is {dut.done.value} {cycle} cycles after start"
        if cycle == Jump.CYCLES:
            result = int(dut.result.value)
    assert int(dut.result.value) == result, "the result does not hold"
    return result


@cocotb.test()
async def stream(dut: Any) -> None:
    """From an image's start state: jump to a draw, take draws, go on to the next rows, as `draws` (numpy) says."""
    rng = random.Random("lfsr")
    start_clock(dut)
    dut.start.value = 0
    await reset(dut)
    for _ in range(12):
        seed, image = rng.getrandbits(32), rng.randint(0, 9999)
        row, column = rng.randint(0, 300), rng.randint(0, 64)
        expected = draws(seed, np.array([image]), row, ROWS, column + LFSR_DRAWS)[0, :, column:]
        if mutated("leap"):
            expected = np.roll(expected, 1, axis=1)
        state = await _jump(dut, start_state(seed, image), jump_polynomial(LEAP * (ROW_DRAWS * row + column)))
        for line in expected:
            dut.at.value = state
            await Timer(1, "ns")
            await ReadOnly()
            got = int(dut.draws.value).to_bytes(LFSR_DRAWS, "little")
            want = line.tobytes()
            assert got == want, f"seed {seed:#x} image {image}: got {got.hex()}, expected {want.hex()}"
            state = int(dut.row.value)
            await RisingEdge(dut.clk)


@cocotb.test()
async def polynomials(dut: Any) -> None:
    """Any polynomial on any state, and a jump that another start breaks off."""
    rng = random.Random("jump")
    start_clock(dut)
    dut.start.value = 0
    await reset(dut)
    cases = [(rng.getrandbits(32), rng.getrandbits(32)) for _ in range(10)] + [(1, 1), (1, 1 << 31), (1 << 31, 0)]
    for index, (state, polynomial) in enumerate(cases):
        if index % 3 == 1:
            dut.start.value, dut.state.value, dut.polynomial.value = 1, rng.getrandbits(32), rng.getrandbits(32)
            for _ in range(rng.randint(1, 20)):
                await RisingEdge(dut.clk)
                dut.start.value = 0
        assert await _jump(dut, state, polynomial) == apply_polynomial(state, polynomial), f"{state:#x} {polynomial:#x}"
