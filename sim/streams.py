"""cocotb helpers for Amaranth stream ports: `<port>__payload`, `<port>__valid`, `<port>__ready`.

Payloads are plain integers (structured payloads packed as Amaranth packs them). Idle and stall patterns are drawn from
a seeded generator of their own, so a run repeats exactly. All act on the rising edge of one clock.
"""
import random
from collections.abc import Callable, Iterable
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.task import Task
from cocotb.triggers import RisingEdge

PERIOD_NS = 10


class StreamTimeout(AssertionError):
    """A stream gave or took too few items in the cycles allowed."""


class StreamProtocolError(AssertionError):
    """valid was withdrawn, or the payload changed, while ready was low; or an unknown (X) value was seen."""


def start_clock(dut: Any, period_ns: int = PERIOD_NS, name: str = "clk") -> Task[None]:
    """Start the clock `dut.<name>`; returns its task."""
    return Clock(getattr(dut, name), period_ns, unit="ns").start()


async def reset(dut: Any, cycles: int = 2, clk: str = "clk", rst: str = "rst") -> None:
    """Hold the synchronous reset `dut.<rst>` for `cycles` rising edges; returns just after the last, reset low."""
    signal = getattr(dut, rst)
    signal.value = 1
    for _ in range(cycles):
        await RisingEdge(getattr(dut, clk))
    signal.value = 0


async def cycles(clk: Any, count: int) -> None:
    """Wait for `count` rising edges of `clk`."""
    for _ in range(count):
        await RisingEdge(clk)


def _known(handle: Any, what: str) -> int:
    value = handle.value
    try:
        return int(value)
    except ValueError:
        raise StreamProtocolError(f"{what} is unknown: {value}") from None


def _port(dut: Any, prefix: str, part: str) -> Any:
    """One signal of a stream; None where Amaranth left it out (always_ready, always_valid, no payload)."""
    handle = getattr(dut, f"{prefix}__{part}", None)
    if handle is None and part == "valid" and getattr(dut, f"{prefix}__ready", None) is None \
            and getattr(dut, f"{prefix}__payload", None) is None:
        raise AttributeError(f"{dut._name} has no stream port {prefix!r}: no {prefix}__valid, __ready or __payload")
    return handle


class StreamDriver:
    """Drives a stream input of the DUT.

    `idle` is the largest number of cycles without valid before an item; the number is drawn anew for each item from a
    generator seeded with (`seed`, `prefix`). valid, once high, stays until ready. `sent` counts accepted items,
    `stalled` the cycles in which valid waited for ready.
    """

    def __init__(self, dut: Any, prefix: str, clk: Any, idle: int = 0, seed: int = 0) -> None:
        if idle < 0:
            raise ValueError(f"idle must be 0 or more cycles, not {idle!r}")
        self.prefix, self.idle, self.sent, self.stalled = prefix, idle, 0, 0
        self._clk = clk
        self._valid, self._ready = _port(dut, prefix, "valid"), _port(dut, prefix, "ready")
        self._payload = _port(dut, prefix, "payload")
        self._random = random.Random(f"driver {seed} {prefix}")
        if self._valid is not None:
            self._valid.value = 0

    async def send(self, payload: int) -> None:
        """Offer one item after its idle cycles; returns just after the edge that took it, valid low again.

        Items sent back to back without idle cycles lose none: the next send raises valid in the same time step.
        """
        for _ in range(self._random.randint(0, self.idle)):
            await RisingEdge(self._clk)
        if self._payload is not None:
            self._payload.value = payload
        if self._valid is not None:
            self._valid.value = 1
        while True:
            await RisingEdge(self._clk)
            if self._ready is None or _known(self._ready, f"{self.prefix}__ready"):
                break
            self.stalled += 1
        if self._valid is not None:
            self._valid.value = 0
        self.sent += 1

    async def send_all(self, payloads: Iterable[int]) -> None:
        """Send every item in order."""
        for payload in payloads:
            await self.send(payload)

    def start(self, payloads: Iterable[int]) -> Task[None]:
        """Send every item in the background; await the task to know that all were taken."""
        return cocotb.start_soon(self.send_all(payloads))


class StreamMonitor:
    """Takes every item of a stream output of the DUT, from construction on, and checks the handshake.

    `stall` is the largest number of cycles ready stays low at a time; low and high runs are drawn from a generator
    seeded with (`seed`, `prefix`), regardless of valid; 0 keeps ready high. Taken items are appended to `items`
    and given to `on_item` (a Scoreboard's `check`). A broken handshake fails the test with StreamProtocolError.
    """

    def __init__(self, dut: Any, prefix: str, clk: Any, stall: int = 0, seed: int = 0,
                 on_item: Callable[[int], object] | None = None) -> None:
        if stall < 0:
            raise ValueError(f"stall must be 0 or more cycles, not {stall!r}")
        self.prefix, self.stall, self.items = prefix, stall, list[int]()
        self._clk, self._on_item = clk, on_item
        self._valid, self._ready = _port(dut, prefix, "valid"), _port(dut, prefix, "ready")
        self._payload = _port(dut, prefix, "payload")
        self._rst = getattr(dut, "rst", None)
        self._random = random.Random(f"monitor {seed} {prefix}")
        self._left, self._high = 0, False
        self._next_ready()
        self.task: Task[None] = cocotb.start_soon(self._run())

    def _next_ready(self) -> None:
        """Choose ready for the next cycle."""
        if self._left == 0:
            self._high = self.stall == 0 or not self._high
            self._left = self._random.randint(1, self.stall + 1) if self._high else self._random.randint(0, self.stall)
            if self._left == 0:
                self._high, self._left = True, 1
        self._left -= 1
        if self._ready is not None:
            self._ready.value = int(self._high)

    async def _run(self) -> None:
        waiting: int | None = None  # the payload that valid offered while ready was low
        names = {part: f"{self.prefix}__{part}" for part in ("valid", "payload")}
        while True:
            await RisingEdge(self._clk)
            if self._rst is not None and str(self._rst.value) != "0":
                waiting = None
                continue
            valid = self._valid is None or _known(self._valid, names["valid"])
            if not valid and waiting is not None:
                raise StreamProtocolError(f"{names['valid']} was withdrawn before ready (payload {waiting:#x})")
            if valid:
                item = 0 if self._payload is None else _known(self._payload, names["payload"])
                if waiting is not None and item != waiting:
                    raise StreamProtocolError(f"{names['payload']} changed from {waiting:#x} to {item:#x} before ready")
                waiting = item
                if self._high or self._ready is None:
                    waiting = None
                    self.items.append(item)
                    if self._on_item is not None:
                        self._on_item(item)
            if self.stall:
                self._next_ready()

    async def wait_for(self, count: int, timeout: int = 10_000) -> list[int]:
        """Wait until `count` items were taken, and return all taken; StreamTimeout after `timeout` cycles."""
        for _ in range(timeout):
            if len(self.items) >= count:
                return self.items
            await RisingEdge(self._clk)
        if len(self.items) >= count:
            return self.items
        raise StreamTimeout(f"{self.prefix}: {count - len(self.items)} of {count} items missing after {timeout} cycles")
