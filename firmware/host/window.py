"""`driver.Bus` where there are only registers: the streams go through the machine's stream window (`hwgen.window`)."""
import mmap
import os
import struct
import time
from pathlib import Path
from typing import Protocol

import numpy as np

from firmware.host.driver import HostError
from hwgen.registers import WINDOW_ADDRESS_BITS, WINDOW_MAGIC, WINDOW_REGISTERS, address_map

SPAN = 1 << WINDOW_ADDRESS_BITS
"""Bytes of the machine's registers with the window's."""
PATIENCE_PAUSES = 10_000
PAUSE = 0.001


class Registers(Protocol):
    """32-bit registers at byte addresses."""

    async def read32(self, address: int) -> int:
        """Read; HostError on an error response, where the bus has any."""

    async def write32(self, address: int, value: int) -> None:
        """Write; likewise."""

    async def pause(self) -> None:
        """Let a little time pass."""


class WindowBus:
    """The streams as register accesses. `send` waits for room in the queue, `patience` pauses at most."""

    def __init__(self, registers: Registers, patience: int = PATIENCE_PAUSES) -> None:
        self.registers, self.patience = registers, patience
        self._map = address_map(WINDOW_REGISTERS)
        self._beats = self._room = 0

    async def read32(self, address: int) -> int:
        return await self.registers.read32(address)

    async def write32(self, address: int, value: int) -> None:
        await self.registers.write32(address, value)

    async def send(self, packet: bytes) -> None:
        """HostError when there is no window, the packet is not whole words, or the machine takes nothing."""
        if not packet or len(packet) % 4:
            raise HostError(f"a packet of {len(packet)} bytes is not whole words of 4 bytes: pad it")
        if not self._beats:
            if await self._read("WINDOW_ID") != WINDOW_MAGIC:
                raise HostError("no stream window behind the machine's registers: packets cannot be sent here")
            self._beats = self._map["WINDOW_CAP"].field("beats").get(await self._read("WINDOW_CAP"))
        words = struct.unpack(f"<{len(packet) // 4}I", packet)
        for word in words[:-1]:
            await self._word("SEND", word)
        await self._word("SEND_LAST", words[-1])

    async def _word(self, name: str, word: int) -> None:
        for _ in range(self.patience):
            if self._room:  # in beats: a word takes at most one
                break
            self._room = self._map["WINDOW_STATUS"].field("free").get(await self._read("WINDOW_STATUS"))
            if not self._room:
                await self.pause()
        else:
            raise HostError(f"the machine took no input for {self.patience} pauses")
        self._room -= 1
        await self.write32(self._map[name].offset, word)

    async def receive(self) -> list[int] | None:
        result = self._map["RESULT"]
        word = await self._read("RESULT")
        if not result.field("valid").get(word):
            return None
        count = result.field("count").get(word)
        held = self._map["WINDOW_CAP"].field("logits").get(await self._read("WINDOW_CAP"))
        if count > held:
            raise HostError(f"a result of {count} logits, the stream window holds {held}: make the machine with a larger one")
        base = self._map["LOGITS"].offset
        logits = [await self.read32(base + 4 * index) for index in range(count)]
        await self.write32(result.offset, result.field("valid").put(1))
        return logits

    async def pause(self) -> None:
        await self.registers.pause()

    async def reset(self) -> None:
        """End a packet that an earlier host began, and drop a result that it did not take."""
        if await self._read("WINDOW_ID") == WINDOW_MAGIC:
            status = self._map["WINDOW_STATUS"]
            if status.field("open").get(await self._read("WINDOW_STATUS")):
                self._room = 0
                await self._word("SEND_LAST", 0)
            await self.write32(status.offset, status.field("overflow").put(1))
            await self.receive()

    async def _read(self, name: str) -> int:
        return await self.read32(self._map[name].offset)


class MappedRegisters:
    """Registers in memory: `/dev/uioN` (its map 0), or `/dev/mem` from the physical address `offset` on.

    HostError when `path` cannot be opened or mapped, or `offset` is not a multiple of the page size.
    """

    def __init__(self, path: Path, offset: int = 0, span: int = SPAN) -> None:
        if offset % mmap.ALLOCATIONGRANULARITY:
            raise HostError(f"{path}: address {offset:#x} is not a multiple of {mmap.ALLOCATIONGRANULARITY}")
        self.name = f"{path}+{offset:#x}"
        try:
            handle = os.open(path, os.O_RDWR | os.O_SYNC)
        except OSError as error:
            raise HostError(f"{path}: {error.strerror}: is the driver bound, and may you use the file (root)?") from None
        try:
            self._memory = mmap.mmap(handle, span, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset)
        except (OSError, ValueError) as error:
            raise HostError(f"{path}: cannot map {span} bytes from {offset:#x} on ({error})") from None
        finally:
            os.close(handle)
        self._words = np.frombuffer(self._memory, np.uint32)  # its items are read and written as whole words

    async def read32(self, address: int) -> int:
        return int(self._words[address // 4])

    async def write32(self, address: int, value: int) -> None:
        self._words[address // 4] = value

    async def pause(self) -> None:
        time.sleep(PAUSE)

    def close(self) -> None:
        """Unmap; twice does no harm."""
        self._words = np.empty(0, np.uint32)
        self._memory.close()
