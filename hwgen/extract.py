"""Event extractor: walks the input words of a GEMM tile, plane by plane, and emits up to two weight row addresses a cycle.

Two halves with a queue between them. The *fetcher* reads one spike word a cycle, picks one bit plane of it, counts its
events, and queues the bit vector unless it is empty (the last word of a plane is queued always: it carries the plane's
doubling and the token's end). The *emitter* takes a vector and names its set bits, lowest and highest first, as weight
rows; a vector of k events takes max(1, ceil(k/2)) cycles. So zero and masked inputs take no cycle while the queue holds work.

Timing (`hwgen.gemm_cycles` states it as a recurrence): the fetcher's stages move together, and stand still only where a word
is to be queued and the queue is full. The word issued in cycle c is read in c + 1 and taken over in c + 2 (a block RAM's output
is late), its plane is picked in c + 3; it is counted in c + 4 and judged in c + 5 (`FETCH_STAGES`), queued at its end, and can be
taken by the emitter in c + 6. The rows that the emitter names in a cycle are on `out` `EMIT_STAGES` cycles later.
"""
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hwgen.config import MachineConfig
from hwgen.countdown import Countdown
from hwgen.descriptors import ADDRESS_BITS, GEMM, layout
from hwgen.popcount import popcount

FETCH_STAGES = 5
"""Cycles from a word's issue to its judgement: address, read, take over, pick, count."""
EMIT_STAGES = 2
"""Cycles from naming a vector's events to their rows being on `out`: one-hot, index and address."""
CHUNK, COUNTED = 4, 16
"""Lanes that are looked at together, by the search for the outermost bits and by the count."""

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
        vector = data.StructLayout({"bits": self.m.lanes, "row": ADDRESS_BITS, "flags": FLAGS, "some": 1, "odd": 1,
                                    "cycles": self.m.lanes.bit_length()})
        m.submodules.queue = queue = SyncFIFO(width=vector.size, depth=self.m.queue_depth)
        # `queue.w_rdy`, but from a register: it moves the whole fetcher
        room, written, read = Signal(init=1), Signal(), Signal()
        m.d.comb += [written.eq(queue.w_en & room), read.eq(queue.r_en & queue.r_rdy)]
        with m.If(written != read):
            m.d.sync += room.eq(read | (queue.w_level != self.m.queue_depth - 1))
        self._fetch(m, queue, room, vector)
        self._emit(m, queue, vector)
        return m

    def _fetch(self, m: Module, queue: SyncFIFO, room: Signal, vector: data.StructLayout) -> None:
        advance = Signal()  # all stages move
        tag = data.StructLayout({"valid": 1, "row": ADDRESS_BITS, "bit": range(max(self.m.planes, 2)), "first_plane": 1,
                                 "negate": 1, "plane_end": 1, "token_end": 1})
        tags = [Signal(tag, name=f"tag{stage}") for stage in range(FETCH_STAGES + 1)]
        for before, after in zip(tags, tags[1:], strict=False):
            with m.If(advance):
                m.d.sync += after.eq(before)
        # The counters stop a cycle after the stages: a step that these could not take waits in `skid`. So no path leads from the
        # queue through all the counters.
        walked, skid, skidded = (Signal(data.StructLayout({"tag": tag, "address": ADDRESS_BITS}), name=name)
                                 for name in ("walked", "skid", "skidded"))
        full = Signal()
        m.d.comb += [skidded.eq(Mux(full, skid, walked)), tags[0].eq(skidded.tag)]
        m.d.sync += full.eq(~advance)
        with m.If(~full):
            m.d.sync += skid.eq(walked)
        with m.If(advance):
            m.d.sync += self.address.eq(skidded.address)
        self._walk(m, walked, ~full)
        m.d.comb += self.en.eq(tags[1].valid & advance)

        # pick the plane
        planes = self.m.planes
        word = Signal(self.m.word_bits, reset_less=True)
        with m.If(advance):
            m.d.sync += word.eq(self.word)
        picked, looked = Signal(self.m.lanes), Signal(self.m.lanes)
        with m.Switch(tags[3].bit):
            for p in range(planes):
                with m.Case(p):
                    m.d.comb += looked.eq(Cat(word[lane * planes + p] for lane in range(self.m.lanes)))
        # count it: with two rows a cycle one event more, for (k + 1) / 2 cycles
        bits, some, push = Signal(self.m.lanes), Signal(), Signal()
        counts = []
        for low in range(0, self.m.lanes, COUNTED):
            chunk = list(picked[low:low + COUNTED])
            one_more = [Const(1, 1)] if low == 0 and self.m.rows_per_cycle == 2 else []
            count = Signal(range(len(chunk) + len(one_more) + 1), name=f"count{low}")
            with m.If(advance):
                m.d.sync += count.eq(popcount(m, chunk + one_more, f"count{low}"))
            counts.append(count)
        with m.If(advance):
            m.d.sync += [picked.eq(looked), bits.eq(picked), some.eq(picked.any()),
                         push.eq(tags[4].valid & (picked.any() | tags[4].plane_end))]
        # judge
        judged, entry, total, fresh = tags[FETCH_STAGES], Signal(vector), Signal(range(self.m.lanes + 2)), Signal(init=1)
        m.d.comb += [
            total.eq(sum(counts[1:], counts[0])),
            advance.eq(~push | room), queue.w_en.eq(push), queue.w_data.eq(entry),
            entry.bits.eq(bits), entry.row.eq(judged.row), entry.flags.negate.eq(judged.negate), entry.some.eq(some),
            entry.flags.load.eq(fresh & judged.first_plane), entry.flags.double.eq(fresh & ~judged.first_plane),
            entry.flags.last.eq(judged.token_end)]
        if self.m.rows_per_cycle == 2:
            m.d.comb += [entry.odd.eq(~total[0]), entry.cycles.eq(total >> 1)]
        else:
            m.d.comb += entry.cycles.eq(total)
        with m.If(push & room):
            m.d.sync += fresh.eq(judged.plane_end)  # the next vector is the first of its plane

    def _walk(self, m: Module, walked: data.View, advance: Value) -> None:
        """The counters: each cycle's word address and what must be known of it (`tag`)."""
        tag = walked.tag
        d, planes = self.desc, self.m.planes
        busy, issue = Signal(), Signal()
        x, y, px, py, words, plane = (Countdown(m, name, getattr(d, field)) for name, field in (
            ("x", "tokens_x"), ("y", "tokens_y"), ("px", "phases_x"), ("py", "phases_y"), ("words", "words"),
            ("plane", "planes_less_one")))
        token, column, phase = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        w, group, bit, first_plane = Signal(8), Signal(12), Signal(range(max(planes, 2))), Signal()
        phase_row, row = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        plane_end, next_token = Signal(), Signal(ADDRESS_BITS)
        m.d.comb += [issue.eq(busy & advance), plane_end.eq(words.last & py.last & px.last),
                     next_token.eq(token + Mux(x.last, d.row_step, d.token_step)),
                     tag.valid.eq(busy), tag.row.eq(row), tag.bit.eq(bit), tag.first_plane.eq(first_plane),
                     tag.negate.eq(d.signed & first_plane), tag.plane_end.eq(plane_end),
                     tag.token_end.eq(plane_end & plane.last), walked.address.eq(phase + (group + w))]
        with m.If(self.start):
            for counter in (x, y, px, py, words, plane):
                counter.begin()
            m.d.sync += [busy.eq(1), w.eq(0), token.eq(d.in_base), column.eq(d.in_base), phase.eq(d.in_base),
                         group.eq(d.first_group), bit.eq(d.first_bit), first_plane.eq(1),
                         phase_row.eq(d.weight_base), row.eq(d.weight_base)]
        with m.Elif(issue):
            words.step()
            with m.If(~words.last):
                m.d.sync += [w.eq(w + 1), row.eq(row + d.row_word_step)]
            with m.Else():
                m.d.sync += w.eq(0)
                py.step()
                with m.If(~(py.last & px.last)):
                    m.d.sync += [phase_row.eq(phase_row + d.row_phase_step), row.eq(phase_row + d.row_phase_step)]
                with m.Else():
                    m.d.sync += [phase_row.eq(d.weight_base), row.eq(d.weight_base)]
                with m.If(~py.last):
                    m.d.sync += phase.eq(phase + d.off_y)
                with m.Else():
                    px.step()
                    with m.If(~px.last):
                        m.d.sync += [column.eq(column + d.off_x), phase.eq(column + d.off_x)]
                    with m.Else():
                        plane.step()
                        m.d.sync += first_plane.eq(plane.last)
                        with m.If(~plane.last):
                            m.d.sync += [column.eq(token), phase.eq(token)]
                            with m.If(bit != 0):
                                m.d.sync += bit.eq(bit - 1)
                            with m.Else():
                                m.d.sync += [bit.eq(planes - 1), group.eq(group - d.group_step)]
                        with m.Else():
                            x.step()
                            m.d.sync += [group.eq(d.first_group), bit.eq(d.first_bit), token.eq(next_token),
                                         column.eq(next_token), phase.eq(next_token)]
                            with m.If(x.last):
                                y.step()
                                with m.If(y.last):
                                    m.d.sync += busy.eq(0)

    def _emit(self, m: Module, queue: SyncFIFO, vector: data.StructLayout) -> None:
        rows = self.m.rows_per_cycle
        entry, waiting = Signal(vector), Signal(vector)
        valid, first, exhausted, go, take = Signal(), Signal(), Signal(), Signal(), Signal()
        ends = exhausted & entry.flags.last
        m.d.comb += [waiting.eq(queue.r_data), self.ending.eq(valid & ends & ~self.hold), go.eq(valid & ~(ends & self.hold)),
                     take.eq(~valid | (go & exhausted)), queue.r_en.eq(take)]
        below, above = Signal(self.m.lanes), Signal(self.m.lanes)  # is there an event before, behind?
        m.d.comb += [below.eq(_any_before(m, list(entry.bits), "below")),
                     Cat(reversed(above)).eq(_any_before(m, list(reversed(entry.bits)), "above"))]
        with m.If(take):
            m.d.sync += [valid.eq(queue.r_rdy), entry.eq(waiting), first.eq(1), exhausted.eq(waiting.cycles <= 1)]
        with m.Elif(go):
            m.d.sync += [entry.bits.eq(entry.bits & below & (above if rows == 2 else ~0)), first.eq(0),
                         entry.cycles.eq(entry.cycles - 1), exhausted.eq(entry.cycles == 2)]
        # Two registers: the outermost bits, one hot; their rows.
        named, row = Signal.like(self.out), Signal(ADDRESS_BITS)
        m.d.sync += [named.valid.eq(go), named.flags.negate.eq(entry.flags.negate),
                     named.flags.load.eq(entry.flags.load & first), named.flags.double.eq(entry.flags.double & first),
                     named.flags.last.eq(ends), row.eq(entry.row), named.event[0].eq(entry.some),
                     self.out.valid.eq(named.valid), self.out.flags.eq(named.flags), self.out.event.eq(named.event)]
        if rows == 2:
            m.d.sync += named.event[1].eq(entry.some & ~(exhausted & entry.odd))
        for port, inner in enumerate((below, above)[:rows]):
            hot = Signal(self.m.lanes, name=f"hot{port}")
            m.d.sync += [hot.eq(entry.bits & ~inner), self.out.row[port].eq(row + _index(hot))]


def _any_before(m: Module, bits: list[Value], name: str) -> Value:
    """Bit i: whether one of `bits[:i]` is set. By chunks of chunks, so that the depth grows with the logarithm."""
    if len(bits) <= CHUNK:
        return Cat(Cat(bits[:place]).any() for place in range(len(bits)))
    chunks = [bits[low:low + CHUNK] for low in range(0, len(bits), CHUNK)]
    some, before = Signal(len(chunks), name=f"{name}_some{len(bits)}"), Signal(len(chunks), name=f"{name}{len(bits)}")
    m.d.comb += [some.eq(Cat(Cat(chunk).any() for chunk in chunks)), before.eq(_any_before(m, list(some), name))]
    return Cat(before[number] | Cat(chunk[:place]).any() for number, chunk in enumerate(chunks) for place in range(len(chunk)))


def _index(hot: Value) -> Value:
    """Place of the one set bit of `hot` (0 for none)."""
    return Cat(Cat(hot[lane] for lane in range(len(hot)) if lane >> bit & 1).any() for bit in range((len(hot) - 1).bit_length()))
