"""The weight memory: one long row, cut into slices and banks, with a register after each step of a read.

A row of 64 weights spans a whole FPGA, and a block RAM's output is late. So each slice of `SLICE_BITS` has address registers of
its own; each bank (a block RAM's worth of rows) has an output register with nothing in front of it, which synthesis can move
into the block RAM (`hwgen.netlist`); the bank is chosen behind it, into a register again.
"""
from collections.abc import Sequence
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Elaboratable, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from hwgen.clock_gate import gated
from hwgen.memory import RowMemory, address_bits, check_words, read_signature, write_signature

SLICE_BITS = 72
"""Four times the 18 bits of a block RAM with two ports: slices cost no block RAM more than one wide memory."""
BANK_ROWS = 1024
"""Rows of a block RAM with two 18-bit ports."""
CHAIN = 64
"""Most banks whose outputs are joined in one expression without levels."""
LATENCY = 4
"""Cycles from an address to its data: address, block RAM, its output, the chosen bank."""


class WeightMemory(wiring.Component):
    """Rows read at `ports` addresses a cycle: address and `en` in cycle c, data in c + LATENCY; 0 where `en` was 0.

    A write is in the memory for addresses of the next cycle on. `loadable`, `init`: as `hwgen.memory.RowMemory`; ValueError on a
    bad depth, width or initial word. A bank that is never loaded ends at its last row that is not 0 in its slice: where narrow
    tiles lie in the last rows, whole banks fall away. `gates`: banks have clock gates (`hwgen.clock_gate`), which Amaranth's own
    simulator does not know.
    """

    def __init__(self, *, width: int, depth: int, ports: int, loadable: bool = True, init: Sequence[int] = (),
                 gates: bool = True) -> None:
        check_words(width, depth, init)
        if ports < 1:
            raise ValueError(f"a row memory needs at least 1 read port, not {ports!r}")
        self._depth, self._gates = depth, gates
        self._slices: list[tuple[int, int, list[RowMemory]]] = []
        for low in range(0, width, SLICE_BITS):
            bits = min(SLICE_BITS, width - low)
            part = [word >> low & (1 << bits) - 1 for word in init]
            banks = [RowMemory(width=bits, depth=rows, ports=ports, loadable=loadable, init=part[first:first + rows])
                     for first, rows in bank_sizes(depth, loadable, part)]
            self._slices.append((low, bits, banks))
        super().__init__({"read": In(read_signature(address_bits(depth), width)).array(ports),
                          "write": In(write_signature(address_bits(depth), width))})

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        wanted: dict[tuple[int, int, int], Value] = {}  # by slice, port, bank: whether a row of it is asked for
        chosen: dict[tuple[int, int, int], list[Signal]] = {}  # 1 to 3 cycles later
        deepest: dict[int, int] = {}  # bank -> slice where it has the most rows
        for number, (_, _, banks) in enumerate(self._slices):
            for bank, rows in enumerate(banks):
                if bank not in deepest or rows.depth > self._slices[deepest[bank]][2][bank].depth:
                    deepest[bank] = number
                for port, outer in enumerate(self.read):
                    wanted[number, port, bank] = outer.en & self._inside(outer.address, bank, rows)
                    chosen[number, port, bank] = [Signal(name=f"chosen{number}_{port}_{bank}_{stage}") for stage in range(3)]
        clocks = {}  # a bank's outputs stand still while no row of it is on its way
        for bank, number in deepest.items():
            moving = Cat(Cat(wanted[number, port, bank], *chosen[number, port, bank]) for port in range(len(self.read))).any()
            clocks[bank] = m.d[gated(m, f"bank{bank}", moving) if self._gates else "sync"]
        for number, (low, bits, banks) in enumerate(self._slices):
            for bank, rows in enumerate(banks):
                m.submodules[f"slice{number}_bank{bank}"] = rows
                m.d.comb += [rows.write.address.eq(self.write.address), rows.write.data.eq(self.write.data[low:low + bits]),
                             rows.write.en.eq(self.write.en & self._inside(self.write.address, bank, rows))]
            for port, outer in enumerate(self.read):
                # another first value for each slice: equal registers would be merged into one again
                address = Signal.like(outer.address, init=number % (1 << len(outer.address)), name=f"address{number}_{port}")
                m.d.sync += address.eq(outer.address)
                parts: list[Value] = [Const(0, bits)]
                for bank, rows in enumerate(banks):
                    taken = Signal(bits, name=f"taken{number}_{port}_{bank}", reset_less=True)
                    inner = rows.read[port]
                    stages = chosen[number, port, bank]
                    clocks[bank] += [stages[0].eq(wanted[number, port, bank]), stages[1].eq(stages[0]),
                                     stages[2].eq(stages[1]), taken.eq(inner.data)]
                    m.d.comb += [inner.address.eq(address), inner.en.eq(stages[0])]
                    parts.append(taken & stages[2].replicate(bits))
                data = Signal(bits, name=f"data{number}_{port}", reset_less=True)
                m.d.sync += data.eq(joined(parts))
                m.d.comb += outer.data[low:low + bits].eq(data)
        return m

    def _inside(self, address: Value, bank: int, rows: RowMemory) -> Value:
        """Whether `address` is in the bank with `rows`."""
        low = (BANK_ROWS - 1).bit_length()
        found = address[low:] == bank if len(address) > low else Const(1, 1)
        whole = rows.depth in (BANK_ROWS, self._depth - bank * BANK_ROWS)
        return found if whole else found & (address[:low] < rows.depth)


def joined(parts: Sequence[Value]) -> Value:
    """The OR of `parts`, as one chain up to CHAIN of them: a deeper one would exceed Python's recursion in the generator."""
    while len(parts) > CHAIN:
        parts = [reduce(or_, parts[first:first + CHAIN]) for first in range(0, len(parts), CHAIN)]
    return reduce(or_, parts)


def bank_sizes(depth: int, loadable: bool, words: Sequence[int]) -> list[tuple[int, int]]:
    """(first row, rows) of each bank of a slice that holds `words` and then 0: none of its banks is missing in between."""
    used = depth if loadable else max((row + 1 for row, word in enumerate(words) if word), default=0)
    return [(first, min(BANK_ROWS, used - first)) for first in range(0, used, BANK_ROWS)]
