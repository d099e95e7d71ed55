"""Event extractor: walks the input words of a GEMM tile, plane by plane, and emits up to two weight row addresses a cycle.

Two halves with a queue between them. The *fetcher* reads one spike word a cycle, picks one bit plane of it, and queues the
bit vector unless it is empty (the last word of a plane is queued always: it carries the plane's doubling and the token's
end). The *emitter* takes a vector and names its set bits, lowest and highest first, as weight rows; a vector of k events
takes max(1, ceil(k/2)) cycles. So zero and masked inputs take no cycle while the queue holds work.

Timing (`hwgen.gemm_cycles` states it as a recurrence): the word issued in cycle c is judged in c + 1, queued at its end, and
can be taken by the emitter in c + 2; its first events leave in c + 3.
"""
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hwgen.config import MachineConfig
from hwgen.descriptors import ADDRESS_BITS, GEMM, layout

FLAGS = data.StructLayout({"load": 1, "double": 1, "negate": 1, "last": 1})


def emission(m: MachineConfig) -> data.StructLayout:
    """What the lane array gets each cycle: up to `rows_per_cycle` weight rows and how to treat the accumulators."""
    return data.StructLayout({
        "valid": 1, "event": data.ArrayLayout(1, m.rows_per_cycle), "row": data.ArrayLayout(ADDRESS_BITS, m.rows_per_cycle),
        "flags": FLAGS})


class Extractor(wiring.Component):
    """Event extractor of one GEMM descriptor: `start` pulse, then spike reads, then emissions until the last token's last event.

    `hold` (in): while high, an emission that would end a token waits. `ending` (out) tells that this cycle's emission ends one.
    """

    def __init__(self, m: MachineConfig) -> None:
        self.m = m
        super().__init__({
            "start": In(1), "desc": In(layout(GEMM)),
            "address": Out(ADDRESS_BITS), "en": Out(1), "word": In(m.word_bits),
            "out": Out(emission(m)), "hold": In(1), "ending": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        vector = data.StructLayout({"bits": self.m.lanes, "row": ADDRESS_BITS, "flags": FLAGS})
        m.submodules.queue = queue = SyncFIFO(width=vector.size, depth=self.m.queue_depth)
        self._fetch(m, queue, vector)
        self._emit(m, queue, vector)
        return m

    def _fetch(self, m: Module, queue: SyncFIFO, vector: data.StructLayout) -> None:
        d, planes = self.desc, self.m.planes
        busy = Signal()
        x, y = Signal(10), Signal(10)
        px, py, w = Signal(8), Signal(8), Signal(8)
        token, column, phase = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        group, bit, plane = Signal(12), Signal(range(max(planes, 2))), Signal(4)
        phase_row, row = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)

        tag = data.StructLayout({"row": ADDRESS_BITS, "bit": len(bit), "first_plane": 1, "negate": 1,
                                 "plane_end": 1, "token_end": 1})
        judged, judging = Signal(tag), Signal()
        advance = Signal()  # the word at the memory's output leaves, or none is there
        issue = Signal()
        m.d.comb += [issue.eq(busy & advance), self.en.eq(issue), self.address.eq(phase + group + w)]

        last_word, last_y, last_x = w == d.words, py == d.phases_y, px == d.phases_x
        plane_end = Signal()
        last_plane = plane == d.planes_less_one
        m.d.comb += plane_end.eq(last_word & last_y & last_x)
        next_token = Signal(ADDRESS_BITS)
        m.d.comb += next_token.eq(token + Mux(x == d.tokens_x, d.row_step, d.token_step))

        with m.If(self.start):
            m.d.sync += [busy.eq(1), x.eq(0), y.eq(0), px.eq(0), py.eq(0), w.eq(0), plane.eq(0),
                         token.eq(d.in_base), column.eq(d.in_base), phase.eq(d.in_base),
                         group.eq(d.first_group), bit.eq(d.first_bit),
                         phase_row.eq(d.weight_base), row.eq(d.weight_base)]
        with m.Elif(issue):
            with m.If(~last_word):
                m.d.sync += [w.eq(w + 1), row.eq(row + d.row_word_step)]
            with m.Else():
                m.d.sync += w.eq(0)
                with m.If(~(last_y & last_x)):
                    m.d.sync += [phase_row.eq(phase_row + d.row_phase_step), row.eq(phase_row + d.row_phase_step)]
                    with m.If(~last_y):
                        m.d.sync += [py.eq(py + 1), phase.eq(phase + d.off_y)]
                    with m.Else():
                        m.d.sync += [py.eq(0), px.eq(px + 1), column.eq(column + d.off_x), phase.eq(column + d.off_x)]
                with m.Else():
                    m.d.sync += [px.eq(0), py.eq(0), phase_row.eq(d.weight_base), row.eq(d.weight_base)]
                    with m.If(~last_plane):
                        m.d.sync += [plane.eq(plane + 1), column.eq(token), phase.eq(token)]
                        with m.If(bit != 0):
                            m.d.sync += bit.eq(bit - 1)
                        with m.Else():
                            m.d.sync += [bit.eq(planes - 1), group.eq(group - d.group_step)]
                    with m.Else():
                        m.d.sync += [plane.eq(0), group.eq(d.first_group), bit.eq(d.first_bit), token.eq(next_token),
                                     column.eq(next_token), phase.eq(next_token)]
                        with m.If(x == d.tokens_x):
                            m.d.sync += [x.eq(0), y.eq(y + 1)]
                            with m.If(y == d.tokens_y):
                                m.d.sync += busy.eq(0)
                        with m.Else():
                            m.d.sync += x.eq(x + 1)

        with m.If(advance):
            m.d.sync += [judging.eq(issue), judged.row.eq(row), judged.bit.eq(bit), judged.first_plane.eq(plane == 0),
                         judged.negate.eq(d.signed & (plane == 0)), judged.plane_end.eq(plane_end),
                         judged.token_end.eq(plane_end & last_plane)]

        planes_of_word = [Cat(self.word[lane * planes + p] for lane in range(self.m.lanes)) for p in range(planes)]
        bits, fresh, push = Signal(self.m.lanes), Signal(init=1), Signal()
        with m.Switch(judged.bit):
            for p in range(planes):
                with m.Case(p):
                    m.d.comb += bits.eq(planes_of_word[p])
        entry = Signal(vector)
        m.d.comb += [
            push.eq(judging & (bits.any() | judged.plane_end)), advance.eq(~push | queue.w_rdy),
            queue.w_en.eq(push), queue.w_data.eq(entry),
            entry.bits.eq(bits), entry.row.eq(judged.row), entry.flags.negate.eq(judged.negate),
            entry.flags.load.eq(fresh & judged.first_plane), entry.flags.double.eq(fresh & ~judged.first_plane),
            entry.flags.last.eq(judged.token_end)]
        with m.If(push & queue.w_rdy):
            m.d.sync += fresh.eq(judged.plane_end)  # the next vector is the first of its plane

    def _emit(self, m: Module, queue: SyncFIFO, vector: data.StructLayout) -> None:
        lanes, rows = self.m.lanes, self.m.rows_per_cycle
        entry, valid, first = Signal(vector), Signal(), Signal()
        low, high = Signal(range(lanes)), Signal(range(lanes))
        for lane in reversed(range(lanes)):
            with m.If(entry.bits[lane]):
                m.d.comb += low.eq(lane)
        for lane in range(lanes):
            with m.If(entry.bits[lane]):
                m.d.comb += high.eq(lane)
        rest = Signal(lanes)
        picks = [low, high][:rows]
        m.d.comb += rest.eq(entry.bits)
        for pick in picks:
            with m.Switch(pick):
                for lane in range(lanes):
                    with m.Case(lane):
                        m.d.comb += rest[lane].eq(0)
        exhausted, go = Signal(), Signal()
        m.d.comb += [exhausted.eq(~rest.any()), self.ending.eq(valid & exhausted & entry.flags.last & ~self.hold),
                     go.eq(valid & ~(exhausted & entry.flags.last & self.hold))]
        take = Signal()
        m.d.comb += [take.eq(~valid | (go & exhausted)), queue.r_en.eq(take)]
        with m.If(take):
            m.d.sync += [valid.eq(queue.r_rdy), entry.eq(queue.r_data), first.eq(1)]
        with m.Elif(go):
            m.d.sync += [entry.bits.eq(rest), first.eq(0)]
        # registered: the priority encoders and the address adders end here
        m.d.sync += [self.out.valid.eq(go), self.out.flags.eq(entry.flags), self.out.flags.load.eq(entry.flags.load & first),
                     self.out.flags.double.eq(entry.flags.double & first),
                     self.out.flags.last.eq(entry.flags.last & exhausted)]
        m.d.sync += [self.out.event[0].eq(entry.bits.any()), self.out.row[0].eq(entry.row + low)]
        if rows == 2:
            m.d.sync += [self.out.event[1].eq(low != high), self.out.row[1].eq(entry.row + high)]
