"""The DMA's read direction: bursts from external memory, words into the on-chip memories."""

from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import MachineConfig
from hwgen.descriptors import ADDRESS_BITS, TRANSFER
from hwgen.dma_bursts import MOVE, SHARED, AddressChannel, Shapes, Transfers, channel_members, program_signature
from hwgen.external import packing
from hwgen.memory import write_signature


def write_members(shapes: Shapes) -> dict[str, object]:
    """`<name>_write` of each memory, and `<name>_grant` of the shared ones."""
    found: dict[str, object] = {f"{memory.name.lower()}_write": Out(write_signature(ADDRESS_BITS, width))
                                for memory, (width, _) in shapes.items()}
    return found | {f"{memory.name.lower()}_grant": In(1) for memory in shapes if memory in SHARED}


class Reader(wiring.Component):
    """The read program: addresses run ahead, data is written as it comes. Ports as in `hwgen.dma.Dma`."""

    def __init__(self, m: MachineConfig, shapes: Shapes) -> None:
        self.m, self.shapes = m, shapes
        super().__init__({
            **channel_members(m, "ar", "r"), **write_members(shapes), "program": Out(program_signature(m)),
            "start": In(1), "stop": In(1), "idle": Out(1), "base": In(32), "steps": In(TRANSFER["steps"][0]),
            "writes": In(TRANSFER["writes"][0]), "reads": Out(TRANSFER["steps"][0]), "fault": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        transfers, scatter, address = Transfers(self.m, self.shapes), _Scatter(self.m, self.shapes), AddressChannel(self.m)
        m.submodules.transfers = ResetInserter(self.stop)(transfers)
        m.submodules.scatter = ResetInserter(self.stop)(scatter)
        m.submodules.address = address
        draining, taken = Signal(), Signal()
        m.d.sync += draining.eq(self.stop | draining & address.busy)
        wiring.connect(m, transfers.moves, scatter.moves)
        wiring.connect(m, transfers.burst, address.burst)
        wiring.connect(m, wiring.flipped(self.program), transfers.program)
        m.d.comb += [
            transfers.start.eq(self.start), transfers.steps.eq(self.steps), transfers.writes.eq(self.writes),
            address.base.eq(self.base), self.m_axi_araddr.eq(address.addr), self.m_axi_arlen.eq(address.len),
            self.m_axi_arvalid.eq(address.valid), address.ready.eq(self.m_axi_arready),
            scatter.valid.eq(self.m_axi_rvalid & ~draining), scatter.data.eq(self.m_axi_rdata),
            self.m_axi_rready.eq(scatter.ready | draining),
            taken.eq(self.m_axi_rvalid & self.m_axi_rready), address.finished.eq(taken & self.m_axi_rlast),
            self.idle.eq(transfers.resting & ~scatter.busy & ~transfers.moves.valid & ~address.busy & ~draining),
        ]
        m.d.sync += self.fault.eq(taken & (self.m_axi_rresp != 0) & ~draining & ~self.stop)
        with m.If(self.start):
            m.d.sync += self.reads.eq(0)
        with m.Elif(scatter.finished):
            m.d.sync += self.reads.eq(self.reads + 1)
        for name in write_members(self.shapes):
            outer, inner = getattr(self, name), getattr(scatter, name)
            if name.endswith("_grant"):
                m.d.comb += inner.eq(outer)
            else:
                wiring.connect(m, wiring.flipped(outer), inner)
        return m


class _Scatter(wiring.Component):
    """Cuts beats into words, or joins them, and writes the words of one move after the other.

    A word's write comes in the cycle after its last beat was taken, one word a cycle. From the last write of a move to
    the next move's first beat one cycle is lost. `finished`: a move's last word is written in this cycle.
    """

    def __init__(self, m: MachineConfig, shapes: Shapes) -> None:
        self.m, self.shapes = m, shapes
        super().__init__({
            **write_members(shapes), "moves": In(stream.Signature(MOVE)), "busy": Out(1), "finished": Out(1),
            "data": In(m.memory_bits), "valid": In(1), "ready": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.m.memory_bits
        forms = {memory: packing(width, bus) for memory, (width, _) in self.shapes.items()}
        most = max(form.beats_per_word for form in forms.values())
        held = Signal(most * bus)
        move = Signal(MOVE)  # words: still to be written, less one
        part, slot = Signal(range(most)), Signal(range(bus // 8))
        active, full, written, emptied = Signal(), Signal(), Signal(), Signal()
        last_part, last_slot, accept = Signal(), Signal(), Signal()
        with m.Switch(move.memory):
            for memory, form in forms.items():
                with m.Case(memory):
                    m.d.comb += [last_part.eq(part == form.beats_per_word - 1), last_slot.eq(slot == form.words_per_beat - 1)]
        for memory, (width, _) in self.shapes.items():
            write = getattr(self, f"{memory.name.lower()}_write")
            m.d.comb += [write.en.eq(full & (move.memory == memory)), write.address.eq(move.local), write.data.eq(held[:width])]
            with m.If(write.en):
                m.d.comb += written.eq(getattr(self, f"{memory.name.lower()}_grant") if memory in SHARED else 1)
        m.d.comb += [
            self.finished.eq(written & (move.words == 0)), emptied.eq(written & (last_slot | self.finished)),
            self.ready.eq(active & (~full | emptied & ~self.finished)), accept.eq(self.valid & self.ready),
            self.busy.eq(active), self.moves.ready.eq(~active | self.finished),
        ]
        with m.If(written):
            m.d.sync += [move.words.eq(move.words - 1), move.local.eq(move.local + 1), slot.eq(slot + 1)]
            with m.Switch(move.memory):
                for memory, form in forms.items():
                    if form.words_per_beat > 1:
                        with m.Case(memory):
                            m.d.sync += held[:bus].eq(held[:bus] >> form.slot)
        with m.If(emptied):
            m.d.sync += [full.eq(0), slot.eq(0)]
        with m.If(accept):
            m.d.sync += [held.word_select(part, bus).eq(self.data), part.eq(part + 1)]
            with m.If(last_part):
                m.d.sync += [part.eq(0), full.eq(1)]
        with m.If(self.moves.ready):
            m.d.sync += [active.eq(self.moves.valid), move.eq(self.moves.payload)]
        return m
