"""Bench of the output stream, on `sim.tb.host_dut`.

Environment: HOST_DUT names the configuration; RESULT_WRONG=1 spoils one expected logit, RESULT_EXTRA=1 expects a packet
that never comes: both must turn the bench red.
"""
import os
import random
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge
from cocotbext.axi import AxiStreamBus, AxiStreamSink

from sim.cocotb_bus import StreamSink
from sim.scoreboard import Scoreboard
from sim.streams import StreamDriver, cycles
from sim.tb.host_bench import begin, pauses, pulse
from sim.tb.host_dut import CONFIGS

PACKETS = 12


def pack(values: list[int], last: bool) -> int:
    """A group's payload: lanes of 32 bits, the unused ones not 0, count, last."""
    lanes = CONFIGS[os.environ["HOST_DUT"]].fire_lanes
    word = sum((value & 0xFFFFFFFF) << 32 * index for index, value in enumerate(values + [-1] * (lanes - len(values))))
    return word | len(values) << 32 * lanes | int(last) << (32 * lanes + lanes.bit_length())


def groups_of(logits: list[int]) -> list[int]:
    """The groups of one image."""
    lanes = CONFIGS[os.environ["HOST_DUT"]].fire_lanes
    return [pack(logits[at:at + lanes], at + lanes >= len(logits)) for at in range(0, len(logits), lanes)]


def random_logits(generator: random.Random, count: int) -> list[int]:
    return [generator.randint(-2**31, 2**31 - 1) for _ in range(count)]


def signed(word: int) -> int:
    return word - (word >> 31 << 32)


async def hold_rule(dut: Any) -> None:
    """tvalid, once high, stays with its beat until tready."""
    before = None
    while True:
        await FallingEdge(dut.clk)
        if int(dut.rst.value):
            continue
        valid, now = int(dut.m_axis_tvalid.value), (int(dut.m_axis_tdata.value), int(dut.m_axis_tlast.value))
        assert before is None or (valid and now == before), f"the beat {before} was withdrawn or changed: {valid, now}"
        before = now if valid and not int(dut.m_axis_tready.value) else None


@cocotb.test()
@cocotb.parametrize(idle=[0, 3], stall=[0, 3])
async def matrix(dut: Any, idle: int, stall: int) -> None:
    """Every logit comes out once, in order, in packets of one image."""
    await begin(dut)
    cocotb.start_soon(hold_rule(dut))
    generator = random.Random(f"result {idle} {stall}")
    m = CONFIGS[os.environ["HOST_DUT"]]
    sizes = [1, m.fire_lanes, m.fire_lanes + 1, 10, m.lanes]
    sizes += [generator.randint(1, 2 * m.lanes) for _ in range(PACKETS)]
    expected = [random_logits(generator, size) for size in sizes]
    items = [group for logits in expected for group in groups_of(logits)]
    if os.environ.get("RESULT_WRONG") == "1":
        expected[3][4] ^= 1
    if os.environ.get("RESULT_EXTRA") == "1":
        expected.append([0])
    board = Scoreboard(expected, label=lambda index: f"packet {index}")
    sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), dut.clk, dut.rst, byte_lanes=4)
    sink.log.setLevel("WARNING")
    if stall:
        sink.set_pause_generator(pauses(stall, "sink"))
    StreamDriver(dut, "groups", dut.clk, idle=idle).start(items)
    for _ in range(400):
        await cycles(dut.clk, 20)
        while not sink.empty():
            data = bytes(sink.recv_nowait().tdata)
            board.check([signed(int.from_bytes(data[at:at + 4], "little")) for at in range(0, len(data), 4)])
        if board.drained:
            break
    board.finish()
    await cycles(dut.clk, 3)
    assert int(dut.idle.value) == 1


@cocotb.test()
async def holds_a_tile(dut: Any) -> None:
    """A whole tile is taken at a group a cycle while the host takes nothing; `idle` tells that it is held."""
    await begin(dut)
    m = CONFIGS[os.environ["HOST_DUT"]]
    logits = random_logits(random.Random("tile"), m.lanes)
    driver = StreamDriver(dut, "groups", dut.clk)
    assert int(dut.idle.value) == 1
    await driver.send_all(groups_of(logits))
    assert driver.stalled == 0, f"a tile stalled {driver.stalled} times"
    await cycles(dut.clk, 20)
    assert int(dut.idle.value) == 0
    sink = StreamSink(dut, "m_axis", dut.clk)
    await cycles(dut.clk, m.lanes + 10)
    assert [[signed(word) for word in packet] for packet in sink.packets] == [logits]
    assert int(dut.idle.value) == 1


@cocotb.test()
@cocotb.parametrize(taken=[0, 1, 2, 7, 8], stall=[0, 4])
async def flush(dut: Any, taken: int, stall: int) -> None:
    """A flush while a packet goes out closes it; the next packet is whole. `taken`: cycles before the flush."""
    await begin(dut)
    cocotb.start_soon(hold_rule(dut))
    generator = random.Random(f"flush {taken} {stall}")
    m = CONFIGS[os.environ["HOST_DUT"]]
    dropped, good = random_logits(generator, m.lanes), random_logits(generator, 10)
    driver = StreamDriver(dut, "groups", dut.clk)
    sink = StreamSink(dut, "m_axis", dut.clk, stall=stall)
    await driver.send_all(groups_of(dropped)[:max(1, m.lanes // m.fire_lanes - 1)])
    await cycles(dut.clk, taken)
    await pulse(dut, "flush")
    for _ in range(100):
        await cycles(dut.clk, 5)
        if int(dut.idle.value):
            break
    assert int(dut.idle.value) == 1, "not idle after a flush"
    await driver.send_all(groups_of(good))
    await cycles(dut.clk, 20 + 10 * (stall + 1))
    packets = [[signed(word) for word in packet] for packet in sink.packets]
    assert packets and packets[-1] == good, f"after a flush: {packets}"
    assert len(packets) <= 2
    for packet in packets[:-1]:
        assert packet[-1] == 0 and packet[:-1] == dropped[:len(packet) - 1], f"the flushed packet: {packet}"
