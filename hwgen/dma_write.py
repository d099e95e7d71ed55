"""The DMA's write direction: words from the scratchpads, bursts into external memory."""

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hwgen.config import MachineConfig
from hwgen.descriptors import ADDRESS_BITS, TRANSFER
from hwgen.dma_bursts import MOVE, SHARED, AddressChannel, Shapes, Transfers, channel_members, program_signature
from hwgen.external import packing
from hwgen.memory import read_signature


def read_members(shapes: Shapes) -> dict[str, object]:
    """`<name>_read` and `<name>_read_grant` of the shared memories."""
    found: dict[str, object] = {f"{memory.name.lower()}_read": Out(read_signature(ADDRESS_BITS, shapes[memory][0]))
                                for memory in SHARED if memory in shapes}
    return found | {f"{memory.name.lower()}_read_grant": In(1) for memory in SHARED if memory in shapes}


class Writer(wiring.Component):
    """The write program. Ports as in `hwgen.dma.Dma`. A W beat is offered one cycle after its AW at the earliest."""

    def __init__(self, m: MachineConfig, shapes: Shapes) -> None:
        self.m = m
        self.shapes = {memory: shapes[memory] for memory in SHARED if memory in shapes}
        super().__init__({
            **channel_members(m, "aw", "w", "b"), **read_members(shapes), "program": Out(program_signature(m)),
            "start": In(1), "stop": In(1), "idle": Out(1), "base": In(32), "steps": In(TRANSFER["steps"][0]),
            "writes": Out(TRANSFER["writes"][0]), "fault": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        transfers, gather, address = Transfers(self.m, self.shapes), _Gather(self.m, self.shapes), AddressChannel(self.m)
        m.submodules.transfers = ResetInserter(self.stop)(transfers)
        m.submodules.gather = ResetInserter(self.stop)(gather)
        m.submodules.address = address
        # of the bursts whose AW was issued: beats less one until W is through, end of transfer until B is
        m.submodules.lengths = lengths = SyncFIFO(width=8, depth=max(2, self.m.memory_outstanding))
        m.submodules.finals = finals = SyncFIFO(width=1, depth=max(2, self.m.memory_outstanding))
        draining, load, sent, answered = Signal(), Signal(), Signal(8), Signal()
        m.d.sync += draining.eq(self.stop | draining & address.busy)
        wiring.connect(m, transfers.moves, gather.moves)
        wiring.connect(m, transfers.burst, address.burst)
        wiring.connect(m, wiring.flipped(self.program), transfers.program)
        m.d.comb += [
            transfers.start.eq(self.start), transfers.steps.eq(self.steps), transfers.writes.eq(~0),  # field not used here
            address.base.eq(self.base), self.m_axi_awaddr.eq(address.addr), self.m_axi_awlen.eq(address.len),
            self.m_axi_awvalid.eq(address.valid), address.ready.eq(self.m_axi_awready),
            lengths.w_en.eq(address.issued), lengths.w_data.eq(transfers.burst.payload.len),
            finals.w_en.eq(address.issued), finals.w_data.eq(transfers.burst.payload.final),
            load.eq(lengths.r_rdy & (gather.valid | draining) & (~self.m_axi_wvalid | self.m_axi_wready)),
            gather.ready.eq(load), lengths.r_en.eq(load & (sent == lengths.r_data)),
            self.m_axi_bready.eq(1), answered.eq(self.m_axi_bvalid), finals.r_en.eq(answered), address.finished.eq(answered),
            self.idle.eq(transfers.resting & ~address.busy & ~draining),
        ]
        with m.If(load):
            m.d.sync += [self.m_axi_wvalid.eq(1), self.m_axi_wdata.eq(Mux(draining, 0, gather.data)),
                         self.m_axi_wlast.eq(lengths.r_en), sent.eq(Mux(lengths.r_en, 0, sent + 1))]
        with m.Elif(self.m_axi_wready):
            m.d.sync += self.m_axi_wvalid.eq(0)
        m.d.sync += self.fault.eq(answered & (self.m_axi_bresp != 0) & ~draining & ~self.stop)
        with m.If(self.start):
            m.d.sync += self.writes.eq(0)
        with m.Elif(answered & finals.r_data & ~draining):
            m.d.sync += self.writes.eq(self.writes + 1)
        for name in read_members(self.shapes):
            outer, inner = getattr(self, name), getattr(gather, name)
            if name.endswith("_grant"):
                m.d.comb += inner.eq(outer)
            else:
                wiring.connect(m, wiring.flipped(outer), inner)
        return m


class _Gather(wiring.Component):
    """Reads the words of one move after the other and gives them as beats (`data`, `valid`, `ready`: a queue's end).

    A word is read only when the queue has room for its beats: what was read never waits. One word a cycle, or one beat.
    """

    def __init__(self, m: MachineConfig, shapes: Shapes) -> None:
        self.m, self.shapes = m, shapes
        super().__init__({
            **read_members(shapes), "moves": In(stream.Signature(MOVE)),
            "data": Out(m.memory_bits), "valid": Out(1), "ready": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.m.memory_bits
        forms = {memory: packing(width, bus) for memory, (width, _) in self.shapes.items()}
        most = max(form.beats_per_word for form in forms.values())
        depth = max(8, 1 << (2 * most - 1).bit_length())  # two words: one leaves while the next one comes
        m.submodules.queue = queue = SyncFIFO(width=bus, depth=depth)
        move = Signal(MOVE)  # words: still to be read, less one
        active, taken, last = Signal(), Signal(), Signal()
        room, need, spent = Signal(range(depth + 1), init=depth), Signal(range(most + 1)), Signal(range(most + 1))
        gap, slot, ends = Signal(range(most)), Signal(range(bus // 8)), Signal()
        arriving, arrived_memory, arrived_slot, arrived_end = Signal(), Signal.like(move.memory), Signal.like(slot), Signal()

        # ask for words
        m.d.comb += [last.eq(move.words == 0), self.moves.ready.eq(~active | taken & last), spent.eq(Mux(taken, need, 0))]
        with m.Switch(move.memory):
            for memory, form in forms.items():
                with m.Case(memory):
                    m.d.comb += [need.eq(Mux(slot == 0, form.beats_per_word, 0)),
                                 ends.eq(last | (slot == form.words_per_beat - 1))]
        for memory in forms:
            read = getattr(self, f"{memory.name.lower()}_read")
            m.d.comb += [read.en.eq(active & (gap == 0) & (room >= need) & (move.memory == memory)), read.address.eq(move.local)]
            with m.If(read.en & getattr(self, f"{memory.name.lower()}_read_grant")):
                m.d.comb += taken.eq(1)
        m.d.sync += [room.eq(room - spent + (queue.r_en & queue.r_rdy)), arriving.eq(taken),
                     arrived_memory.eq(move.memory), arrived_slot.eq(slot), arrived_end.eq(ends)]
        with m.If(gap != 0):
            m.d.sync += gap.eq(gap - 1)
        with m.If(taken):
            m.d.sync += [move.words.eq(move.words - 1), move.local.eq(move.local + 1), slot.eq(Mux(ends, 0, slot + 1))]
            with m.Switch(move.memory):
                for memory, form in forms.items():
                    with m.Case(memory):
                        m.d.sync += gap.eq(form.beats_per_word - 1)
        with m.If(self.moves.ready):
            m.d.sync += [active.eq(self.moves.valid), move.eq(self.moves.payload)]

        # make beats of them
        held, pushes = Signal(most * bus), Signal(range(most + 1))
        m.d.comb += [queue.w_en.eq(pushes != 0), queue.w_data.eq(held[:bus]), queue.r_en.eq(self.ready),
                     self.valid.eq(queue.r_rdy), self.data.eq(queue.r_data)]
        with m.If(pushes != 0):
            m.d.sync += [pushes.eq(pushes - 1), held.eq(held >> bus)]
        with m.If(arriving):
            with m.Switch(arrived_memory):
                for memory, form in forms.items():
                    word = getattr(self, f"{memory.name.lower()}_read").data
                    with m.Case(memory):
                        with m.If(arrived_slot == 0):
                            m.d.sync += held.eq(word)
                        for index in range(1, form.words_per_beat):
                            with m.If(arrived_slot == index):
                                m.d.sync += held[index * form.slot:(index + 1) * form.slot].eq(word)
                        with m.If(arrived_end):
                            m.d.sync += pushes.eq(form.beats_per_word)
        return m
