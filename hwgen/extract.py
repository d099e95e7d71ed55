"""Event extractor: walks the input words of a GEMM tile and emits up to two weight row addresses a cycle.

Two halves with a queue between them. The *fetcher* reads one spike word a cycle, picks the bit planes that this pass takes (all
of the word's, but for a sign plane, which subtracts and so goes alone), counts their events, and queues the bit vectors unless
they are empty (the last word of a pass is queued always: it carries the shift between groups of planes and the token's end).
The *emitter* names the word's set bits, the lowest of the lowest plane and the highest of the highest plane first, as weight
rows and powers of two: events of different planes go together, so a word of k events takes max(1, ceil(k/2)) cycles. Zero and
masked inputs take no cycle while the queue holds work.

Timing (`hwgen.gemm_cycles` states it as a recurrence): the fetcher's stages move together, and stand still only where a word
is to be queued and the queue is full. The word issued in cycle c is read in c + 1 and taken over in c + 2 (a block RAM's output
is late), its planes are picked in c + 3; they are counted in c + 4 and c + 5, and judged in c + 6 (`FETCH_STAGES`), queued at its
end, and can be taken by the emitter in c + 7. The rows that the emitter names in a cycle are on `out` `EMIT_STAGES` cycles later.
"""
from collections.abc import Iterable
from functools import reduce
from operator import and_, or_
from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hwgen.clock_gate import gated
from hwgen.config import MachineConfig
from hwgen.countdown import Countdown
from hwgen.descriptors import ADDRESS_BITS, GEMM, layout
from hwgen.popcount import popcount

FETCH_STAGES = 6
"""Cycles from a word's issue to its judgement: address, read, take over, pick, count by lanes, count by planes."""
EMIT_STAGES = 2
"""Cycles from naming a vector's events to their rows being on `out`: one-hot, index and address."""
COUNTED = 16
"""Lanes that are counted together."""
SEARCHED = 16
"""Lanes that are searched together for their outermost event: the borrow chain is no longer than that."""

FLAGS = data.StructLayout({"load": 1, "shift": 1, "negate": 1, "last": 1})
"""What becomes of the sums before: dropped, or shifted by a group of planes; whether rows subtract; whether the token ends."""


def emission(m: MachineConfig) -> data.StructLayout:
    """What the lane array gets each cycle: up to `rows_per_cycle` weight rows and how to treat the accumulators.

    `plane`: the power of two of each row's event, one hot; 0: no event.
    """
    return data.StructLayout({
        "valid": 1, "plane": data.ArrayLayout(m.planes, m.rows_per_cycle),
        "row": data.ArrayLayout(ADDRESS_BITS, m.rows_per_cycle), "flags": FLAGS})


class Extractor(wiring.Component):
    """Event extractor of one GEMM descriptor: `start` pulse, then spike reads, then emissions until the last token's last event.

    `word`: what was read, behind a register (`hwgen.memory.taken_over`) that `take` moves with the fetcher's other stages.
    `hold` (in): while high, an emission that would end a token waits. `ending` (out) tells that this cycle's emission ends one.
    """

    def __init__(self, m: MachineConfig) -> None:
        self.m = m
        super().__init__({
            "start": In(1), "desc": In(layout(GEMM)),
            "address": Out(ADDRESS_BITS), "en": Out(1), "take": Out(1), "word": In(m.word_bits),
            "out": Out(emission(m)), "hold": In(1), "ending": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, planes = self.m.lanes, self.m.planes
        vector = data.StructLayout({"bits": data.ArrayLayout(lanes, planes), "some": planes,
                                    "count": data.ArrayLayout(range(lanes + 1), planes), "total": range(lanes * planes + 1),
                                    "row": ADDRESS_BITS, "flags": FLAGS})
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
        lanes, planes = self.m.lanes, self.m.planes
        tag = data.StructLayout({"valid": 1, "row": ADDRESS_BITS, "taken": planes, "first_pass": 1, "shift": 1,
                                 "negate": 1, "pass_end": 1, "token_end": 1, "inside": 1})
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
        m.d.comb += [self.en.eq(tags[1].valid & tags[1].inside & advance), self.take.eq(advance)]

        fetch = m.d[gated(m, "fetch", advance & Cat(tag.valid for tag in tags[1:]).any())]
        entry, push, some, fresh = Signal(vector), Signal(), Signal(planes), Signal(init=1)
        bits = []  # of a plane, being counted
        for p in range(planes):
            picked, counted, judged_bits = (Signal(lanes, name=f"{stage}{p}", reset_less=True)
                                            for stage in ("picked", "counted", "judged"))
            bits.append(counted)
            counts = []
            for low in range(0, lanes, COUNTED):
                chunk = list(picked[low:low + COUNTED])
                counts.append(Signal(range(len(chunk) + 1), name=f"count{p}_{low}", reset_less=True))
                ones = popcount(m, chunk, f"count{p}_{low}")
                with m.If(advance):
                    fetch += counts[-1].eq(ones)
            count = Signal(range(lanes + 1), name=f"count{p}", reset_less=True)
            with m.If(advance):
                # no events where no word was read
                looked = tags[3].taken[p] & tags[3].inside
                fetch += [picked.eq(Cat(self.word[lane * planes + p] for lane in range(lanes)) & looked.replicate(lanes)),
                          counted.eq(picked), judged_bits.eq(counted), some[p].eq(counted.any()),
                          count.eq(sum(counts[1:], counts[0]))]
            m.d.comb += [entry.bits[p].eq(judged_bits), entry.count[p].eq(count)]
        with m.If(advance):
            m.d.sync += push.eq(tags[FETCH_STAGES - 1].valid & (Cat(bits).any() | tags[FETCH_STAGES - 1].pass_end))
        judged = tags[FETCH_STAGES]
        m.d.comb += [
            advance.eq(~push | room), queue.w_en.eq(push), queue.w_data.eq(entry), entry.row.eq(judged.row), entry.some.eq(some),
            entry.total.eq(sum((entry.count[p] for p in range(1, planes)), entry.count[0])),
            entry.flags.negate.eq(judged.negate), entry.flags.load.eq(fresh & judged.first_pass),
            entry.flags.shift.eq(fresh & judged.shift), entry.flags.last.eq(judged.token_end)]
        with m.If(push & room):
            m.d.sync += fresh.eq(judged.pass_end)  # the next word is the first of its pass

    def _walk(self, m: Module, walked: data.View, advance: Value) -> None:
        """The counters: each cycle's word address and what must be known of it (`tag`)."""
        tag = walked.tag
        d, planes = self.desc, self.m.planes
        busy, issue = Signal(), Signal()
        x, y, px, py, words, passes = (Countdown(m, name, getattr(d, field)) for name, field in (
            ("x", "tokens_x"), ("y", "tokens_y"), ("px", "phases_x"), ("py", "phases_y"), ("words", "words"),
            ("passes", "passes_less_one")))
        token, column, phase = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        w, group, taken, first_pass, shift = Signal(8), Signal(12), Signal(planes), Signal(), Signal()
        phase_row, row = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        pass_end, next_token = Signal(), Signal(ADDRESS_BITS)
        # Where the gathered token lies in the map (modulo: before it is beyond it), and the token's first one.
        edge = len(d.side) + 1
        column_at, row_at, left, above, next_left, next_above = (Signal(edge, name=name) for name in (
            "column_at", "row_at", "left", "above", "next_left", "next_above"))
        m.d.comb += [next_left.eq(Mux(x.last, -d.padding, left + d.stride)), next_above.eq(above + Mux(x.last, d.stride, 0)),
                     tag.inside.eq((column_at <= d.side) & (row_at <= d.side))]
        # planes below the first pass's uppermost one, and that one
        lower, top = Signal(planes), Signal(planes)
        first = [taken.eq(Mux(d.signed, top, top | lower)), group.eq(d.first_group), first_pass.eq(1), shift.eq(0)]
        m.d.comb += [top.eq(1 << d.first_bit), lower.eq(top - 1)]
        m.d.comb += [issue.eq(busy & advance), pass_end.eq(words.last & py.last & px.last),
                     next_token.eq(token + Mux(x.last, d.row_step, d.token_step)),
                     tag.valid.eq(busy), tag.row.eq(row), tag.taken.eq(taken), tag.first_pass.eq(first_pass), tag.shift.eq(shift),
                     tag.negate.eq(d.signed & first_pass), tag.pass_end.eq(pass_end),
                     tag.token_end.eq(pass_end & passes.last), walked.address.eq(phase + (group + w))]
        with m.If(self.start):
            for counter in (x, y, px, py, words, passes):
                counter.begin()
            m.d.sync += [*first, busy.eq(1), w.eq(0), token.eq(d.in_base), column.eq(d.in_base), phase.eq(d.in_base),
                         phase_row.eq(d.weight_base), row.eq(d.weight_base)]
            m.d.sync += [where.eq(-d.padding) for where in (column_at, row_at, left, above)]
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
                    m.d.sync += [phase.eq(phase + d.off_y), row_at.eq(row_at + 1)]
                with m.Else():
                    px.step()
                    with m.If(~px.last):
                        m.d.sync += [column.eq(column + d.off_x), phase.eq(column + d.off_x), column_at.eq(column_at + 1),
                                     row_at.eq(above)]
            # not nested deeper: few of these conditions hang on each other, and much hangs on them
            with m.If(pass_end):
                passes.step()
            with m.If(pass_end & ~passes.last):
                m.d.sync += [column.eq(token), phase.eq(token), column_at.eq(left), row_at.eq(above), first_pass.eq(0)]
                with m.If(first_pass & d.signed & (lower != 0)):  # the sign plane's group again
                    m.d.sync += taken.eq(lower)
                with m.Else():
                    m.d.sync += [taken.eq(~0), group.eq(group - d.group_step), shift.eq(1)]
            with m.If(tag.token_end):
                x.step()
                m.d.sync += [*first, token.eq(next_token), column.eq(next_token), phase.eq(next_token), left.eq(next_left),
                             above.eq(next_above), column_at.eq(next_left), row_at.eq(next_above)]
            with m.If(tag.token_end & x.last):
                y.step()
            with m.If(tag.token_end & x.last & y.last):
                m.d.sync += busy.eq(0)

    def _emit(self, m: Module, queue: SyncFIFO, vector: data.StructLayout) -> None:
        lanes, planes, rows = self.m.lanes, self.m.planes, self.m.rows_per_cycle
        waiting = Signal(vector)
        entry = SimpleNamespace(  # signals of their own: a simulator would join and cut a wide one in every cycle
            bits=[Signal(lanes, name=f"entry_bits{p}") for p in range(planes)],
            count=[Signal(range(lanes + 1), name=f"entry_count{p}") for p in range(planes)],
            total=Signal.like(waiting.total, name="entry_total"), row=Signal(ADDRESS_BITS, name="entry_row"),
            flags=Signal(FLAGS, name="entry_flags"))
        valid, first, exhausted, go, take = Signal(), Signal(), Signal(), Signal(), Signal()
        ends = exhausted & entry.flags.last
        m.d.comb += [waiting.eq(queue.r_data), self.ending.eq(valid & ends & ~self.hold), go.eq(valid & ~(ends & self.hold)),
                     take.eq(~valid | (go & exhausted)), queue.r_en.eq(take)]
        # Port 0 takes the lowest event of the lowest plane that has one, port 1 the highest of the highest (one hot: `outer`).
        outer = [Signal(planes, name=f"plane{port}") for port in range(rows)]
        # Both are searched for in every plane and every group of lanes at once: the choice of plane and group would otherwise
        # stand in front of the search.
        kept: list[list[Signal]] = [[], []]
        chosen: list[list[Value]] = [[], []]
        left = []
        # Signals of their own: Amaranth writes an expression anew for each bit that is taken of it.
        for p in range(planes):
            backwards = Signal(lanes, name=f"backwards{p}")
            m.d.comb += backwards.eq(entry.bits[p][::-1])
            for port in range(rows):
                rest = Signal(lanes, name=f"kept{port}_{p}")  # all but the outermost of each group
                here = Signal(lanes, name=f"chosen{port}_{p}")  # this cycle's event is in this plane, and in no group before
                rests, first_in = (Signal(lanes, name=f"{name}{port}_{p}") for name in ("rests", "first_in"))
                ordered = entry.bits[p] if port == 0 else backwards
                groups = [ordered[low:low + SEARCHED] for low in range(0, lanes, SEARCHED)]
                nearest = Signal(len(groups), name=f"nearest{port}_{p}")
                m.d.comb += [
                    rests.eq(Cat(_without_lowest(group) for group in groups)),
                    *(bit.eq(outer[port][p] & ~ordered[:number * SEARCHED].any()) for number, bit in enumerate(nearest)),
                    first_in.eq(Cat(bit.replicate(len(group)) for bit, group in zip(nearest, groups, strict=True))),
                    rest.eq(rests if port == 0 else rests[::-1]), here.eq(first_in if port == 0 else first_in[::-1])]
                kept[port].append(rest)
                chosen[port].append(here)
        some = Signal(planes)  # which planes will have events behind this cycle's
        for p in range(planes):
            after = Signal.like(entry.count[p], name=f"after{p}")
            m.d.comb += [after.eq(entry.count[p] - sum((plane[p] for plane in outer[1:]), outer[0][p])), some[p].eq(after != 0)]
            left += [entry.count[p].eq(after), entry.bits[p].eq(_every(
                (entry.bits[p], *(kept[port][p] | ~chosen[port][p] for port in range(rows)))))]
        # Two registers: the outermost bits, one hot; their rows.
        named, row = Signal.like(self.out), Signal(ADDRESS_BITS)
        emit = m.d[gated(m, "emit", valid | named.valid | queue.r_rdy)]
        with m.If(take):
            m.d.sync += valid.eq(queue.r_rdy)
            emit += [*(entry.bits[p].eq(waiting.bits[p]) for p in range(planes)),
                     *(entry.count[p].eq(waiting.count[p]) for p in range(planes)),
                     *(part.eq(taken) for part, taken in ((entry.total, waiting.total), (entry.row, waiting.row),
                                                          (entry.flags, waiting.flags))), first.eq(1),
                     exhausted.eq(waiting.total <= rows),
                     *(plane.eq(_outermost(waiting.some, port)) for port, plane in enumerate(outer))]
        with m.Elif(go):
            emit += [*left, first.eq(0), entry.total.eq(entry.total - rows), exhausted.eq(entry.total <= 2 * rows),
                     *(plane.eq(_outermost(some, port)) for port, plane in enumerate(outer))]
        m.d.sync += [named.valid.eq(go), named.flags.negate.eq(entry.flags.negate),
                     named.flags.load.eq(entry.flags.load & first), named.flags.shift.eq(entry.flags.shift & first),
                     named.flags.last.eq(ends), named.plane[0].eq(outer[0]),
                     self.out.valid.eq(named.valid), self.out.flags.eq(named.flags), self.out.plane.eq(named.plane)]
        emit += row.eq(entry.row)
        if rows == 2:
            both = ~(exhausted & entry.total[0])  # with one event left port 0 takes it
            m.d.sync += named.plane[1].eq(outer[1] & both.replicate(planes))
        rows_out = [Signal(ADDRESS_BITS, name=f"row{port}") for port in range(rows)]
        for port in range(rows):
            hot = Signal(lanes, name=f"hot{port}", reset_less=True)
            emit += [hot.eq(_either(entry.bits[p] & ~kept[port][p] & chosen[port][p] for p in range(planes))),
                     rows_out[port].eq(row + _index(hot))]
            m.d.comb += self.out.row[port].eq(rows_out[port])


def _either(values: Iterable[Value]) -> Value:
    return reduce(or_, values)


def _every(values: Iterable[Value]) -> Value:
    return reduce(and_, values)


def _without_lowest(bits: Value) -> Value:
    """`bits` without the lowest that is set: a borrow chain, which is short in time and in LUTs."""
    return bits & (bits - 1)[:len(bits)]


def _outermost(some: Value, port: int) -> Value:
    """One hot: the lowest set bit of `some` for port 0, the highest for port 1."""
    return Cat(some[p] & ~(some[:p] if port == 0 else some[p + 1:]).any() for p in range(len(some)))


def _index(hot: Value) -> Value:
    """Place of the one set bit of `hot` (0 for none)."""
    return Cat(Cat(hot[lane] for lane in range(len(hot)) if lane >> bit & 1).any() for bit in range((len(hot) - 1).bit_length()))
