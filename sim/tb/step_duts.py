"""Devices under test of a stepwise machine's own blocks: neurons with potentials, and the row divider."""
from amaranth.hdl import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.attention_divide import RowDivider
from hwgen.config import MachineConfig
from hwgen.descriptors import ADDRESS_BITS
from hwgen.potential import StepNeurons

POTENTIAL_WORDS = 24
"""Words of each potential memory: no power of two."""
CHARGE_BITS = 27
"""Bits of a charge: those of four steps fit the 30 bits of a potential."""
SUM_BITS, ROW_SUM_BITS = 21, 18
"""Bits of the divider's N and D."""


class PotentialDut(wiring.Component):
    """`StepNeurons`, its ports renamed where Verilog would not take them."""

    OUTER = {"initial": "first_step", "sum": "sums"}

    def __init__(self, m: MachineConfig) -> None:
        self.neurons = StepNeurons(m, POTENTIAL_WORDS, CHARGE_BITS)
        super().__init__({self.OUTER.get(name, name): member for name, member in self.neurons.signature.members.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.neurons = self.neurons
        for name, member in self.neurons.signature.members.items():
            inner, outer = getattr(self.neurons, name), getattr(self, self.OUTER.get(name, name))
            m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)
        return m


class DivideDut(wiring.Component):
    """`RowDivider`, with the two fields of the descriptor that it reads."""

    def __init__(self, m: MachineConfig) -> None:
        self.m = m
        rows, channels = m.attention_rows, m.head_lanes
        super().__init__({
            "row_last": In(6), "potential_base": In(ADDRESS_BITS), "start": In(1), "first_step": In(1), "load": In(1),
            "n": In(data.ArrayLayout(data.ArrayLayout(SUM_BITS, channels), rows)), "d": In(data.ArrayLayout(ROW_SUM_BITS, rows)),
            "take": Out(1), "take_last": Out(1), "row": Out(channels)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.divider = divider = RowDivider(self.m, SUM_BITS, ROW_SUM_BITS)
        m.d.comb += [divider.desc.row_last.eq(self.row_last), divider.desc.potential_base.eq(self.potential_base),
                     divider.start.eq(self.start), divider.initial.eq(self.first_step), divider.load.eq(self.load),
                     divider.n.eq(self.n), divider.d.eq(self.d), self.take.eq(divider.take),
                     self.take_last.eq(divider.take_last), self.row.eq(divider.row)]
        return m
