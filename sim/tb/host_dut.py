"""What the benches of the host side run on: registers, loader with its memories, result stream; no machine.

The machine's place is taken by ports: the bench starts images, raises errors and feeds logits itself.
"""
from dataclasses import replace
from typing import Any

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import MachineConfig
from hwgen.csr import AXI_LITE, Csr
from hwgen.descriptors import ADDRESS_BITS, IMAGE, layout
from hwgen.loader import Loader, Targets
from hwgen.memory import RowMemory, Scratchpad
from hwgen.registers import STEPS_BITS, TARGET_BITS, LoadTarget
from hwgen.result import ResultStream, group_layout
from hwgen.verilog import convert

BUILD_ID = 0xC0FFEE42
SIZED = MachineConfig(weight_rows=40, spike_words=200, stream_words=8, param_words=24, rom_words=50, descriptors=4)
CONFIGS = {
    "wide": replace(SIZED, lanes=32, planes=3, fire_lanes=8, bus_bytes=8),
    "narrow": replace(SIZED, lanes=8, planes=1, fire_lanes=4, bus_bytes=4, weight_bits=4),
    "single": replace(SIZED, lanes=8, planes=4, fire_lanes=1, bus_bytes=8),
    "steps": replace(SIZED, lanes=8, planes=1, fire_lanes=4, bus_bytes=4, firing="stepwise", steps=5),
}
"""Beats of a word and groups of a pixel: 4 and 3; 2 and 8; 1 and 2; the last fires step by step."""

FROM_MACHINE = {"done": 1, "image_done": 1, "cycles": 64, "events": 64, "stalls": 64, "layer": 32}
TO_MACHINE = {"program_start": 32, "images": 32, "mask_seed": 32, "mask_enable": 1, "mask_override": 1, "mask_ratio": 8,
              "image_index": 32, "failed": 1, "load_target": TARGET_BITS, "load_address": 32, "memory_base": 32,
              "steps": STEPS_BITS}
SPIKES = 0
"""`look_select` of the spike scratchpad; the loadable memories have their LoadTarget."""


def targets(m: MachineConfig) -> Targets:
    """Memories of odd widths: below, at and above whole beats."""
    return {LoadTarget.PROGRAM: (64, m.descriptors * 8), LoadTarget.WEIGHTS: (m.lanes * m.weight_bits, m.weight_rows),
            LoadTarget.PARAMS: (77, m.param_words), LoadTarget.ROM: (2 * m.rom_bits, m.rom_words)}


class HostDut(wiring.Component):
    """`go` starts an image; `machine_busy` and `raise_error` are the machine's; `flush`, the result's."""

    def __init__(self, m: MachineConfig) -> None:
        self.m = m
        super().__init__({
            **AXI_LITE, "irq": Out(1), "start": Out(1), "abort_run": Out(1),
            **{name: In(bits) for name, bits in FROM_MACHINE.items()},
            **{name: Out(bits) for name, bits in TO_MACHINE.items()},
            "machine_busy": In(1), "raise_error": In(8), "loaded": Out(1), "loading": Out(1), "fault": Out(8),
            "s_axis_tdata": In(8 * m.bus_bytes), "s_axis_tvalid": In(1), "s_axis_tready": Out(1), "s_axis_tlast": In(1),
            "m_axis_tdata": Out(32), "m_axis_tvalid": Out(1), "m_axis_tready": In(1), "m_axis_tlast": Out(1),
            "go": In(1), "image_finished": Out(1), **{f"desc_{name}": In(bits) for name, (bits, _) in IMAGE.items()},
            "groups": In(stream.Signature(group_layout(m.fire_lanes))), "flush": In(1), "idle": Out(1),
            "look_select": In(3), "look_address": In(ADDRESS_BITS), "look_data": Out(512),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shapes = targets(self.m)
        m.submodules.csr = csr = Csr(self.m, BUILD_ID)
        m.submodules.loader = loader = Loader(self.m, shapes)
        m.submodules.result = result = ResultStream(self.m)
        m.submodules.spikes = spikes = Scratchpad(width=self.m.word_bits, depth=self.m.spike_words)
        for name, member in AXI_LITE.items():
            outer, inner = getattr(self, name), getattr(csr, name)
            m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)
        m.d.comb += [getattr(csr, name).eq(getattr(self, name)) for name in FROM_MACHINE]
        m.d.comb += [getattr(self, name).eq(getattr(csr, name)) for name in (*TO_MACHINE, "irq", "start")]
        m.d.comb += [
            # not "abort": Verilator knows a C++ function of that name
            self.abort_run.eq(csr.abort), csr.busy.eq(self.machine_busy), csr.error.eq(loader.error | self.raise_error),
            csr.loading.eq(loader.loading), csr.input.eq(loader.waiting), csr.output.eq(~result.idle),
            csr.loaded.eq(loader.loaded),
            csr.load_address_next.eq(loader.load_address_next),
            csr.load_address_update.eq(loader.load_address_update),
            loader.busy.eq(self.machine_busy), loader.load_target.eq(csr.load_target),
            loader.load_address.eq(csr.load_address), loader.abort.eq(csr.abort), loader.start.eq(self.go),
            self.loaded.eq(loader.loaded), self.loading.eq(loader.loading), self.fault.eq(loader.error),
            self.image_finished.eq(loader.done), self.s_axis_tready.eq(loader.s_axis_tready),
            result.m_axis_tready.eq(self.m_axis_tready), result.flush.eq(self.flush), self.idle.eq(result.idle),
        ]
        m.d.comb += [getattr(loader.desc, name).eq(getattr(self, f"desc_{name}")) for name in layout(IMAGE).members]
        for name in ("tdata", "tvalid", "tlast"):
            m.d.comb += [getattr(loader, f"s_axis_{name}").eq(getattr(self, f"s_axis_{name}")),
                         getattr(self, f"m_axis_{name}").eq(getattr(result, f"m_axis_{name}"))]
        wiring.connect(m, result.groups, wiring.flipped(self.groups))
        self._memory(m, SPIKES, spikes.read, spikes.write, loader.spike_write)
        for target, (width, depth) in shapes.items():
            m.submodules[target.name.lower()] = memory = RowMemory(width=width, depth=depth)
            self._memory(m, target, memory.read[0], memory.write, getattr(loader, f"{target.name.lower()}_write"))
        return m

    def _memory(self, m: Module, select: int, read: Any, write: Any, source: Any) -> None:
        m.d.comb += [write.address.eq(source.address), write.en.eq(source.en), write.data.eq(source.data),
                     read.address.eq(self.look_address), read.en.eq(1)]
        with m.If(self.look_select == select):
            m.d.comb += self.look_data.eq(read.data)


def verilog_of(name: str) -> str:
    """The Verilog of configuration `name`, module `dut`."""
    return convert(HostDut(CONFIGS[name]), "dut")
