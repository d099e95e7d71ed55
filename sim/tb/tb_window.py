"""Bench of the stream window: a host on AXI4-Lite; a memory in the place of the machine's registers; both streams.

Environment: WINDOW names the bus (`4` or `8` bytes); WINDOW_WRONG=1 spoils one expected beat, WINDOW_EXTRA=1 expects a packet
that never comes, WINDOW_LOGIT=1 spoils one expected logit, WINDOW_ROOM=1 expects room for one beat more: each must turn it red.
"""
import os
import random
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiLiteRam, AxiResp

from hwgen.registers import WINDOW_MAGIC, WINDOW_REGISTERS, address_map
from sim.cocotb_bus import StreamSink, StreamSource
from sim.scoreboard import Scoreboard
from sim.streams import cycles, reset, start_clock
from sim.tb.host_bench import pauses
from sim.tb.window_dut import BEATS, LOGITS

MAP = address_map(WINDOW_REGISTERS)
OKAY, SLVERR = AxiResp.OKAY, AxiResp.SLVERR
BUS = int(os.environ.get("WINDOW", "8"))


def flag(name: str) -> bool:
    return os.environ.get(name) == "1"


class Window:
    """Accesses by register name; the machine's registers are `ram`."""

    def __init__(self, dut: Any, idle: int, stall: int) -> None:
        self.lite = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        self.ram = AxiLiteRam(AxiLiteBus.from_prefix(dut, "m_axil"), dut.clk, dut.rst, size=256)
        write, read = self.lite.write_if, self.lite.read_if
        for end in (write, read, self.ram.write_if, self.ram.read_if):
            end.log.setLevel("WARNING")
        most = {write.aw_channel: idle, write.w_channel: idle, read.ar_channel: idle, write.b_channel: stall,
                read.r_channel: stall, self.ram.write_if.b_channel: idle, self.ram.read_if.r_channel: idle,
                self.ram.write_if.aw_channel: stall, self.ram.write_if.w_channel: stall, self.ram.read_if.ar_channel: stall}
        for number, (channel, pause) in enumerate(most.items()):
            if pause:
                channel.set_pause_generator(pauses(pause, f"window {number}"))

    async def put(self, offset: int, data: bytes) -> AxiResp:
        return (await self.lite.write(offset, data)).resp

    async def write(self, name: str, value: int) -> AxiResp:
        return await self.put(MAP[name].offset, value.to_bytes(4, "little"))

    async def read(self, name: str, index: int = 0) -> int:
        answer = await self.lite.read(MAP[name].offset + 4 * index, 4)
        assert answer.resp == OKAY, f"{name}: {answer.resp}"
        return int.from_bytes(answer.data, "little")

    async def field(self, name: str, field: str) -> int:
        return MAP[name].field(field).get(await self.read(name))

    async def send(self, packet: bytes) -> None:
        """A packet as a host sends it: never more beats than there is room for."""
        for at in range(0, len(packet), 4):
            while at % BUS == 0 and not await self.field("WINDOW_STATUS", "free"):
                pass
            word = int.from_bytes(packet[at:at + 4].ljust(4, b"\0"), "little")
            assert await self.write("SEND_LAST" if at + 4 >= len(packet) else "SEND", word) == OKAY


async def begin(dut: Any, idle: int = 0, stall: int = 0) -> Window:
    for name in ("awvalid", "wvalid", "bready", "arvalid", "rready"):
        getattr(dut, f"s_axil_{name}").value = 0
    for name in ("awready", "wready", "bvalid", "arready", "rvalid"):
        getattr(dut, f"m_axil_{name}").value = 0
    dut.m_axis_tready.value = dut.s_axis_tvalid.value = dut.s_axis_tlast.value = 0
    start_clock(dut)
    await reset(dut, 4)
    window = Window(dut, idle, stall)
    await cycles(dut.clk, 2)
    return window


def beats_of(packet: bytes) -> list[int]:
    """The model: a packet's beats, the last one filled up with zeros."""
    return [int.from_bytes(packet[at:at + BUS], "little") for at in range(0, len(packet), BUS)]


@cocotb.test()
async def first_values(dut: Any) -> None:
    """Identity and capability; unknown addresses and read-only registers answer SLVERR and change nothing."""
    window = await begin(dut)
    assert await window.read("WINDOW_ID") == WINDOW_MAGIC
    assert await window.field("WINDOW_CAP", "beats") == BEATS and await window.field("WINDOW_CAP", "logits") == LOGITS
    assert await window.read("WINDOW_STATUS") == BEATS + flag("WINDOW_ROOM")
    assert await window.read("RESULT") == await window.read("SEND") == await window.read("SEND_LAST") == 0
    for offset in (0x118, 0x200, 0xFFC, 0x1000 + 4 * LOGITS, 0x1FFC):
        assert (await window.lite.read(offset, 4)).resp == SLVERR, f"{offset:#x}"
        assert await window.put(offset, bytes(4)) == SLVERR, f"{offset:#x}"
    for name in ("WINDOW_ID", "WINDOW_CAP", "LOGITS"):
        assert await window.write(name, 1) == SLVERR, name
    for size in (1, 2, 3):
        assert await window.put(MAP["SEND"].offset, bytes(size)) == SLVERR, "part of a word"
    assert await window.read("WINDOW_STATUS") == BEATS, "nothing was begun"


@cocotb.test()
@cocotb.parametrize(idle=[0, 3], stall=[0, 3])
async def machine_registers_pass(dut: Any, idle: int, stall: int) -> None:
    """Reads and writes below the window reach the machine as they are, byte strobes too."""
    window = await begin(dut, idle, stall)
    generator = random.Random(f"pass {idle} {stall}")
    model = bytearray(256)
    for _ in range(60):
        offset = generator.randrange(256)
        data = generator.randbytes(generator.randint(1, 4 - offset % 4))
        assert await window.put(offset, data) == OKAY
        model[offset:offset + len(data)] = data
        at = generator.randrange(64) * 4
        answer = await window.lite.read(at, 4)
        assert (answer.resp, bytes(answer.data)) == (OKAY, bytes(model[at:at + 4])), f"{at:#x}"
    assert window.ram.read(0, 256) == bytes(model)


@cocotb.test()
@cocotb.parametrize(idle=[0, 3], stall=[0, 3])
async def packets(dut: Any, idle: int, stall: int) -> None:
    """Packets of every length come out whole and in order, however slow either side is."""
    window = await begin(dut, idle, stall)
    sink = StreamSink(dut, "m_axis", dut.clk, stall=8 * stall)
    generator = random.Random(f"packets {idle} {stall}")
    sent = [generator.randbytes(4 * generator.randint(1, 3 * BEATS)) for _ in range(12)]
    expected = [beats_of(packet) for packet in sent]
    if flag("WINDOW_WRONG"):
        expected[3][0] ^= 1
    if flag("WINDOW_EXTRA"):
        expected.append([0])
    board = Scoreboard(expected, label=lambda index: f"packet {index}")
    for packet in sent:
        await window.send(packet)
    while await window.field("WINDOW_STATUS", "free") < BEATS:
        pass
    await ClockCycles(dut.clk, 4)
    for found in sink.packets:
        board.check(found)
    board.finish()


@cocotb.test()
async def a_full_queue_refuses(dut: Any) -> None:
    """A beat too many is lost and said to be; nothing waits; the packet stays open until it is ended."""
    window = await begin(dut)
    words = BUS // 4
    for number in range(BEATS * words):
        assert await window.write("SEND", number) == OKAY, f"word {number}"
    state = MAP["WINDOW_STATUS"]
    assert await window.read("WINDOW_STATUS") == state.field("open").mask, "full, open, nothing lost"
    for _ in range(words - 1):
        assert await window.write("SEND", 99) == OKAY, "half a beat finds room"
    assert await window.write("SEND", 99) == SLVERR and await window.write("SEND_LAST", 99) == SLVERR
    assert await window.read("WINDOW_STATUS") == state.field("open").mask | state.field("overflow").mask
    sink = StreamSink(dut, "m_axis", dut.clk)
    await ClockCycles(dut.clk, BEATS + 4)
    assert await window.write("WINDOW_STATUS", state.field("overflow").mask) == OKAY
    assert await window.write("SEND_LAST", 7) == OKAY
    assert await window.read("WINDOW_STATUS") == BEATS
    await ClockCycles(dut.clk, 4)
    whole = b"".join(number.to_bytes(4, "little") for number in range(BEATS * words)) + (7).to_bytes(4, "little")
    assert list(sink.packets) == [beats_of(whole)]


@cocotb.test()
@cocotb.parametrize(idle=[0, 3], stall=[0, 3])
async def results(dut: Any, idle: int, stall: int) -> None:
    """Logits are held until the host lets them go; the next result waits meanwhile; what finds no room is counted."""
    window = await begin(dut, idle, stall)
    source = StreamSource(dut, "s_axis", dut.clk, idle=idle)
    generator = random.Random(f"results {idle} {stall}")
    sent = [[generator.getrandbits(32) for _ in range(size)] for size in (1, LOGITS, 3, LOGITS + 3, 10)]
    for logits in sent:
        source.put(b"".join(word.to_bytes(4, "little") for word in logits))
    for logits in sent:
        while not (state := await window.read("RESULT")) & MAP["RESULT"].field("valid").mask:
            pass
        assert MAP["RESULT"].field("count").get(state) == len(logits)
        assert not MAP["RESULT"].field("receiving").get(state) and int(dut.s_axis_tready.value) == 0
        board = Scoreboard([word ^ flag("WINDOW_LOGIT") for word in logits[:LOGITS]], label="logit {}".format)
        for index in range(min(len(logits), LOGITS)):
            board.check(await window.read("LOGITS", index))
        board.finish()
        assert await window.put(MAP["RESULT"].offset, bytes(3)) == OKAY, "the valid bit was not written"
        assert await window.field("RESULT", "valid")
        assert await window.write("RESULT", MAP["RESULT"].field("valid").mask) == OKAY
    assert await window.read("RESULT") == 0


@cocotb.test()
async def part_of_a_result(dut: Any) -> None:
    """A result that is coming in is seen."""
    window = await begin(dut)
    dut.s_axis_tdata.value, dut.s_axis_tvalid.value = 5, 1
    await cycles(dut.clk, 2)
    dut.s_axis_tvalid.value = 0
    state = await window.read("RESULT")
    assert state == MAP["RESULT"].field("receiving").mask | 2, f"{state:#x}"
    assert await window.write("RESULT", MAP["RESULT"].field("valid").mask) == OKAY
    assert await window.read("RESULT") == state, "only a whole result is let go"
