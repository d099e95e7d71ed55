"""Device under test of the attention bench: the unit, its scratchpad and ROM, and two layers to run back to back."""
from dataclasses import replace
from functools import lru_cache

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.attention import AttentionUnit
from hwgen.attention_desc import ADDRESS_BITS, AttentionDescriptor
from hwgen.config import MachineConfig
from hwgen.memory import RowMemory, Scratchpad, taken_over
from hwgen.verilog import convert
from model.lfsr import WIDTH

SPIKE_WORDS, ROM_WORDS = 1 << 12, 1 << 13
RUNS = 2
SPIKES, ROM = range(2)
"""What `load.select` means."""

_STEPS = MachineConfig(lanes=32, planes=1, attention_rows=2, head_lanes=8, window_tokens=16, rom_bits=8, firing="stepwise",
                       steps=4, level_bits=3, current_bits=20, score_potentials=1 << 12, output_potentials=1 << 8)
MACHINES = {
    "narrow": MachineConfig(lanes=8, fire_lanes=4, planes=3, attention_rows=1, head_lanes=24, window_tokens=49),
    "wide": MachineConfig(lanes=64, planes=3, attention_rows=2, head_lanes=24, window_tokens=49, rom_bits=12),
    "binary": MachineConfig(lanes=16, planes=1, attention_rows=2, head_lanes=16, window_tokens=16, rom_bits=6),
    "deep": MachineConfig(lanes=16, planes=4, attention_rows=2, head_lanes=24, window_tokens=64, rom_bits=16),
    "single": MachineConfig(lanes=64, planes=2, attention_rows=1, head_lanes=32, window_tokens=16, rom_bits=8),
    "quad": MachineConfig(lanes=64, planes=3, attention_rows=4, head_lanes=16, window_tokens=16),
    "parts": MachineConfig(lanes=8, planes=2, attention_rows=2, head_lanes=33, window_tokens=16, rom_bits=10),
    "steps": _STEPS,
    "steps_quad": replace(_STEPS, attention_rows=4, level_bits=2, lanes=8, head_lanes=5),
}
"""The parameter sets of the bench, by name; the variable MACHINE tells it which one was built."""


@lru_cache
def attention_verilog(name: str) -> str:
    """Verilog of the DUT for the machine `name`, module `dut`."""
    return convert(AttentionDut(MACHINES[name]), "dut")


class AttentionDut(wiring.Component):
    """`start` runs layer 0; with `again`, layer 1 starts in the cycle after layer 0's done.

    `finished` rises with the last done; `elapsed{i}` counts the cycles of a layer from start to done, both included,
    `writes` all words written. `first_step`: `initial` of a stepwise machine. `load` and `look` (data one cycle after the
    address) only while idle.
    """

    def __init__(self, machine: MachineConfig) -> None:
        self.machine = machine
        super().__init__({
            "start": In(1), "again": In(1), "first_step": In(1), "finished": Out(1), "writes": Out(24),
            **{f"desc{i}": In(AttentionDescriptor) for i in range(RUNS)},
            **{f"mask_state{i}": In(WIDTH) for i in range(RUNS)}, **{f"elapsed{i}": Out(24) for i in range(RUNS)},
            "load_select": In(1), "load_address": In(ADDRESS_BITS), "load_en": In(1),
            "load_data": In(max(machine.word_bits, 2 * machine.rom_bits)),
            "look_address": In(ADDRESS_BITS), "look_data": Out(machine.word_bits)})

    def elaborate(self, platform: object) -> Module:
        """Memories shared between unit and bench."""
        m, machine = Module(), self.machine
        m.submodules.unit = unit = AttentionUnit(machine, ADDRESS_BITS, ADDRESS_BITS)
        m.submodules.spikes = spikes = Scratchpad(width=machine.word_bits, depth=SPIKE_WORDS)
        m.submodules.rom = rom = RowMemory(width=2 * machine.rom_bits, depth=ROM_WORDS, ports=machine.attention_rows)
        busy, follow, second = Signal(), Signal(), Signal()
        desc = Mux(second, self.desc1.as_value(), self.desc0.as_value())
        m.d.comb += [
            # behind the last layer there is another unit's descriptor
            unit.start.eq(self.start | follow), unit.desc.eq(Mux(busy | self.start, desc, ~desc)),
            unit.mask_state.eq(Mux(second, self.mask_state1, self.mask_state0)), unit.initial.eq(self.first_step),
            spikes.read.address.eq(Mux(busy, unit.spike_read.address, self.look_address)),
            spikes.read.en.eq(Mux(busy, unit.spike_read.en, 1)),
            unit.spike_read.data.eq(taken_over(m, spikes.read.data, Const(1))), self.look_data.eq(spikes.read.data),
            spikes.write.address.eq(unit.spike_write.address), spikes.write.data.eq(unit.spike_write.data),
            spikes.write.en.eq(unit.spike_write.en),
            rom.write.address.eq(self.load_address), rom.write.data.eq(self.load_data),
            rom.write.en.eq(self.load_en & (self.load_select == ROM))]
        with m.If(self.load_en & (self.load_select == SPIKES)):
            m.d.comb += [spikes.write.address.eq(self.load_address), spikes.write.data.eq(self.load_data),
                         spikes.write.en.eq(1)]
        for inner, port in zip(unit.rom, rom.read, strict=True):
            m.d.comb += [port.address.eq(inner.address), port.en.eq(inner.en), inner.data.eq(port.data)]

        count = Signal(24)
        m.d.sync += [count.eq(count + 1), self.writes.eq(self.writes + unit.spike_write.en), follow.eq(0)]
        with m.If(self.start):
            m.d.sync += [busy.eq(1), count.eq(2), self.writes.eq(0), self.finished.eq(0)]
        with m.If(follow):
            m.d.sync += count.eq(2)
        with m.If(unit.done):
            with m.If(second):
                m.d.sync += self.elapsed1.eq(count)
            with m.Else():
                m.d.sync += self.elapsed0.eq(count)
            m.d.sync += [follow.eq(self.again & ~second), second.eq(self.again & ~second)]
            with m.If(second | ~self.again):
                m.d.sync += [self.finished.eq(1), busy.eq(0)]
        return m
