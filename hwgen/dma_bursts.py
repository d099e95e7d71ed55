"""What both directions of the DMA share: the AXI4 port, a transfer program turned into bursts, an address channel."""
from collections.abc import Mapping

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Member, Out

from hwgen.config import MachineConfig
from hwgen.descriptors import TRANSFER, TRANSFER_BITS, Memory, layout
from hwgen.external import packing
from hwgen.memory import address_bits, read_signature

AXI_ADDRESS_BITS = 40
BASE_SHIFT = 12
"""MEMORY_BASE counts units of 4 KiB."""
INCR = 1
CACHE = 0b0011
"""AxCACHE: normal memory, not cacheable, bufferable."""
SHARED = (Memory.SPIKES, Memory.STREAM)
"""Memories whose ports the compute units share: a grant says when the DMA may use them."""

Shapes = Mapping[Memory, tuple[int, int]]
"""On-chip memories that transfers reach: memory -> (bits of a word, words)."""

MOVE = data.StructLayout({name: TRANSFER[name][0] for name in ("memory", "local", "words")})
"""What the on-chip side must know of a transfer (fields of `descriptors.TRANSFER`)."""
BURST = data.StructLayout({"address": TRANSFER["address"][0], "len": 8, "final": 1})
"""First beat (behind MEMORY_BASE), beats less one; the last burst of its transfer."""


def axi_signature(m: MachineConfig) -> dict[str, Member]:
    """The AXI4 master port, named as Verilog tools expect it; the machine's top takes these members over as they are.

    Addresses have 40 bits (a sum beyond wraps), data `m.memory_bits`.
    """
    found: dict[str, Member] = {}
    for channel in ("aw", "ar"):
        fields = {"id": 1, "addr": AXI_ADDRESS_BITS, "len": 8, "size": 3, "burst": 2, "lock": 1, "cache": 4, "prot": 3, "qos": 4,
                  "valid": 1}
        found |= {f"m_axi_{channel}{name}": Out(width) for name, width in fields.items()} | {f"m_axi_{channel}ready": In(1)}
    bits = m.memory_bits
    return found | {
        "m_axi_wdata": Out(bits), "m_axi_wstrb": Out(bits // 8), "m_axi_wlast": Out(1), "m_axi_wvalid": Out(1),
        "m_axi_wready": In(1), "m_axi_bid": In(1), "m_axi_bresp": In(2), "m_axi_bvalid": In(1), "m_axi_bready": Out(1),
        "m_axi_rid": In(1), "m_axi_rdata": In(bits), "m_axi_rresp": In(2), "m_axi_rlast": In(1), "m_axi_rvalid": In(1),
        "m_axi_rready": Out(1)}


def channel_members(m: MachineConfig, *channels: str) -> dict[str, Member]:
    """The members of `axi_signature` that belong to `channels` (of ar, aw, r, w, b), without constants and ids."""
    constant = ("id", "size", "burst", "lock", "cache", "prot", "qos", "strb")
    ours = [f"m_axi_{channel}{part}" for channel in channels
            for part in ("addr", "len", "valid", "ready", "data", "resp", "last") if part not in constant]
    return {name: member for name, member in axi_signature(m).items() if name in ours}


def program_signature(m: MachineConfig) -> wiring.Signature:
    """Read port of a transfer program memory of `m.transfers` entries."""
    return read_signature(address_bits(m.transfers), TRANSFER_BITS)


class Transfers(wiring.Component):
    """Fetches a transfer program ahead, holds each entry back until it may start, and cuts it into bursts.

    `start` (pulse) begins at entry 0; an entry of kind 0 ends the program (one is needed: the address wraps). An entry
    may start when `steps` and `writes` have reached its own. `burst`: one a cycle, the next entry's behind the last of
    this one; with its first burst an entry also enters `moves`, which holds `memory_outstanding` of them. `resting`:
    nothing is held but `moves`. An entry whose memory is not in `shapes` is not defined.
    """

    def __init__(self, m: MachineConfig, shapes: Shapes) -> None:
        self.m, self.shapes = m, shapes
        super().__init__({
            "start": In(1), "steps": In(TRANSFER["steps"][0]), "writes": In(TRANSFER["writes"][0]), "resting": Out(1),
            "program": Out(program_signature(m)), "burst": Out(stream.Signature(BURST)), "moves": Out(stream.Signature(MOVE))})

    def _beats(self, m: Module, entry: data.View) -> Signal:
        """Beats of `entry`; a constant's multiple is a sum of shifts, so that no multiplier is emitted."""
        forms = {memory: packing(width, self.m.memory_bits) for memory, (width, _) in self.shapes.items()}
        most = max(form.beats_per_word for form in forms.values())
        words, found = Signal(TRANSFER["words"][0] + 1), Signal(TRANSFER["words"][0] + 1 + most.bit_length())
        m.d.comb += words.eq(entry.words + 1)
        with m.Switch(entry.memory):
            for memory, form in forms.items():
                with m.Case(memory):
                    total: Value = Const(0)
                    for bit in range(form.beats_per_word.bit_length()):
                        if form.beats_per_word >> bit & 1:
                            total = total + (words << bit)
                    shift = form.words_per_beat.bit_length() - 1
                    m.d.comb += found.eq(total if form.words_per_beat == 1 else words + (form.words_per_beat - 1) >> shift)
        return found

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # the program memory's output, the raw entry, and the entry at work: three stages, one entry a cycle
        fetched = data.View(layout(TRANSFER), self.program.data)
        running, have, raw_valid, valid = Signal(), Signal(), Signal(), Signal()
        raw, entry, begun = Signal(layout(TRANSFER)), Signal(layout(TRANSFER)), Signal()
        pc = Signal(address_bits(self.m.transfers))
        end, take_fetched, take_raw, fire, finishing = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            end.eq(have & (fetched.kind == 0)), take_fetched.eq(have & ~end & (~raw_valid | take_raw)),
            self.program.en.eq(running & (~have | take_fetched)), self.program.address.eq(pc),
            self.resting.eq(~(running | raw_valid | valid)),
        ]
        with m.If(self.program.en):
            m.d.sync += [have.eq(1), pc.eq(pc + 1)]
        with m.If(end):
            m.d.sync += [have.eq(0), running.eq(0)]
        with m.If(self.start):
            m.d.sync += [running.eq(1), pc.eq(0)]
        with m.If(take_fetched):
            m.d.sync += [raw.eq(fetched), raw_valid.eq(1)]
        with m.Elif(take_raw):
            m.d.sync += raw_valid.eq(0)

        beats = self._beats(m, raw)
        left, longest = Signal.like(beats), self.m.memory_burst
        room, size = Signal(range(longest + 1)), Signal(range(longest + 1))
        released = Signal()
        m.submodules.queue = queue = SyncFIFO(width=MOVE.size, depth=max(2, self.m.memory_outstanding))
        m.d.comb += [
            room.eq(longest - entry.address[:longest.bit_length() - 1]), size.eq(Mux(left < room, left, room)),
            released.eq((self.steps >= entry.steps) & (self.writes >= entry.writes)),
            self.burst.valid.eq(valid & (begun | released & queue.w_rdy)),
            self.burst.payload.address.eq(entry.address), self.burst.payload.len.eq(size - 1),
            self.burst.payload.final.eq(left == size),
            fire.eq(self.burst.valid & self.burst.ready), finishing.eq(fire & self.burst.payload.final),
            take_raw.eq(raw_valid & (~valid | finishing)),
            queue.w_en.eq(fire & ~begun), self.moves.valid.eq(queue.r_rdy), queue.r_en.eq(self.moves.ready),
            self.moves.payload.eq(queue.r_data),
        ]
        move = data.View(MOVE, queue.w_data)
        m.d.comb += [move.memory.eq(entry.memory), move.local.eq(entry.local), move.words.eq(entry.words)]
        with m.If(fire):
            m.d.sync += [entry.address.eq(entry.address + size), left.eq(left - size), begun.eq(1)]
        with m.If(take_raw):
            m.d.sync += [valid.eq(1), entry.eq(raw), left.eq(beats), begun.eq(0)]
        with m.Elif(finishing):
            m.d.sync += valid.eq(0)
        return m


class AddressChannel(wiring.Component):
    """AR or AW: a register for one burst, and the count of bursts under way, at most `memory_outstanding`.

    `issued`: a burst enters the register in this cycle. `finished` (in): a burst has come to its end. `busy`: some have
    not. Never reset while `busy`: AXI4 takes no address back.
    """

    def __init__(self, m: MachineConfig) -> None:
        self.m = m
        super().__init__({
            "base": In(32), "burst": In(stream.Signature(BURST)), "issued": Out(1), "finished": In(1), "busy": Out(1),
            "addr": Out(AXI_ADDRESS_BITS), "len": Out(8), "valid": Out(1), "ready": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count, most = Signal(range(self.m.memory_outstanding + 1)), self.m.memory_outstanding
        beat_shift = (self.m.memory_bits // 8).bit_length() - 1
        m.d.comb += [
            self.burst.ready.eq((~self.valid | self.ready) & (count != most)), self.busy.eq(count != 0),
            self.issued.eq(self.burst.valid & self.burst.ready)]
        m.d.sync += count.eq(count + self.issued - self.finished)
        with m.If(self.issued):
            m.d.sync += [self.valid.eq(1), self.len.eq(self.burst.payload.len),
                         self.addr.eq((self.base << BASE_SHIFT) + (self.burst.payload.address << beat_shift))]
        with m.Elif(self.ready):
            m.d.sync += self.valid.eq(0)
        return m
