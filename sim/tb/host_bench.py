"""What the benches on `sim.tb.host_dut` share: reset, register accesses, handshake rules."""
import random
from collections.abc import Iterator
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp

from hwgen.registers import address_map
from sim.streams import cycles, reset, start_clock
from sim.tb.host_dut import FROM_MACHINE

MAP = address_map()
OKAY, SLVERR = AxiResp.OKAY, AxiResp.SLVERR


def pauses(most: int, seed: str) -> Iterator[bool]:
    """Endless pauses of 0 to `most` cycles, each followed by 1 to 2 cycles without."""
    generator = random.Random(seed)
    while True:
        yield from [True] * generator.randint(0, most) + [False] * generator.randint(1, 2)


class Rules:
    """Watches the answers' handshakes: valid stays, with its payload, until ready. Counts start and abort pulses."""

    def __init__(self, dut: Any) -> None:
        self.dut, self.pulses = dut, {"start": 0, "abort_run": 0}
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        waiting: dict[str, tuple[int, ...] | None] = {"b": None, "r": None}
        parts = {"b": ("bresp",), "r": ("rdata", "rresp")}
        while True:
            await FallingEdge(self.dut.clk)
            if int(self.dut.rst.value):
                continue
            for name in self.pulses:
                self.pulses[name] += int(getattr(self.dut, name).value)
            for channel, before in waiting.items():
                valid = int(getattr(self.dut, f"s_axil_{channel}valid").value)
                now = tuple(int(getattr(self.dut, f"s_axil_{part}").value) for part in parts[channel])
                assert before is None or valid, f"{channel}valid was withdrawn"
                assert before is None or now == before, f"{channel} changed while it waited"
                taken = int(getattr(self.dut, f"s_axil_{channel}ready").value)
                waiting[channel] = now if valid and not taken else None


class Csrs:
    """AXI4-Lite accesses by register name, on a reset DUT."""

    def __init__(self, dut: Any, idle: int = 0, stall: int = 0) -> None:
        self.dut = dut
        self.lite = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        write, read = self.lite.write_if, self.lite.read_if
        for log in (write.log, read.log):
            log.setLevel("WARNING")
        for channel, most in ((write.aw_channel, idle), (write.w_channel, idle), (read.ar_channel, idle),
                              (write.b_channel, stall), (read.r_channel, stall)):
            if most:
                channel.set_pause_generator(pauses(most, f"{channel.__class__} {most}"))
        self.rules = Rules(dut)

    async def put(self, offset: int, data: bytes) -> AxiResp:
        return (await self.lite.write(offset, data)).resp

    async def write(self, name: str, value: int) -> None:
        assert await self.put(MAP[name].offset, value.to_bytes(4, "little")) == OKAY

    async def read(self, name: str) -> int:
        answer = await self.lite.read(MAP[name].offset, 4)
        assert answer.resp == OKAY, f"{name}: {answer.resp}"
        return int.from_bytes(answer.data, "little")


async def begin(dut: Any, idle: int = 0, stall: int = 0) -> Csrs:
    """Clock, quiet inputs, reset, registers in reach."""
    await begin_raw(dut)
    csrs = Csrs(dut, idle, stall)
    await cycles(dut.clk, 2)
    return csrs


async def begin_raw(dut: Any) -> None:
    """Clock, quiet inputs, reset; the bench drives AXI4-Lite itself."""
    for name in ("awvalid", "wvalid", "bready", "arvalid", "rready"):
        getattr(dut, f"s_axil_{name}").value = 0
    for name in (*FROM_MACHINE, "machine_busy", "raise_error", "s_axis_tvalid", "go", "flush"):
        getattr(dut, name).value = 0
    dut.groups__valid.value = 0
    dut.m_axis_tready.value = 0
    start_clock(dut)
    await reset(dut, 4)


async def pulse(dut: Any, name: str, value: int = 1) -> None:
    """Give an input `value` for one cycle."""
    getattr(dut, name).value = value
    await RisingEdge(dut.clk)
    getattr(dut, name).value = 0
