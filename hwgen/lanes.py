"""Lane array: `lanes` accumulators that add the weight rows of each cycle's events; no multiplier.

Timing: an emission in cycle c (the extractor's output register) asks for its rows in c, which come READ cycles later (0 where
there is no event) and are taken over (they have come a long way); they are shifted to their planes in the cycle after, then
summed, and in the accumulators from c + LATENCY on; `ready` pulses in the cycle in which the last emission of a token shows in
`acc` (c + LATENCY).
"""
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.clock_gate import gated
from hwgen.config import MachineConfig
from hwgen.descriptors import ADDRESS_BITS
from hwgen.extract import FLAGS, emission
from hwgen.weights import LATENCY as READ


class LaneArray(wiring.Component):
    """acc[l] = (0 | acc[l] | acc[l] << planes) +/- (sum of row[l] << p over the events' rows and planes p), all lanes at once."""

    LATENCY = READ + 4

    def __init__(self, m: MachineConfig) -> None:
        self.m = m
        row_bits = m.lanes * m.weight_bits
        super().__init__({
            "events": In(emission(m)),
            "address": Out(ADDRESS_BITS).array(m.rows_per_cycle), "en": Out(1).array(m.rows_per_cycle),
            "row": In(row_bits).array(m.rows_per_cycle),
            "acc": Out(data.ArrayLayout(signed(m.acc_bits), m.lanes)), "ready": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cfg, width = self.m, self.m.weight_bits
        shifted_bits = width + cfg.planes - 1
        for port in range(cfg.rows_per_cycle):
            m.d.comb += [self.address[port].eq(self.events.row[port]),
                         self.en[port].eq(self.events.valid & self.events.plane[port].any())]
        flags, valid, plane = self.events.flags, self.events.valid, self.events.plane
        gates = []  # of row, shifted, sum, acc: the registers of a stage move where something comes in
        for stage in range(1, self.LATENCY):
            later_flags, later_valid = Signal(FLAGS, name=f"flags{stage}"), Signal(name=f"valid{stage}")
            later_plane = Signal(self.events.plane.shape(), name=f"plane{stage}", reset_less=True)
            m.d.sync += [later_flags.eq(flags), later_valid.eq(valid), later_plane.eq(plane)]
            if stage > READ:
                gates.append(m.d[gated(m, f"lanes{stage}", valid)])
            flags, valid, plane = later_flags, later_valid, later_plane
            if stage == READ + 1:
                planes = plane  # of the rows that were taken over
        gates.append(m.d[gated(m, f"lanes{self.LATENCY}", valid)])
        m.d.sync += self.ready.eq(valid & flags.last)
        for lane in range(cfg.lanes):
            weights: list[Value] = []
            for port in range(cfg.rows_per_cycle):
                taken = Signal(signed(width), name=f"row{port}_{lane}", reset_less=True)
                gates[0] += taken.eq(self.row[port][lane * width:(lane + 1) * width])
                shifted = Signal(signed(shifted_bits), name=f"shifted{port}_{lane}", reset_less=True)
                gates[1] += shifted.eq(reduce(or_, (
                    Cat(Const(0, p), taken, taken[-1].replicate(cfg.planes - 1 - p)) & planes[port][p].replicate(shifted_bits)
                    for p in range(cfg.planes))))
                weights.append(shifted)
            total = Signal(signed(shifted_bits + 1), name=f"sum{lane}", reset_less=True)
            gates[2] += total.eq(sum(weights[1:], weights[0]))
            acc = Signal(signed(cfg.acc_bits), name=f"acc{lane}", reset_less=True)
            base = Signal(signed(cfg.acc_bits), name=f"base{lane}")
            m.d.comb += [base.eq(Mux(flags.load, 0, Mux(flags.shift, acc << cfg.planes, acc))), self.acc[lane].eq(acc)]
            # base +/- total in one adder: complement, and a carry in from a bit below
            term = (total.as_unsigned() ^ flags.negate.replicate(len(total))).as_signed()
            with m.If(valid):
                gates[3] += acc.eq((Cat(flags.negate, base).as_signed() + Cat(flags.negate, term).as_signed()) >> 1)
        return m
