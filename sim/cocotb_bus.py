"""`sim.host.Bus` on the AXI ports of a simulated machine: AXI4-Lite by cocotbext-axi, streams by lean code of our own.

Streams run no Python in cycles in which nothing moves: 35,000 beats of weights, or 20,000 cycles of computing, must not
cost a simulation its speed.
"""
import random
from collections import deque
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles, Event, FallingEdge, First, RisingEdge, Timer
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp

from sim.axi_memory import INPUTS, OUTPUTS, AxiMemory
from sim.host import HostError
from sim.streams import PERIOD_NS

PAUSE_CYCLES = 500


class StreamSource:
    """Drives `<prefix>_tdata/tvalid/tready/tlast` with queued packets. `idle`: most idle cycles before a beat; tdata and
    tlast then change without a meaning, as AXI allows.
    """

    def __init__(self, dut: Any, prefix: str, clk: Any, idle: int = 0, seed: int = 0) -> None:
        self._clk = clk
        self._data, self._valid, self._ready, self._last = (getattr(dut, f"{prefix}_{part}")
                                                            for part in ("tdata", "tvalid", "tready", "tlast"))
        self._bytes = len(self._data) // 8
        self._idle, self._random = idle, random.Random(f"source {seed} {prefix}")
        self._queue: deque[bytes] = deque()
        self._more = Event()
        self.beats = 0
        self._valid.value = 0
        self._last.value = 0
        self.task = cocotb.start_soon(self._run())

    def put(self, packet: bytes) -> None:
        """Queue a packet; ValueError unless it is whole beats."""
        if not packet or len(packet) % self._bytes:
            raise ValueError(f"a packet of {len(packet)} bytes is not whole beats of {self._bytes} bytes: pad it")
        self._queue.append(packet)
        self._more.set()

    @property
    def empty(self) -> bool:
        """Nothing waits to be sent (the last packet may be under way)."""
        return not self._queue

    async def _run(self) -> None:
        edge = RisingEdge(self._clk)
        while True:
            while not self._queue:
                self._more.clear()
                await self._more.wait()
                await edge
            packet = self._queue.popleft()
            end = len(packet) - self._bytes
            for at in range(0, len(packet), self._bytes):
                if self._idle:
                    pause = self._random.randint(0, self._idle)
                    if pause:
                        self._valid.value = 0
                        self._data.value = self._random.getrandbits(8 * self._bytes)
                        self._last.value = self._random.getrandbits(1)
                        await ClockCycles(self._clk, pause)
                self._data.value = int.from_bytes(packet[at:at + self._bytes], "little")
                if at in (0, end) or self._idle:
                    self._last.value = int(at == end)
                self._valid.value = 1
                await edge
                while not int(self._ready.value):
                    await RisingEdge(self._ready)
                    await edge
                self.beats += 1
            self._valid.value = 0
            self._last.value = 0


class StreamSink:
    """Takes packets of `<prefix>_*`. `stall`: most cycles without ready at a time (0: always ready). `lazy`: ready comes only
    once valid is there.
    """

    def __init__(self, dut: Any, prefix: str, clk: Any, stall: int = 0, seed: int = 0, lazy: bool = False) -> None:
        self._clk = clk
        self._data, self._valid, self._ready, self._last = (getattr(dut, f"{prefix}_{part}")
                                                            for part in ("tdata", "tvalid", "tready", "tlast"))
        self._stall, self._random = stall, random.Random(f"sink {seed} {prefix}")
        self.packets: deque[list[int]] = deque()
        self._lazy = lazy
        self._ready.value = int(stall == 0 and not lazy)
        self.task = cocotb.start_soon(self._run())

    async def _run(self) -> None:
        edge = RisingEdge(self._clk)
        packet: list[int] = []
        while True:
            if self._stall:
                self._ready.value = 0
                pause = self._random.randint(0, self._stall)
                if pause:
                    await ClockCycles(self._clk, pause)
                self._ready.value = 1
            await edge
            while not int(self._valid.value):
                await RisingEdge(self._valid)
                await edge
            if self._lazy:
                self._ready.value = 1
                await edge
                self._ready.value = 0
            packet.append(int(self._data.value))
            if int(self._last.value):
                self.packets.append(packet)
                packet = []


class CocotbBus:
    """Ports `s_axil_*`, `s_axis_*`, `m_axis_*` and `irq` of `dut`; make it while reset is held or before."""

    def __init__(self, dut: Any, clk: Any = None, rst: Any = None, idle: int = 0, stall: int = 0,
                 seed: int = 0, lazy: bool = False) -> None:
        clk, rst = (dut.clk if clk is None else clk), (dut.rst if rst is None else rst)
        self.lite = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), clk, rst)
        self.lite.write_if.log.setLevel("WARNING")
        self.lite.read_if.log.setLevel("WARNING")
        self.source = StreamSource(dut, "s_axis", clk, idle, seed)
        self.sink = StreamSink(dut, "m_axis", clk, stall, seed, lazy)
        self._irq = getattr(dut, "irq", None)

    async def read32(self, address: int) -> int:
        answer = await self.lite.read(address, 4)
        if answer.resp != AxiResp.OKAY:
            raise HostError(f"read of {address:#04x}: {AxiResp(answer.resp).name}")
        return int.from_bytes(answer.data, "little")

    async def write32(self, address: int, value: int) -> None:
        answer = await self.lite.write(address, value.to_bytes(4, "little"))
        if answer.resp != AxiResp.OKAY:
            raise HostError(f"write of {value:#x} to {address:#04x}: {AxiResp(answer.resp).name}")

    async def send(self, packet: bytes) -> None:
        self.source.put(packet)

    async def receive(self) -> list[int] | None:
        return self.sink.packets.popleft() if self.sink.packets else None

    async def pause(self) -> None:
        wait = Timer(PAUSE_CYCLES * PERIOD_NS, unit="ns")
        if self._irq is None or int(self._irq.value):
            await wait
        else:
            await First(wait, RisingEdge(self._irq))

    async def reset(self) -> None:
        """Packets here are always sent to their end; results that came are dropped."""
        self.sink.packets.clear()


def start_memory(dut: Any, memory: AxiMemory) -> None:
    """Let `memory` answer the ports `m_axi_*` of `dut`, from the next cycle on."""
    cocotb.start_soon(_answer(dut, memory))


async def _answer(dut: Any, memory: AxiMemory) -> None:
    outputs = {name: getattr(dut, f"m_axi_{name}") for name in OUTPUTS}
    inputs = {name: getattr(dut, f"m_axi_{name}") for name in INPUTS}
    for port in inputs.values():
        port.value = 0
    while True:
        await FallingEdge(dut.clk)  # the machine's outputs of this cycle have settled
        if int(dut.rst.value):
            continue
        for name, value in memory.step({name: int(port.value) for name, port in outputs.items()}).items():
            inputs[name].value = value
