"""The machine's memories: signatures of their ports, a memory of rows read twice a cycle, and a scratchpad.

Reads are synchronous: address and `en` in cycle c, data in cycle c + 1, held while `en` is 0. A write is in the memory
for reads of the next cycle on. What a read gives of an address that is written in the same cycle is not defined, and no
client relies on it (tests/test_collisions_rtl.py). Yosys is told so (`UNCHECKED`): it would otherwise keep the old word, by
comparing addresses, and with a register and a multiplexer behind each output.

Readers of the spike scratchpad get its words from a register behind it (`taken_over`), a cycle later: one for all of them, so
that it can be the block RAM's own.
"""
from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import ceil_log2


def address_bits(depth: int) -> int:
    """Bits of an address of a memory of `depth` words (at least 1); ValueError below one word."""
    if depth < 1:
        raise ValueError(f"a memory needs at least 1 word, not {depth!r}")
    return max(1, ceil_log2(depth))


UNCHECKED = {"no_rw_check": 1}
"""Attribute of a memory for Yosys: what is read of an address that is being written does not matter."""

BLOCK_RAM = ((1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
"""(words, bits) of a block RAM of 18 Kbit with two ports."""


def read_signature(bits: int, width: int) -> Signature:
    """A read port as its client sees it: `address` of `bits` bits and `en` out, `data` of `width` bits in."""
    return Signature({"address": Out(bits), "en": Out(1), "data": In(width)})


def write_signature(bits: int, width: int) -> Signature:
    """A write port as its client sees it: `address`, `en` and `data` out."""
    return Signature({"address": Out(bits), "en": Out(1), "data": Out(width)})


def check_words(width: int, depth: int, init: Sequence[int]) -> None:
    """ValueError unless the words `init` fit a memory of `depth` words of `width` bits."""
    if width < 1:
        raise ValueError(f"a memory word needs at least 1 bit, not {width!r}")
    address_bits(depth)
    if len(init) > depth:
        raise ValueError(f"{len(init)} initial words do not fit a memory of {depth} words")
    for index, word in enumerate(init):
        if not 0 <= word < 1 << width:
            raise ValueError(f"initial word {index} ({word:#x}) does not fit {width} bits")


def taken_over(m: Module, data: Value, take: Value) -> Signal:
    """A register that takes `data`, what a memory read, in each cycle with `take`."""
    word = Signal(len(data), name="taken_over", reset_less=True)
    with m.If(take):
        m.d.sync += word.eq(data)
    return word


class RowMemory(wiring.Component):
    """Rows read at `ports` addresses a cycle (weights, softmax ROM): `read[0]`, `read[1]`, ...; `write` for loads.

    A block RAM has two ports. Two reads and a write make Yosys store everything twice (toolchain.md, trap 8), so a
    memory that is never loaded is made without the write port (`loadable=False`) and costs half. `write` exists in
    both, so that the machine around it is the same; without the port it does nothing. Without external memory the write comes
    only while the machine is idle: a board wrapper may put a true dual-port primitive here and share one port. With it,
    transfers write one part while another is read.

    A deep memory that is never loaded is cut into columns that each fill a block RAM: nothing is chosen behind their outputs.

    `init`: first words, the rest 0. ValueError on a bad depth, width or initial word.
    """

    def __init__(self, *, width: int, depth: int, ports: int = 2, loadable: bool = True,
                 init: Sequence[int] = ()) -> None:
        check_words(width, depth, init)
        if ports < 1:
            raise ValueError(f"a row memory needs at least 1 read port, not {ports!r}")
        self.width, self.depth, self.ports, self.loadable = width, depth, ports, loadable
        self._init = list(init)
        bits = address_bits(depth)
        super().__init__({"read": In(read_signature(bits, width)).array(ports),
                          "write": In(write_signature(bits, width))})

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        if self.loadable:
            m.submodules.memory = memory = Memory(shape=self.width, depth=self.depth, init=self._init, attrs=UNCHECKED)
            for port in self.read:
                _join_read(m, memory, port)
            _join_write(m, memory, self.write)
            return m
        step = column_bits(self.depth) or self.width
        parts: list[list[Any]] = [[] for _ in self.read]
        for low in range(0, self.width, step):
            bits = min(step, self.width - low)
            column = Memory(shape=bits, depth=self.depth, init=[word >> low & (1 << bits) - 1 for word in self._init])
            m.submodules[f"memory{low}" if low else "memory"] = column
            for port, found in zip(self.read, parts, strict=True):
                inner = column.read_port(domain="sync")
                m.d.comb += [inner.addr.eq(port.address), inner.en.eq(port.en)]
                found.append(inner.data)
        m.d.comb += [port.data.eq(Cat(found)) for port, found in zip(self.read, parts, strict=True)]
        return m


def column_bits(depth: int) -> int:
    """Bits of a word that fit a block RAM `depth` words deep; 0: all (few words, or more than any block RAM has)."""
    return next((bits for words, bits in BLOCK_RAM[1:] if BLOCK_RAM[0][0] < depth <= words), 0)


class Scratchpad(wiring.Component):
    """A memory with one `read` and one `write` port, all words 0 at power up, or `init`.

    ValueError on a bad depth, width or initial word.
    """

    def __init__(self, *, width: int, depth: int, init: Sequence[int] = ()) -> None:
        check_words(width, depth, init)
        self.width, self.depth = width, depth
        self._init = list(init)
        bits = address_bits(depth)
        super().__init__({"read": In(read_signature(bits, width)), "write": In(write_signature(bits, width))})

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        m.submodules.memory = memory = Memory(shape=self.width, depth=self.depth, init=self._init, attrs=UNCHECKED)
        _join_read(m, memory, self.read)
        _join_write(m, memory, self.write)
        return m


def _join_read(m: Module, memory: Memory, port: Any) -> None:
    inner = memory.read_port(domain="sync")
    m.d.comb += [inner.addr.eq(port.address), inner.en.eq(port.en), port.data.eq(inner.data)]


def _join_write(m: Module, memory: Memory, port: Any) -> None:
    inner = memory.write_port(domain="sync")
    m.d.comb += [inner.addr.eq(port.address), inner.en.eq(port.en), inner.data.eq(port.data)]
