"""Spike GEMM engine: event extractor -> lane array -> fire unit, one descriptor (a tile of `lanes` output channels) at a time."""
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hwgen.config import MachineConfig
from hwgen.descriptors import ADDRESS_BITS, GEMM, layout
from hwgen.extract import Extractor
from hwgen.fire import FireUnit
from hwgen.lanes import LaneArray
from hwgen.parameters import branch_words, neuron_words
from model.lfsr import WIDTH
from quantize.formats import LOGIT_BITS, STREAM_BITS


class GemmEngine(wiring.Component):
    """`start` pulse with `desc`; `masked`, `mask_state` stable until `done`; exact cycles: `hwgen.gemm_cycles`."""

    def __init__(self, m: MachineConfig) -> None:
        self.m = m
        read = {"address": Out(ADDRESS_BITS), "en": Out(1)}
        write = {"address": Out(ADDRESS_BITS), "en": Out(1)}
        super().__init__({
            "start": In(1), "done": Out(1), "desc": In(layout(GEMM)), "masked": In(1), "mask_state": In(WIDTH),
            "override": In(1), "override_ratio": In(8), "initial": In(1), "last_step": In(1),
            "spike_read": Out(wiring.Signature({**read, "take": Out(1), "data": In(m.word_bits)})),
            "spike_write": Out(wiring.Signature({**write, "data": Out(m.word_bits)})),
            "weight_read": Out(wiring.Signature({**read, "data": In(m.lanes * m.weight_bits)})).array(m.rows_per_cycle),
            "neuron_read": Out(wiring.Signature({**read, "data": In(neuron_words(m))})),
            "branch_read": Out(wiring.Signature({**read, "data": In(branch_words(m))})),
            "stream_read": Out(wiring.Signature({**read, "data": In(m.fire_lanes * STREAM_BITS)})),
            "stream_write": Out(wiring.Signature({**write, "data": Out(m.fire_lanes * STREAM_BITS)})),
            "logits": Out(wiring.Signature({"valid": Out(1), "last": Out(1), "data": Out(m.fire_lanes * LOGIT_BITS)})),
            "events": Out(2)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.extract = extract = Extractor(self.m)
        m.submodules.lanes = lanes = LaneArray(self.m)
        m.submodules.fire = fire = FireUnit(self.m)
        start, desc = Signal(), Signal(layout(GEMM), reset_less=True)  # both have come a long way
        m.d.sync += start.eq(self.start)
        with m.If(self.start):
            m.d.sync += desc.eq(self.desc)
        m.d.comb += [
            extract.start.eq(start), extract.desc.eq(desc), extract.word.eq(self.spike_read.data),
            self.spike_read.address.eq(extract.address), self.spike_read.en.eq(extract.en), self.spike_read.take.eq(extract.take),
            lanes.events.eq(extract.out),
            self.events.eq(Mux(extract.out.valid, sum(plane.any() for plane in extract.out.plane), 0)),
            fire.start.eq(start), fire.desc.eq(desc), fire.masked.eq(self.masked),
            fire.mask_state.eq(self.mask_state), fire.override.eq(self.override),
            fire.override_ratio.eq(self.override_ratio), fire.initial.eq(self.initial), fire.last_step.eq(self.last_step),
            fire.acc.eq(lanes.acc), fire.ready.eq(lanes.ready),
            self.done.eq(fire.done)]
        for port in range(self.m.rows_per_cycle):
            m.d.comb += [self.weight_read[port].address.eq(lanes.address[port]), self.weight_read[port].en.eq(lanes.en[port]),
                         lanes.row[port].eq(self.weight_read[port].data)]
        for name in ("neuron_read", "branch_read", "stream_read", "stream_write", "spike_write", "logits"):
            connect(m, getattr(fire, name), flipped(getattr(self, name)))
        # A token may end only when the fire unit will have taken the one before.
        gap, hold = Signal(7), Signal()  # hold: gap is not 0, as a register
        with m.If(extract.ending):
            m.d.sync += [gap.eq(desc.spacing), hold.eq(desc.spacing != 0)]
        with m.Elif(gap != 0):
            m.d.sync += [gap.eq(gap - 1), hold.eq(gap != 1)]
        m.d.comb += extract.hold.eq(hold)
        return m
