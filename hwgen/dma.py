"""The external-memory engine: an AXI4 master that runs an image's read program and write program."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import MachineConfig
from hwgen.descriptors import TRANSFER
from hwgen.dma_bursts import CACHE, INCR, SHARED, Shapes, axi_signature, channel_members, program_signature
from hwgen.dma_read import Reader, write_members
from hwgen.dma_write import Writer, read_members

__all__ = ["SHARED", "Dma", "Shapes", "axi_signature"]


class Dma(wiring.Component):
    """Moves words between external memory and the on-chip memories `shapes`, as two programs of `descriptors.TRANSFER` say.

    Each program runs in order, the two beside each other; an entry of kind 0 ends it. A read starts when `steps` and
    `writes` have reached the entry's; its addresses go out while data of those before still comes. A write starts when
    `steps` has. How words lie in external memory: hwgen.external. Byte address: (`base` << 12) + beat * memory_bits / 8.

    Ports:
      m_axi_*          AXI4 master: INCR bursts of at most `memory_burst` beats, none across 4 KiB, id 0, all strobes; at most
                       `memory_outstanding` bursts under way in each direction.
      start            in, pulse, only while `idle` and without `stop`: an image begins; both programs at entry 0, `reads`
                       and `writes` 0 from the next cycle on. `base` [32] (4 KiB units) is stable until `idle`.
      stop             in, pulse: both programs are forgotten. From the next cycle on nothing is written on chip; bursts
                       under way end as AXI4 asks, their data dropped, their W beats 0. `reads` and `writes` then mean
                       nothing until `start`.
      idle             out: both programs ended or forgotten, and nothing under way. Low from the cycle after `start`,
                       and for at least one cycle after `stop`.
      steps            in [16]: descriptors of the image's program that are done.
      reads, writes    out [16]: reads whose last word is in its memory (a unit that starts now sees it); writes whose last
                       B has come.
      fault            out, pulse one cycle after an R beat or a B that is not OKAY, but not of what `stop` left under way.
      read_program, write_program  read ports of the two program memories, hwgen.memory: data is held while `en` is 0.
      <memory>_write   write port of each memory. The shared memories (SPIKES, STREAM) write in a cycle with `en` and
                       `<memory>_grant`; address and data stay until then.
      <memory>_read    read port of a shared memory: read in a cycle with `en` and `<memory>_read_grant`, data taken in
                       the next cycle.

    Rates: one beat a cycle for words of a beat and more, else one word a cycle, and one cycle more from a read to the next;
    `hwgen.external.transfer_cycles` says what a read takes.

    ValueError: no memory bus, no transfers, no shared memory, a word or memory without size.
    """

    def __init__(self, m: MachineConfig, shapes: Shapes) -> None:
        if m.memory_bits == 0:
            raise ValueError("[machine] memory_bits is 0: a machine without external memory has no DMA; set it to 64 or more")
        if m.transfers < 1:
            raise ValueError(f"[machine] transfers is {m.transfers}: a transfer program needs at least 1 entry, its end")
        if not any(memory in shapes for memory in SHARED):
            raise ValueError(f"the DMA needs SPIKES or STREAM to write from, not only {[memory.name for memory in shapes]}")
        for memory, (width, depth) in shapes.items():
            if width < 1 or depth < 1:
                raise ValueError(f"memory {memory.name} has {depth} words of {width} bits: both must be at least 1")
        self.m, self.shapes = m, shapes
        super().__init__({
            **axi_signature(m), **write_members(shapes), **read_members(shapes),
            "read_program": Out(program_signature(m)), "write_program": Out(program_signature(m)),
            "start": In(1), "stop": In(1), "idle": Out(1), "base": In(32), "steps": In(TRANSFER["steps"][0]),
            "reads": Out(TRANSFER["steps"][0]), "writes": Out(TRANSFER["writes"][0]), "fault": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.reader = reader = Reader(self.m, self.shapes)
        m.submodules.writer = writer = Writer(self.m, self.shapes)
        for unit, channels, ports in ((reader, ("ar", "r"), write_members(self.shapes)),
                                      (writer, ("aw", "w", "b"), read_members(self.shapes))):
            for name, member in channel_members(self.m, *channels).items():
                outer, inner = getattr(self, name), getattr(unit, name)
                m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)
            for name in ports:
                outer, inner = getattr(self, name), getattr(unit, name)
                if name.endswith("_grant"):
                    m.d.comb += inner.eq(outer)
                else:
                    wiring.connect(m, wiring.flipped(outer), inner)
            m.d.comb += [unit.start.eq(self.start), unit.stop.eq(self.stop), unit.base.eq(self.base), unit.steps.eq(self.steps)]
        wiring.connect(m, wiring.flipped(self.read_program), reader.program)
        wiring.connect(m, wiring.flipped(self.write_program), writer.program)
        m.d.comb += [
            reader.writes.eq(writer.writes), self.reads.eq(reader.reads), self.writes.eq(writer.writes),
            self.idle.eq(reader.idle & writer.idle), self.fault.eq(reader.fault | writer.fault),
            self.m_axi_wstrb.eq(~0)]
        for channel in ("ar", "aw"):
            m.d.comb += [getattr(self, f"m_axi_{channel}size").eq((self.m.memory_bits // 8).bit_length() - 1),
                         getattr(self, f"m_axi_{channel}burst").eq(INCR), getattr(self, f"m_axi_{channel}cache").eq(CACHE)]
        return m
