"""The input stream: loads memories while the machine is idle, and streams images into the spike scratchpad."""
import enum
from collections.abc import Mapping

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import MachineConfig
from hwgen.countdown import Countdown
from hwgen.descriptors import ADDRESS_BITS, IMAGE, layout
from hwgen.memory import address_bits, write_signature
from hwgen.registers import TARGET_BITS, ErrorCode, LoadTarget

PIXEL_BITS = 8

Targets = Mapping[LoadTarget, tuple[int, int]]
"""The memories that can be loaded: target -> (bits of a word, words)."""


def beats_per_word(bus_bytes: int, width: int) -> int:
    """Beats that a load packet spends on one memory word of `width` bits."""
    return -(-width // (8 * bus_bytes))


def pixel_groups(planes: int) -> int:
    """Spike words of `planes` bits that the 8 bits of a pixel take."""
    return -(-PIXEL_BITS // planes)


def image_cycles(m: MachineConfig, tokens: int, channels: int, groups: int = 0) -> int:
    """Cycles of an IMAGE descriptor from its `start` to its `done`, both counted, when the stream is always valid.

    A word of `lanes` channels takes its beats or its group writes, whichever are more; only the first word's beats, the cycle
    after them and the last word's writes have nothing to hide behind. `groups`: spike words of a
    value (0: those of all 8 bits).
    """
    groups = groups or pixel_groups(m.planes)
    beats = -(-channels // m.bus_bytes)
    full, rest = divmod(beats, m.lanes // m.bus_bytes)
    words = [m.lanes // m.bus_bytes] * full + ([rest] if rest else [])
    token = sum(max(count, groups) for count in words)
    return 2 + words[0] + 1 + (tokens * token - max(words[0], groups)) + groups + 1


class _State(enum.IntEnum):
    IDLE = 0
    LOAD = 1
    LOADED = 2
    IMAGE = 3
    FINISH = 4
    DRAIN = 5


class Loader(wiring.Component):
    """AXI4-Stream sink `s_axis_*` of `bus_bytes` bytes a beat. A packet ends with TLAST.

    **Load**: with `load_target` not 0 and `busy` low, a packet goes to that memory from word `load_address` on. A word
    takes `beats_per_word` beats, least significant first, spare high bits ignored; one beat a cycle, never a stall. At
    the end of the packet `loaded` pulses, and `load_address_update` with `load_address_next`, the word behind it. A
    packet that ends inside a word: STREAM_SHORT; that goes past the memory: LOAD_RANGE; of no loadable memory:
    LOAD_TARGET. Whole words before the fault stay written, `load_address` stays, `loaded` does not come. A packet for
    DISCARD is taken and dropped, without a fault; `loaded` comes, `load_address` stays.

    **Image**: `start` and, from the next cycle until `done`, `desc` (descriptors.IMAGE; every field but `base` at least 1) takes
    one packet: tokens in raster order, each `channels` bytes filled up to whole beats (the filling is ignored). Word `w`
    (`lanes` channels) of token `t` becomes `groups` spike words at `base + t*token_words + g*words + w`, whose lane `l`
    holds bits [g*planes, (g+1)*planes) of its pixel; lanes without a channel hold 0. With `more` the packet is
    not at its end: the next `start` goes on in it. `done` pulses in the cycle after
    the last write; `image_cycles` is exact for a stream that is always valid. A packet that ends early: STREAM_SHORT;
    without TLAST on the image's last beat: STREAM_LONG; `done` then does not come. Until `start`, images wait (tready
    low).

    `error` [8] holds the ErrorCode for one cycle, right after the beat that showed it, in which no beat is taken; what is left
    of the packet is then taken and dropped up to its TLAST, and the next packet is good again. A `start` that comes meanwhile
    waits.
    `abort` (pulse) forgets whatever was under way in the same manner, without an error; do not reset the loader
    instead: the rest of a packet would pass for a new one. `loading` is high while a load packet is under way,
    `waiting` while a packet of any kind is offered or under way.

    Ports `program_write`, `weights_write`, `params_write`, `rom_write` (those that `targets` names) and `spike_write`
    are `hwgen.memory.write_signature`s.
    """

    def __init__(self, m: MachineConfig, targets: Targets, spike_address_bits: int = ADDRESS_BITS) -> None:
        """ValueError when `lanes` is not a multiple of `bus_bytes` or a target is not a memory."""
        if m.lanes % m.bus_bytes:
            raise ValueError(f"lanes {m.lanes} is not a multiple of bus_bytes {m.bus_bytes}: use a narrower bus")
        for target in (LoadTarget.NONE, LoadTarget.DISCARD):
            if target in targets:
                raise ValueError(f"LoadTarget.{target.name} is no memory: leave it out of the targets")
        self.m, self.targets = m, dict(targets)
        writes = {f"{target.name.lower()}_write": Out(write_signature(address_bits(depth), width))
                  for target, (width, depth) in self.targets.items()}
        super().__init__({
            "s_axis_tdata": In(8 * m.bus_bytes), "s_axis_tvalid": In(1), "s_axis_tready": Out(1), "s_axis_tlast": In(1),
            "busy": In(1), "waiting": Out(1), "load_target": In(TARGET_BITS), "load_address": In(32),
            "load_address_next": Out(32), "load_address_update": Out(1), "loading": Out(1), "loaded": Out(1),
            "start": In(1), "desc": In(layout(IMAGE)), "done": Out(1),
            "error": Out(8), "abort": In(1),
            "spike_write": Out(write_signature(spike_address_bits, m.word_bits)),
            **writes,
        })

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        bus, image_slots = 8 * self.m.bus_bytes, self.m.lanes // self.m.bus_bytes
        slots = max([image_slots] + [beats_per_word(self.m.bus_bytes, width) for width, _ in self.targets.values()])
        m.submodules.groups = groups = _GroupWriter(self.m, len(self.spike_write.address))
        state, start_waits, in_packet = Signal(_State), Signal(), Signal()
        word, slot = Signal(bus * slots), Signal(range(slots))  # the word being put together, and its next beat
        # It is a word's last beat; a word has one beat only: registers, for much hangs on them.
        slot_last, single, last_slot = Signal(), Signal(), Signal(range(slots))
        take, begin, fault = Signal(), Signal(), Signal(8)
        # What follows from a fault waits for these registers, and the packet with it: no path from a beat to everything.
        faulted, cancel = Signal(), Signal()
        ready = Signal()  # a beat is taken, but for a fault: a register, for much hangs on it
        m.d.comb += [self.s_axis_tready.eq(ready & ~faulted), take.eq(self.s_axis_tvalid & ready & ~faulted)]
        m.d.sync += ready.eq(0)
        m.d.sync += [self.error.eq(fault), faulted.eq(fault != 0), self.done.eq(0)]
        m.d.comb += cancel.eq(faulted | self.abort)
        # Image: a whole word goes to the group writer in the cycle after its last beat, or when that is free
        whole, writes = Signal(), Signal()
        m.d.comb += writes.eq(whole & groups.free)
        with m.If(writes):
            m.d.sync += [whole.eq(0), word.eq(0)]
        kept = Signal(bus)
        m.d.comb += kept.eq(self.s_axis_tdata)
        with m.If(~whole | groups.free):  # whether or not a beat is there: the last one that is put in a slot is the one taken
            m.d.sync += word.word_select(slot, bus).eq(kept)
        with m.If(take):
            m.d.sync += [slot.eq(slot + 1), slot_last.eq(slot + 1 == last_slot), in_packet.eq(~self.s_axis_tlast)]
        with m.If(self.start):
            m.d.sync += start_waits.eq(1)

        # load: which memory, where in it
        target, address, commit, commit_address = Signal(TARGET_BITS), Signal(32), Signal(), Signal(32)
        known, dropped, past, end = Signal(), Signal(), Signal(), Signal(32)  # past: the address is beyond `end`, the last word's
        m.d.sync += commit.eq(0)
        m.d.comb += [self.load_address_next.eq(address), self.load_address_update.eq(self.loaded),
                     self.loading.eq((state == _State.LOAD) | (state == _State.LOADED)),
                     self.waiting.eq(self.s_axis_tvalid | (state != _State.IDLE))]
        with m.Switch(target):
            for code in self.targets:
                port = getattr(self, f"{code.name.lower()}_write")
                m.d.comb += [port.address.eq(commit_address), port.data.eq(word)]
                with m.Case(code.value):
                    m.d.comb += port.en.eq(commit)
        offered, beats_last, words_last = Signal(), Signal.like(last_slot), Signal(32)  # what `load_target` says
        with m.Switch(self.load_target):
            for code, (width, words) in self.targets.items():
                with m.Case(code.value):
                    m.d.comb += [offered.eq(1), beats_last.eq(beats_per_word(self.m.bus_bytes, width) - 1),
                                 words_last.eq(words - 1)]

        # image: where in it
        token_base, word_address = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        token_end, image_end, word_end = Signal(), Signal(), Signal()
        shift = self.m.bus_bytes.bit_length() - 1
        beats = Countdown(m, "beats", (self.desc.channels - 1)[shift:len(self.desc.channels)])  # of a token, less one
        tokens = Countdown(m, "tokens", (self.desc.tokens - 1)[:len(self.desc.tokens)])
        tail = self.desc.channels[:shift]
        filled = Signal(self.m.bus_bytes)  # bytes of a token's last beat that are its own, from the cycle after `start` on
        m.d.sync += filled.eq(Cat((tail == 0) | (byte < tail) for byte in range(self.m.bus_bytes)))
        word_start = Signal(ADDRESS_BITS)
        with m.If((state == _State.IMAGE) & token_end):  # the filling of a token's last beat
            m.d.comb += kept.eq(Cat(self.s_axis_tdata.word_select(byte, 8) & filled[byte].replicate(8)
                                    for byte in range(self.m.bus_bytes)))
        m.d.comb += [
            token_end.eq(beats.last), image_end.eq(beats.last & tokens.last),
            word_end.eq(token_end | slot_last),
            groups.load.eq(writes), groups.pixels.eq(word[:bus * image_slots]), groups.first.eq(word_start),
            groups.step.eq(self.desc.words), groups.count.eq(self.desc.groups),
            self.spike_write.address.eq(groups.write.address), self.spike_write.en.eq(groups.write.en),
            self.spike_write.data.eq(groups.write.data),
        ]

        with m.Switch(state):
            with m.Case(_State.IDLE):
                beats.begin()
                tokens.begin()
                first_last = Mux(begin, image_slots - 1, beats_last)
                m.d.sync += [word.eq(0), slot.eq(0), last_slot.eq(first_last), slot_last.eq(first_last == 0),
                             single.eq(first_last == 0), target.eq(self.load_target), known.eq(offered),
                             dropped.eq(self.load_target == LoadTarget.DISCARD), address.eq(self.load_address),
                             end.eq(words_last), past.eq(self.load_address > words_last),
                             token_base.eq(self.desc.base), word_address.eq(self.desc.base)]
                m.d.comb += begin.eq(start_waits)
                with m.If(begin):
                    m.d.sync += [state.eq(_State.IMAGE), start_waits.eq(0), ready.eq(1)]
                with m.Elif(self.s_axis_tvalid & (self.load_target != 0) & ~self.busy & ~self.start):
                    m.d.sync += [state.eq(_State.LOAD), ready.eq(1)]

            with m.Case(_State.LOAD):
                m.d.sync += ready.eq(~(take & self.s_axis_tlast))
                with m.If(take & ~dropped):
                    with m.If(~known):
                        m.d.comb += fault.eq(ErrorCode.LOAD_TARGET)
                    with m.Elif(slot_last & past):
                        m.d.comb += fault.eq(ErrorCode.LOAD_RANGE)
                    with m.Elif(slot_last):
                        m.d.sync += [slot.eq(0), slot_last.eq(single), commit.eq(1), commit_address.eq(address),
                                     address.eq(address + 1), past.eq(address == end)]
                    with m.Elif(self.s_axis_tlast):
                        m.d.comb += fault.eq(ErrorCode.STREAM_SHORT)
                with m.If(take & self.s_axis_tlast):
                    m.d.sync += state.eq(_State.LOADED)

            with m.Case(_State.LOADED):  # the last word is being written
                m.d.comb += self.loaded.eq(~cancel)
                m.d.sync += state.eq(_State.IDLE)

            with m.Case(_State.IMAGE):
                m.d.sync += ready.eq(~whole | groups.free | groups.free_next)
                with m.If(take):
                    beats.step()
                    with m.If(word_end):
                        m.d.sync += [whole.eq(1), slot.eq(0), slot_last.eq(single), ready.eq(groups.free_next),
                                     word_start.eq(word_address), word_address.eq(word_address + 1)]
                    with m.If(token_end):
                        tokens.step()
                        m.d.sync += [token_base.eq(token_base + self.desc.token_words),
                                     word_address.eq(token_base + self.desc.token_words)]
                    with m.If(image_end & (self.s_axis_tlast ^ self.desc.more)):
                        m.d.sync += [state.eq(_State.FINISH), ready.eq(0)]
                    with m.Elif(image_end & ~self.s_axis_tlast):
                        m.d.comb += fault.eq(ErrorCode.STREAM_LONG)
                    with m.Elif(self.s_axis_tlast):
                        m.d.comb += fault.eq(ErrorCode.STREAM_SHORT)

            with m.Case(_State.FINISH):
                with m.If(groups.free & ~whole):
                    m.d.sync += [state.eq(_State.IDLE), self.done.eq(~self.abort)]

            with m.Case(_State.DRAIN):
                m.d.sync += ready.eq(~(take & self.s_axis_tlast))
                with m.If(take & self.s_axis_tlast):
                    m.d.sync += state.eq(_State.IDLE)

        # a fault or an abort leaves through here, whatever the state
        m.d.comb += groups.cancel.eq(cancel)
        with m.If(cancel):
            m.d.sync += whole.eq(0)
            still_open = Mux(take, ~self.s_axis_tlast, in_packet)
            m.d.sync += [state.eq(Mux(still_open, _State.DRAIN, _State.IDLE)), ready.eq(still_open)]
        with m.If(self.abort):
            m.d.sync += [start_waits.eq(0), self.error.eq(0), faulted.eq(0), commit.eq(0)]
        return m


class _GroupWriter(wiring.Component):
    """Writes one word of pixels as `count` spike words, heaviest bits last, from `first` on, `step` apart.

    `load` (only while `free`) takes `pixels` [lanes * 8]; the writes come in the next `count` cycles, and `free` is
    high again in the last of them, so that loads every `count` cycles lose none (`free_next`: a cycle before). `cancel` drops
    what is left.
    """

    def __init__(self, m: MachineConfig, spike_address_bits: int) -> None:
        self.m = m
        fields = layout(IMAGE)
        super().__init__({
            "load": In(1), "cancel": In(1), "free": Out(1, init=1), "free_next": Out(1), "pixels": In(m.lanes * PIXEL_BITS),
            "first": In(ADDRESS_BITS), "step": In(fields["words"].shape), "count": In(fields["groups"].shape),
            "write": Out(write_signature(spike_address_bits, m.word_bits)),
        })

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        held, left, address = Signal(self.m.lanes * PIXEL_BITS, reset_less=True), Signal.like(self.count), Signal(ADDRESS_BITS)
        pixels = [held.word_select(lane, PIXEL_BITS) for lane in range(self.m.lanes)]
        writing = Signal()  # left is not 0
        m.d.comb += [
            self.write.en.eq(writing), self.write.address.eq(address),
            self.write.data.eq(Cat(pixel[:self.m.planes] for pixel in pixels)),
        ]
        m.d.comb += self.free_next.eq(self.free)
        m.d.sync += self.free.eq(self.free_next)
        with m.If(writing):
            m.d.comb += self.free_next.eq(left <= 2)
            m.d.sync += [left.eq(left - 1), writing.eq(left != 1), address.eq(address + self.step)]
            m.d.sync += [pixel.eq(pixel >> self.m.planes) for pixel in pixels]
        with m.If(self.load):
            m.d.comb += self.free_next.eq(self.count <= 1)
            m.d.sync += [held.eq(self.pixels), left.eq(self.count), writing.eq(self.count != 0), address.eq(self.first)]
        with m.If(self.cancel):
            m.d.comb += self.free_next.eq(1)
            m.d.sync += [left.eq(0), writing.eq(0)]
        return m
