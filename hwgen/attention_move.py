"""Between the spike scratchpad and the attention unit: window gather of q, k, v; write of finished head slices."""
from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from hwgen.attention_desc import ADDRESS_BITS, AttentionDescriptor
from hwgen.config import MachineConfig
from hwgen.countdown import Countdown
from hwgen.memory import read_signature, write_signature

KINDS = 3
"""q, k, v: the order in which a job is loaded."""


def parts(machine: MachineConfig) -> int:
    """Spike words of the widest head slice."""
    return -(-machine.head_lanes // machine.lanes)


def slice_bits(machine: MachineConfig) -> int:
    """Bits of a local head slice: whole words where a slice is wider than a word."""
    channels = machine.head_lanes if parts(machine) == 1 else parts(machine) * machine.lanes
    return channels * machine.planes


def buffer_write_signature(machine: MachineConfig) -> wiring.Signature:
    """Write into the local q, k and v buffers: `kind` chooses them (one bit each), `part` the words of the slice."""
    return wiring.Signature({"kind": Out(KINDS), "index": Out(range(machine.window_tokens)),
                             "part": Out(parts(machine)), "data": Out(slice_bits(machine))})


class WindowWalk:
    """Visits the tokens of the windows of a map in attention order, by adders alone.

    `offset` is the current token's first word. Not a module: its statements join those of its owner.
    """

    def __init__(self, m: Module, desc: data.View, fields: data.View) -> None:
        self._m, self._desc, self._fields = m, desc, fields
        self._row, self._column = Signal(ADDRESS_BITS, name="walk_row"), Signal(ADDRESS_BITS, name="walk_column")
        self._origin_row = Signal(ADDRESS_BITS, name="walk_origin_row")
        self._origin_column = Signal(ADDRESS_BITS, name="walk_origin_column")
        # with a bit on top: it is the last of the map
        self._x, self._y, self._origin_x, self._origin_y = (Signal(9, name=f"walk_{n}") for n in ("x", "y", "ox", "oy"))
        self._ix, self._iy, self._wx, self._wy = (Countdown(m, f"walk_{name}", total) for name, total in (
            ("ix", desc.window_last), ("iy", desc.window_last), ("wx", desc.windows_last), ("wy", desc.window_rows_last)))
        self.offset = self._row + self._column
        self.last = self._ix.last & self._iy.last
        self.last_window = self._wx.last & self._wy.last
        self._right = (Mux(self._x[-1], 0, self._column + fields.token), self._moved(self._x))
        self._below = (Mux(self._y[-1], fields.base, self._row + fields.row), self._moved(self._y))

    def _marked(self, place: Value) -> Value:
        return Cat(place[:8], Const(0, 8 - len(place[:8])), place == self._desc.side_last)

    def _moved(self, place: Value) -> Value:
        return Mux(place[-1], self._marked(Const(0, 8)), self._marked((place[:8] + 1)[:8]))

    def start(self) -> None:
        """To the first token of the first window."""
        f, shift, shift_y = self._fields, self._marked(self._desc.shift), self._marked(self._desc.shift_y)
        self._m.d.sync += [
            self._row.eq(f.origin_y), self._origin_row.eq(f.origin_y), self._y.eq(shift_y), self._origin_y.eq(shift_y),
            self._column.eq(f.origin_x), self._origin_column.eq(f.origin_x), self._x.eq(shift),
            self._origin_x.eq(shift)]
        for counter in (self._ix, self._iy, self._wx, self._wy):
            counter.begin()

    def step(self) -> None:
        """To the next token of the window; from the last back to the first."""
        m = self._m
        self._ix.step()
        with m.If(self._ix.last):
            self._iy.step()
            m.d.sync += [self._column.eq(self._origin_column), self._x.eq(self._origin_x)]
            with m.If(self._iy.last):
                m.d.sync += [self._row.eq(self._origin_row), self._y.eq(self._origin_y)]
            with m.Else():
                m.d.sync += [self._row.eq(self._below[0]), self._y.eq(self._below[1])]
        with m.Else():
            m.d.sync += [self._column.eq(self._right[0]), self._x.eq(self._right[1])]

    def next_window(self) -> None:
        """Together with `step` at a window's last token: its right and lower neighbours begin the next windows."""
        m, f = self._m, self._fields
        self._wx.step()
        with m.If(self._wx.last):
            self._wy.step()
            m.d.sync += [
                self._column.eq(f.origin_x), self._origin_column.eq(f.origin_x),
                self._x.eq(self._marked(self._desc.shift)), self._origin_x.eq(self._marked(self._desc.shift)),
                self._row.eq(self._below[0]), self._origin_row.eq(self._below[0]),
                self._y.eq(self._below[1]), self._origin_y.eq(self._below[1])]
        with m.Else():
            m.d.sync += [
                self._column.eq(self._right[0]), self._origin_column.eq(self._right[0]),
                self._x.eq(self._right[1]), self._origin_x.eq(self._right[1])]


def _to_lane(value: Value, lane: Value, machine: MachineConfig) -> Value:
    """A word with `value` from `lane` on: one multiplexer for each bit of `lane`."""
    for bit in range((machine.lanes - 1).bit_length()):
        value = Mux(lane[bit], value << (machine.planes << bit), value)[:machine.word_bits]
    return value


def _from_lane(value: Value, lane: Value, machine: MachineConfig, lanes: int, steps: range) -> Value:
    """A word moved down by `lane`, as far as its bits in `steps` say; `lanes` lanes are wanted when all steps are done.

    Far steps first: the nearer ones then choose between fewer lanes.
    """
    for bit in reversed(steps):
        value = Mux(lane[bit], value >> (machine.planes << bit), value)[:(lanes + (1 << bit) - 1) * machine.planes]
    return value


class AttentionLoader(wiring.Component):
    """Reads one job's q, k and v slices, one word a cycle, aligns them and writes them to the local buffers.

    The first job begins with `start`, each later one with `go` (only while `more`). `done` is high from LOAD_TAIL + 1
    cycles after the last address on, until the next `go`: a query row read from then on is there, keys one cycle later.
    """

    def __init__(self, machine: MachineConfig, address_bits: int) -> None:
        self.machine = machine
        super().__init__({
            "desc": In(AttentionDescriptor), "start": In(1), "go": In(1), "done": Out(1), "more": Out(1),
            "spike_read": Out(read_signature(address_bits, machine.word_bits)),
            "write": Out(buffer_write_signature(machine))})

    def elaborate(self, platform: object) -> Module:
        """Address, port, word, aligned word: four registers from the counters to the buffers; the third is the scratchpad's."""
        m, desc = Module(), self.desc
        walk = WindowWalk(m, desc, desc.input)
        run, ending = Signal(), Signal(2)
        kind, part = Signal(2), Signal(4)
        parts_left, heads = Countdown(m, "part", desc.parts_last), Countdown(m, "head", desc.heads_last)
        words, slots, lanes = ([Signal(n, name=f"{name}{i}") for i in range(KINDS)]
                               for name, n in (("word", 12), ("slot", 8), ("lane", 8)))
        first = [(0, 0, 0)] + [(s.word, s.slot, s.lane) for s in (desc.k, desc.v)]

        def reset_slots() -> None:
            for i in range(KINDS):
                m.d.sync += [words[i].eq(first[i][0]), slots[i].eq(first[i][1]), lanes[i].eq(first[i][2])]

        word, lane = Signal(12), Signal(8)
        with m.Switch(kind):
            for i in range(KINDS):
                with m.Case(i):
                    m.d.comb += [word.eq(words[i]), lane.eq(lanes[i])]

        index = Signal(range(self.machine.window_tokens))
        m.d.sync += [self.spike_read.address.eq(walk.offset + (word + part)), self.spike_read.en.eq(run),
                     ending.eq(Cat(0, ending[0]))]
        with m.If(ending[1]):
            m.d.sync += self.done.eq(1)
        with m.If(self.start):
            walk.start()
            reset_slots()
            parts_left.begin()
            heads.begin()
            m.d.sync += [run.eq(1), kind.eq(0), part.eq(0), index.eq(0), self.more.eq(1), self.done.eq(0)]
        with m.Elif(run):
            parts_left.step()
            with m.If(~parts_left.last):
                m.d.sync += part.eq(part + 1)
            with m.Else():
                m.d.sync += [part.eq(0), index.eq(index + 1)]
                walk.step()
                with m.If(walk.last):
                    m.d.sync += [kind.eq(kind + 1), index.eq(0)]
                    with m.If(kind == KINDS - 1):
                        m.d.sync += [kind.eq(0), run.eq(0), ending[0].eq(1)]
                        heads.step()
                        for i in range(KINDS):
                            with m.If(slots[i] == desc.slots_last):
                                m.d.sync += [slots[i].eq(0), lanes[i].eq(0),
                                             words[i].eq(words[i] + desc.parts_last + 1)]
                            with m.Else():
                                m.d.sync += [slots[i].eq(slots[i] + 1), lanes[i].eq(lanes[i] + desc.head_size)]
                        with m.If(heads.last):
                            walk.next_window()
                            reset_slots()
                            with m.If(walk.last_window):
                                m.d.sync += self.more.eq(0)
        with m.Elif(self.go):
            m.d.sync += [run.eq(1), self.done.eq(0)]

        stage = Cat(run, kind, index, part, lane)
        for i in range(3):
            later = Signal(len(stage), name=f"stage{i + 1}")
            m.d.sync += later.eq(stage)
            stage = later
        self._align(m, self.spike_read.data, _split(stage, (1, 2, len(index), len(part), len(lane))))
        return m

    def _align(self, m: Module, raw: Value, fields: Sequence[Value]) -> None:
        """The far steps to the slice's first lane, a register, and the near ones."""
        valid, kind, index, part, lane = fields
        machine, count, write = self.machine, parts(self.machine), self.write
        lanes, bits = min(machine.head_lanes, machine.lanes), (machine.lanes - 1).bit_length()
        far = _from_lane(raw, lane, machine, lanes, range(bits // 2, bits))
        half, near = Signal(len(far), reset_less=True), Signal(bits // 2)
        m.d.sync += [half.eq(far), near.eq(lane), write.kind.eq(Mux(valid, 1 << kind, 0)), write.index.eq(index),
                     write.part.eq(1 << part)]
        aligned = _from_lane(half, near, machine, lanes, range(bits // 2))
        m.d.comb += write.data.eq(Cat(aligned for _ in range(count)) if count > 1 else aligned)


def _split(value: Value, widths: Sequence[int]) -> list[Value]:
    fields, at = [], 0
    for width in widths:
        fields.append(value[at:at + width])
        at += width
    return fields


class AttentionOutput(wiring.Component):
    """Merges finished head slices into their words and writes each word after its last head.

    `take` offers the next query row's slice (`take_last`: the last row of its pass); rows beyond the window are
    skipped. Rows come at least `words_per_head` cycles apart. `done` follows the layer's last write by one cycle.
    """

    def __init__(self, machine: MachineConfig, address_bits: int) -> None:
        self.machine = machine
        super().__init__({
            "desc": In(AttentionDescriptor), "start": In(1), "done": Out(1),
            "take": In(1), "take_last": In(1), "row": In(slice_bits(machine)),
            "spike_write": Out(write_signature(address_bits, machine.word_bits))})

    def elaborate(self, platform: object) -> Module:
        """Take, align, merge: the word is on the write port two cycles after `take`."""
        m, desc, machine = Module(), self.desc, self.machine
        walk = WindowWalk(m, desc, desc.output)
        word, lane, fresh_slot = Signal(12), Signal(8), Signal()
        slots, heads = Countdown(m, "slot", desc.slots_last), Countdown(m, "head", desc.heads_last)
        index, skip = Signal(range(machine.window_tokens)), Signal()

        words = memory.Memory(shape=machine.word_bits, depth=machine.window_tokens, init=[])
        m.submodules.words = words
        read, write = words.read_port(), words.write_port()
        m.d.comb += read.addr.eq(index)

        row, address = Signal.like(self.row, reset_less=True), Signal(ADDRESS_BITS)
        busy, part, fresh, emit, final = Signal(), Signal(4), Signal(), Signal(), Signal()
        row_lane, row_index = Signal.like(lane), Signal.like(index)
        aligned, old = (Signal(machine.word_bits, name=name, reset_less=True) for name in ("aligned", "old"))
        written, ended = Signal(), Signal()
        m.d.sync += [
            aligned.eq(_to_lane(row[:machine.word_bits], row_lane, machine)),
            old.eq(Mux(fresh, 0, read.data)), write.addr.eq(row_index), written.eq(busy),
            self.spike_write.en.eq(busy & emit), self.spike_write.address.eq(address),
            ended.eq(busy & final & (part == desc.parts_last)), self.done.eq(ended)]
        m.d.comb += [write.data.eq(aligned | old), write.en.eq(written), self.spike_write.data.eq(aligned | old)]
        with m.If(busy):
            m.d.sync += [row.eq(row >> machine.word_bits), address.eq(address + 1), part.eq(part + 1)]
            with m.If(part == desc.parts_last):
                m.d.sync += busy.eq(0)

        with m.If(self.start):
            walk.start()
            slots.begin()
            heads.begin()
            m.d.sync += [word.eq(0), lane.eq(0), fresh_slot.eq(1), index.eq(0), skip.eq(0)]
        with m.Elif(self.take & skip):
            with m.If(self.take_last):
                m.d.sync += skip.eq(0)
        with m.Elif(self.take):
            walk.step()
            m.d.sync += [
                row.eq(self.row), address.eq(walk.offset + word), busy.eq(1), part.eq(0), index.eq(index + 1),
                row_lane.eq(lane), row_index.eq(index), fresh.eq(fresh_slot), emit.eq(slots.last | heads.last),
                final.eq(walk.last & heads.last & walk.last_window)]
            with m.If(walk.last):
                slots.step()
                heads.step()
                m.d.sync += [index.eq(0), skip.eq(~self.take_last), fresh_slot.eq(slots.last | heads.last),
                             lane.eq(lane + desc.head_size)]
                with m.If(slots.last):
                    m.d.sync += [lane.eq(0), word.eq(word + desc.parts_last + 1)]
                with m.If(heads.last):
                    walk.next_window()
                    slots.begin()
                    m.d.sync += [lane.eq(0), word.eq(0)]
        return m
