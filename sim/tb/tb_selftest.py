"""Bench of the bench helpers: words through a small FIFO, in every mix of idle and stall.

Environment: SELFTEST_WRONG=1 spoils one expected word, SELFTEST_EXTRA=1 expects one word that never comes: both must
turn the bench red. SELFTEST_HANDSHAKE=1 turns on the bench for DUTs that break the handshake.
"""
import os
import random
from typing import Any

import cocotb

from sim.scoreboard import Scoreboard
from sim.streams import StreamDriver, StreamMonitor, reset, start_clock

COUNT = 60


@cocotb.test()
@cocotb.parametrize(idle=[0, 3], stall=[0, 3])
async def matrix(dut: Any, idle: int, stall: int) -> None:
    """Every word comes out once, in order."""
    generator = random.Random(f"words {idle} {stall}")
    words = [generator.getrandbits(16) for _ in range(COUNT)]
    expected = list(words)
    if os.environ.get("SELFTEST_WRONG") == "1":
        expected[17] ^= 1
    if os.environ.get("SELFTEST_EXTRA") == "1":
        expected.append(0)
    start_clock(dut)
    scoreboard = Scoreboard(expected, label=lambda index: f"word {index}", show=hex)
    driver = StreamDriver(dut, "i", dut.clk, idle=idle)
    await reset(dut)
    monitor = StreamMonitor(dut, "o", dut.clk, stall=stall, on_item=scoreboard.check)
    await driver.start(words)
    await monitor.wait_for(COUNT)
    scoreboard.finish()
    if idle == 0 and stall == 0:
        assert driver.stalled == 0, f"a free stream stalled {driver.stalled} times"


@cocotb.test(skip="SELFTEST_HANDSHAKE" not in os.environ)
async def handshake(dut: Any) -> None:
    """Only watches the output, with stalls: the monitor must object when the DUT breaks the handshake."""
    start_clock(dut)
    monitor = StreamMonitor(dut, "o", dut.clk, stall=5)
    await monitor.wait_for(30)
