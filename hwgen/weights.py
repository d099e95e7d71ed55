"""The weight memory: one long row, cut into slices whose addresses come from registers of their own.

A row of 64 weights spans a whole FPGA. One address register (and the bank choice that follows from it) would have to reach
every block RAM in one cycle; so each slice of `SLICE_BITS` has its own, one cycle behind the address.
"""
from collections.abc import Sequence

from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from hwgen.memory import RowMemory, address_bits, read_signature, write_signature

SLICE_BITS = 72
"""Four times the 18 bits of a block RAM with two ports: slices cost no block RAM more than one wide memory."""
LATENCY = 2
"""Cycles from an address to its data."""


class WeightMemory(wiring.Component):
    """Rows read at `ports` addresses a cycle: address and `en` in cycle c, data in c + LATENCY, held while `en` was 0.

    A write is in the memory for addresses of the next cycle on. `loadable`, `init`: as `hwgen.memory.RowMemory`; ValueError on a
    bad depth, width or initial word.
    """

    def __init__(self, *, width: int, depth: int, ports: int, loadable: bool = True, init: Sequence[int] = ()) -> None:
        self._slices: list[tuple[int, RowMemory]] = []
        for low in range(0, width, SLICE_BITS):
            bits = min(SLICE_BITS, width - low)
            if any(not 0 <= word < 1 << width for word in init):
                raise ValueError(f"an initial word does not fit {width} bits")
            part = [word >> low & (1 << bits) - 1 for word in init]
            self._slices.append((low, RowMemory(width=bits, depth=depth, ports=ports, loadable=loadable, init=part)))
        super().__init__({"read": In(read_signature(address_bits(depth), width)).array(ports),
                          "write": In(write_signature(address_bits(depth), width))})

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        for number, (low, rows) in enumerate(self._slices):
            m.submodules[f"slice{number}"] = rows
            for port, (outer, inner) in enumerate(zip(self.read, rows.read, strict=True)):
                # another first value for each slice: equal registers would be merged into one again
                address = Signal.like(outer.address, init=number % (1 << len(outer.address)), name=f"address{number}_{port}")
                enable = Signal(name=f"enable{number}_{port}", init=number & 1)
                m.d.sync += [address.eq(outer.address), enable.eq(outer.en)]
                m.d.comb += [inner.address.eq(address), inner.en.eq(enable),
                             outer.data[low:low + rows.width].eq(inner.data)]
            m.d.comb += [rows.write.address.eq(self.write.address), rows.write.en.eq(self.write.en),
                         rows.write.data.eq(self.write.data[low:low + rows.width])]
        return m
