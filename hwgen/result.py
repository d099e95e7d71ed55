"""The output stream: logits in groups from the fire unit, out one a beat."""
from amaranth.hdl import Elaboratable, Module, Mux, ResetInserter, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from hwgen.config import MachineConfig

LOGIT_BITS = 32


def group_layout(fire_lanes: int) -> data.StructLayout:
    """A group of logits: `values` [fire_lanes] signed 32-bit, the first `count` of them valid (1 to fire_lanes).

    `last`: the image's last logit is the last valid one of this group.
    """
    return data.StructLayout({"values": data.ArrayLayout(signed(LOGIT_BITS), fire_lanes),
                              "count": fire_lanes.bit_length(), "last": 1})


class ResultStream(wiring.Component):
    """AXI4-Stream source `m_axis_*`: one signed 32-bit logit a beat, TLAST on an image's last.

    `groups` in (stream of `group_layout`) holds at least one tile, lanes / fire_lanes groups, without a beat going out;
    one group a cycle is taken while there is room. The first beat is offered two or three cycles after its group.
    `idle`: nothing is held. `flush` (pulse): everything held is dropped; a beat that is offered stays until it is
    taken, and a packet that was begun is closed with one beat of 0 with TLAST, so that the receiver sees a short packet
    and stays in step.
    """

    def __init__(self, m: MachineConfig) -> None:
        self.m = m
        super().__init__({
            "groups": In(stream.Signature(group_layout(m.fire_lanes))),
            "m_axis_tdata": Out(LOGIT_BITS), "m_axis_tvalid": Out(1), "m_axis_tready": In(1), "m_axis_tlast": Out(1),
            "flush": In(1), "idle": Out(1),
        })

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        layout = group_layout(self.m.fire_lanes)
        fifo = SyncFIFOBuffered(width=layout.size, depth=max(3, 1 + self.m.lanes // self.m.fire_lanes))
        m.submodules.fifo = ResetInserter(self.flush)(fifo)
        group = data.View(layout, fifo.r_data)
        values, left, last = Signal(layout["values"].shape, reset_less=True), Signal(layout["count"].shape), Signal()
        some, single = Signal(), Signal()  # left != 0, left == 1: registers, for much hangs on them
        sent, is_open, closing = Signal(), Signal(), Signal()
        m.d.comb += [
            fifo.w_data.eq(self.groups.payload), fifo.w_en.eq(self.groups.valid), self.groups.ready.eq(fifo.w_rdy),
            self.m_axis_tvalid.eq(some), self.m_axis_tdata.eq(values[0]), self.m_axis_tlast.eq(last & single),
            sent.eq(self.m_axis_tvalid & self.m_axis_tready),
            self.idle.eq((fifo.level == 0) & ~some & ~closing),
        ]
        with m.If(sent):
            m.d.sync += [left.eq(left - 1), some.eq(~single), single.eq(left == 2), is_open.eq(~self.m_axis_tlast)]
            m.d.sync += [values[index].eq(values[index + 1]) for index in range(self.m.fire_lanes - 1)]
        with m.If(~some | (sent & single)):
            with m.If(closing):
                m.d.sync += [values.eq(0), left.eq(1), some.eq(1), single.eq(1), last.eq(1), closing.eq(0)]
            with m.Elif(fifo.r_rdy):
                m.d.comb += fifo.r_en.eq(1)
                m.d.sync += [values.eq(group["values"]), left.eq(group["count"]), some.eq(1), single.eq(group["count"] == 1),
                             last.eq(group["last"])]
        with m.If(self.flush):
            offered = self.m_axis_tvalid & ~sent
            m.d.sync += [left.eq(offered), some.eq(offered), single.eq(offered), last.eq(self.m_axis_tlast),
                         closing.eq(closing | Mux(self.m_axis_tvalid, ~self.m_axis_tlast, is_open))]
        return m
