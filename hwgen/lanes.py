"""Lane array: `lanes` accumulators that add the weight rows of each cycle's events; no multiplier.

Timing: an emission in cycle c (the extractor's output register) reads its rows in c, sums them in c + 1, and is in the
accumulators from c + 3 on; `ready` pulses in the cycle in which the last emission of a token shows in `acc` (c + 3).
"""
from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import MachineConfig
from hwgen.descriptors import ADDRESS_BITS
from hwgen.extract import FLAGS, emission


class LaneArray(wiring.Component):
    """acc[l] = (0 | acc[l] | 2*acc[l]) +/- (sum of the event rows' weights of lane l), all lanes in parallel."""

    LATENCY = 3

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
        for port in range(cfg.rows_per_cycle):
            m.d.comb += [self.address[port].eq(self.events.row[port]),
                         self.en[port].eq(self.events.valid & self.events.event[port])]
        flags1, flags2 = Signal(FLAGS), Signal(FLAGS)
        valid1, valid2 = Signal(), Signal()
        event1 = Signal(cfg.rows_per_cycle)
        m.d.sync += [valid1.eq(self.events.valid), flags1.eq(self.events.flags), event1.eq(self.events.event.as_value()),
                     valid2.eq(valid1), flags2.eq(flags1), self.ready.eq(valid2 & flags2.last)]
        for lane in range(cfg.lanes):
            weights = [Mux(event1[port], self.row[port][lane * width:(lane + 1) * width].as_signed(), 0)
                       for port in range(cfg.rows_per_cycle)]
            total = Signal(signed(width + 1), name=f"sum{lane}")
            m.d.sync += total.eq(sum(weights[1:], weights[0]))
            acc = Signal(signed(cfg.acc_bits), name=f"acc{lane}")
            base = Signal(signed(cfg.acc_bits), name=f"base{lane}")
            m.d.comb += [base.eq(Mux(flags2.load, 0, Mux(flags2.double, acc << 1, acc))), self.acc[lane].eq(acc)]
            with m.If(valid2):
                m.d.sync += acc.eq(Mux(flags2.negate, base - total, base + total))
        return m
