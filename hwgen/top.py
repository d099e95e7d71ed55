"""The accelerator: memories, units, sequencer, AXI4-Lite registers, AXI4-Stream image in and logits out.

With `memory_bits` weights, parameters and ROM come from external memory over an AXI4 master, and spikes and residuals can go
there and back (`hwgen.dma`); without, the loader fills the memories and everything stays on chip.

`busy` (a run is under way) and `failed` (ERROR.code is not 0) are levels for a board's lamps.
The `trace_*` outputs show every scratchpad write and every dispatch to a bench; a board leaves them open and synthesis
removes them.
"""

from typing import Any

from amaranth.hdl import DomainRenamer, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect

from hwgen.attention import AttentionUnit, at_rest
from hwgen.attention_desc import AttentionDescriptor
from hwgen.clock_gate import gated_domain, reset_domain
from hwgen.config import MachineConfig
from hwgen.csr import AXI_LITE, Csr
from hwgen.descriptors import ADDRESS_BITS, GEMM, IMAGE, Memory, layout
from hwgen.dma import Dma, axi_signature
from hwgen.gemm import GemmEngine
from hwgen.loader import Loader
from hwgen.memory import RowMemory, Scratchpad, address_bits, taken_over
from hwgen.registers import ErrorCode, LoadTarget
from hwgen.result import ResultStream, group_layout
from hwgen.sequencer import Sequencer
from hwgen.shapes import Images, local_shapes, memory_shapes
from hwgen.shared import SharedScratchpad
from hwgen.weights import WeightMemory
from quantize.formats import LOGIT_BITS, STREAM_BITS


class Accelerator(wiring.Component):
    """The whole machine for sizes `m` (no depth 0). `images`: contents of the memories when `m.weights` is "initialised"."""

    def __init__(self, m: MachineConfig, build_id: int, images: Images | None = None) -> None:
        self.m, self.build_id = m, build_id
        self.images = images if images is not None and m.weights == "initialised" else Images()
        bus = 8 * m.bus_bytes
        super().__init__(
            {
                **AXI_LITE,
                "irq": Out(1),
                "busy": Out(1),
                "failed": Out(1),
                "s_axis_tdata": In(bus),
                "s_axis_tvalid": In(1),
                "s_axis_tready": Out(1),
                "s_axis_tlast": In(1),
                "m_axis_tdata": Out(LOGIT_BITS),
                "m_axis_tvalid": Out(1),
                "m_axis_tready": In(1),
                "m_axis_tlast": Out(1),
                **(axi_signature(m) if m.memory_bits else {}),
                "trace_dispatch": Out(1),
                "trace_descriptor": Out(32),
                "trace_finished": Out(1),
                "trace_cycle": Out(64),
                "trace_stalls": Out(64),
                "trace_spike_en": Out(1),
                "trace_spike_address": Out(ADDRESS_BITS),
                "trace_spike_data": Out(m.word_bits),
                "trace_stream_en": Out(1),
                "trace_stream_address": Out(ADDRESS_BITS),
                "trace_stream_data": Out(m.fire_lanes * STREAM_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cfg, images = self.m, self.images
        shapes = memory_shapes(cfg)
        loadable = cfg.weights == "loadable"
        local = local_shapes(cfg)

        def row_memory(target: LoadTarget, ports: int, init: list[int]) -> RowMemory:
            bits, depth = shapes[target] if target in shapes else local[Memory[target.name]]
            return RowMemory(width=bits, depth=depth, ports=ports, loadable=loadable, init=init)

        def scratchpad(width: int, depth: int) -> Scratchpad | SharedScratchpad:
            return SharedScratchpad(width=width, depth=depth) if cfg.memory_bits else Scratchpad(width=width, depth=depth)

        m.submodules.program = program = row_memory(LoadTarget.PROGRAM, 1, images.program)
        row_bits, weight_rows = local[Memory.WEIGHTS]
        m.submodules.weights = weights = WeightMemory(width=row_bits, depth=weight_rows, ports=cfg.rows_per_cycle,
                                                      loadable=loadable, init=images.weights)
        m.submodules.params = params = row_memory(LoadTarget.PARAMS, 1, images.params)
        m.submodules.branches = branches = row_memory(LoadTarget.BRANCHES, 1, images.branches)
        m.submodules.rom = rom = row_memory(LoadTarget.ROM, cfg.attention_rows, images.rom)
        m.submodules.spikes = spikes = scratchpad(cfg.word_bits, cfg.spike_words)
        m.submodules.stream = stream = scratchpad(cfg.fire_lanes * STREAM_BITS, cfg.stream_words)

        csr = Csr(cfg, self.build_id)
        loader = Loader(cfg, shapes if loadable else {})
        result = ResultStream(cfg)
        sequencer = Sequencer(cfg, address_bits(cfg.descriptors), transfers=cfg.memory_bits > 0)
        gemm = GemmEngine(cfg)
        attention = AttentionUnit(cfg, ADDRESS_BITS, ADDRESS_BITS)
        stop = Signal(init=1)  # a register, for it reaches everything: the units' reset, that of the machine included
        m.submodules.csr, m.submodules.loader, m.submodules.result = csr, loader, result
        reset_domain(m, "units", stop)
        m.submodules.sequencer = DomainRenamer("units")(sequencer)
        m.submodules.gemm = DomainRenamer("units")(gemm)
        gated_domain(m, "attention", sequencer.start_attention, attention.done, stop, at_rest(cfg))
        m.submodules.attention = DomainRenamer("attention")(attention)
        halted = Signal()
        m.d.sync += halted.eq(sequencer.halt)
        m.d.sync += stop.eq(csr.abort | halted)
        m.d.comb += [loader.abort.eq(stop), result.flush.eq(stop)]

        for name, member in AXI_LITE.items():
            outer, inner = getattr(self, name), getattr(csr, name)
            m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)
        for name in ("tdata", "tvalid", "tlast"):
            m.d.comb += [
                getattr(loader, f"s_axis_{name}").eq(getattr(self, f"s_axis_{name}")),
                getattr(self, f"m_axis_{name}").eq(getattr(result, f"m_axis_{name}")),
            ]
        m.d.comb += [
            self.s_axis_tready.eq(loader.s_axis_tready),
            result.m_axis_tready.eq(self.m_axis_tready),
            self.irq.eq(csr.irq), self.busy.eq(csr.busy), self.failed.eq(csr.failed),
        ]

        # External memory
        stalls, fault, draining, bad = Signal(64), Signal(8), Signal(), Signal(8)
        with m.If(csr.start):
            m.d.sync += stalls.eq(0)
        with m.Elif(sequencer.stalled):
            m.d.sync += stalls.eq(stalls + 1)
        m.d.comb += [csr.stalls.eq(stalls), self.trace_stalls.eq(stalls)]
        if cfg.memory_bits:
            m.submodules.dma = dma = Dma(cfg, local)
            for name, member in axi_signature(cfg).items():
                outer, inner = getattr(self, name), getattr(dma, name)
                m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)
            m.d.comb += [
                dma.start.eq(sequencer.image_start), dma.stop.eq(stop), dma.base.eq(csr.memory_base),
                dma.steps.eq(sequencer.steps),
                sequencer.reads.eq(dma.reads), sequencer.writes.eq(dma.writes), draining.eq(~dma.idle & ~sequencer.busy),
                fault.eq(Mux(dma.fault, ErrorCode.MEMORY_FAULT, 0))]
            for target, port in ((LoadTarget.READS, dma.read_program), (LoadTarget.WRITES, dma.write_program)):
                m.submodules[target.name.lower()] = transfers = row_memory(target, 1, [])
                write = getattr(loader, f"{target.name.lower()}_write")
                connect(m, port, transfers.read[0])
                connect(m, write, transfers.write)
            for name, memory in (("weights", weights), ("params", params), ("branches", branches), ("rom", rom)):
                _connect_write(m, getattr(dma, f"{name}_write"), memory.write)
            for name, pad in (("spikes", spikes), ("stream", stream)):
                assert isinstance(pad, SharedScratchpad)
                _connect_write(m, getattr(dma, f"{name}_write"), pad.transfer_write)
                read = getattr(dma, f"{name}_read")
                m.d.comb += [
                    pad.transfer_read.address.eq(read.address), pad.transfer_read.en.eq(read.en),
                    read.data.eq(pad.transfer_read.data), getattr(dma, f"{name}_read_grant").eq(pad.read_grant),
                    getattr(dma, f"{name}_grant").eq(pad.write_grant)]

        # Loads
        if loadable:
            for target, memory in (
                (LoadTarget.PROGRAM, program),
                (LoadTarget.WEIGHTS, weights),
                (LoadTarget.PARAMS, params),
                (LoadTarget.BRANCHES, branches),
                (LoadTarget.ROM, rom),
            ):
                if target not in shapes:
                    continue
                write = getattr(loader, f"{target.name.lower()}_write")
                m.d.comb += [
                    memory.write.address.eq(write.address),
                    memory.write.en.eq(write.en),
                    memory.write.data.eq(write.data),
                ]
        m.d.comb += [
            loader.busy.eq(sequencer.busy),
            loader.load_target.eq(csr.load_target),
            loader.load_address.eq(csr.load_address),
            csr.load_address_next.eq(loader.load_address_next),
            csr.load_address_update.eq(loader.load_address_update),
            csr.loading.eq(loader.loading),
            csr.input.eq(loader.waiting),
            csr.output.eq(~result.idle | gemm.logits.valid),
            csr.loaded.eq(loader.loaded),
            csr.error.eq(loader.error | bad | fault),
        ]

        # Sequencer and counters
        m.d.sync += bad.eq(sequencer.error)  # a cycle late: it hangs on the dispatch
        results_idle = Signal()  # a cycle late, as the unit's done is, and never idle while a group is on its way
        group = Signal(group_layout(cfg.fire_lanes))  # logits on their way to the result stream
        group_valid = Signal()
        m.d.sync += results_idle.eq(result.idle & ~gemm.logits.valid & ~group_valid)
        cycles, events, taken = Signal(64), Signal(64), Signal.like(gemm.events)
        m.d.sync += taken.eq(gemm.events)  # no event is in the last cycle of a run
        with m.If(csr.start):
            m.d.sync += [cycles.eq(0), events.eq(0)]
        with m.Elif(sequencer.busy):
            m.d.sync += [cycles.eq(cycles + 1), events.eq(events + taken)]
        image_done = Signal()  # a cycle late; the next image's draws come later
        m.d.sync += image_done.eq(sequencer.image_done)
        image = Signal(layout(IMAGE))  # the units keep what comes with their start; the loader's is kept here
        described_image = layout(IMAGE)(sequencer.payload[: layout(IMAGE).size])
        with m.If(sequencer.start_image):
            m.d.sync += image.eq(described_image)
        m.d.comb += [
            sequencer.run.eq(csr.start),
            sequencer.first.eq(csr.program_start),
            sequencer.images.eq(csr.images),
            sequencer.image_index.eq(csr.image_index),
            sequencer.seed.eq(csr.mask_seed),
            sequencer.time_steps.eq(csr.steps),
            gemm.initial.eq(sequencer.initial),
            gemm.last_step.eq(sequencer.last_step),
            attention.initial.eq(sequencer.initial),
            sequencer.failed.eq(csr.failing),
            sequencer.unit_done.eq(loader.done | gemm.done | attention.done),
            sequencer.results_idle.eq(results_idle),
            csr.busy.eq(sequencer.busy | draining),
            csr.done.eq(sequencer.finished),
            csr.image_done.eq(image_done),
            csr.cycles.eq(cycles),
            csr.events.eq(events),
            csr.layer.eq(sequencer.descriptor),
            program.read[0].address.eq(sequencer.read.address),
            program.read[0].en.eq(sequencer.read.en),
            sequencer.read.data.eq(program.read[0].data),
            loader.start.eq(sequencer.start_image),
            loader.desc.eq(image),
            gemm.start.eq(sequencer.start_gemm),
            gemm.desc.eq(layout(GEMM)(sequencer.payload[: layout(GEMM).size])),
            gemm.masked.eq(sequencer.header.masked & csr.mask_enable),
            gemm.mask_state.eq(sequencer.mask_state),
            gemm.override.eq(csr.mask_override),
            gemm.override_ratio.eq(csr.mask_ratio),
            attention.start.eq(sequencer.start_attention),
            attention.mask_state.eq(sequencer.mask_state),
            self.trace_dispatch.eq(sequencer.dispatch),
            self.trace_descriptor.eq(sequencer.descriptor),
            self.trace_finished.eq(sequencer.finished),
            self.trace_cycle.eq(cycles),
        ]
        described = AttentionDescriptor(sequencer.payload[: AttentionDescriptor.as_shape().size])
        m.d.comb += attention.desc.eq(described)
        m.d.comb += attention.desc.mask_ratio.eq(
            Mux(sequencer.header.masked & csr.mask_enable, Mux(csr.mask_override, csr.mask_ratio, described.mask_ratio), 0)
        )

        # Scratchpads and memories: one unit at a time
        in_gemm, in_attention = sequencer.in_gemm, sequencer.in_attention
        m.d.comb += [
            spikes.read.address.eq(Mux(in_attention, attention.spike_read.address, gemm.spike_read.address)),
            spikes.read.en.eq(Mux(in_attention, attention.spike_read.en, gemm.spike_read.en)),
        ]
        word = taken_over(m, spikes.read.data, gemm.spike_read.take)  # the extractor at rest takes always
        m.d.comb += [gemm.spike_read.data.eq(word), attention.spike_read.data.eq(word)]
        # The choice of the writer, then a register: the word is there long before another unit reads.
        write, written = (Signal(data.StructLayout({"en": 1, "address": len(spikes.write.address), "data": cfg.word_bits}),
                                 name=name) for name in ("spike_write", "spike_written"))
        m.d.sync += written.eq(write)
        m.d.comb += [spikes.write.address.eq(written.address), spikes.write.en.eq(written.en), spikes.write.data.eq(written.data)]
        with m.If(in_attention):
            source = attention.spike_write
            m.d.comb += [write.address.eq(source.address), write.en.eq(source.en), write.data.eq(source.data)]
        with m.Elif(in_gemm):
            source = gemm.spike_write
            m.d.comb += [write.address.eq(source.address), write.en.eq(source.en), write.data.eq(source.data)]
        with m.Else():
            source = loader.spike_write
            m.d.comb += [write.address.eq(source.address), write.en.eq(source.en), write.data.eq(source.data)]
        for port in range(cfg.rows_per_cycle):
            m.d.comb += [
                weights.read[port].address.eq(gemm.weight_read[port].address),
                weights.read[port].en.eq(gemm.weight_read[port].en),
                gemm.weight_read[port].data.eq(weights.read[port].data),
            ]
        for port in range(cfg.attention_rows):
            m.d.comb += [
                rom.read[port].address.eq(attention.rom[port].address),
                rom.read[port].en.eq(attention.rom[port].en),
                attention.rom[port].data.eq(rom.read[port].data),
            ]
        m.d.comb += [
            params.read[0].address.eq(gemm.neuron_read.address),
            params.read[0].en.eq(gemm.neuron_read.en),
            gemm.neuron_read.data.eq(params.read[0].data),
            branches.read[0].address.eq(gemm.branch_read.address),
            branches.read[0].en.eq(gemm.branch_read.en),
            gemm.branch_read.data.eq(branches.read[0].data),
            stream.read.address.eq(gemm.stream_read.address),
            stream.read.en.eq(gemm.stream_read.en),
            gemm.stream_read.data.eq(stream.read.data),
            stream.write.address.eq(gemm.stream_write.address),
            stream.write.en.eq(gemm.stream_write.en),
            stream.write.data.eq(gemm.stream_write.data),
        ]

        # Results
        count = gemm.desc.count
        tail, final = Signal(range(cfg.fire_lanes + 1)), Signal()
        with m.If(sequencer.start_gemm):
            m.d.sync += [tail.eq(count[: max(1, (cfg.fire_lanes - 1).bit_length())] if cfg.fire_lanes > 1 else 0),
                         final.eq(gemm.desc.final)]
        m.d.comb += [
            result.groups.valid.eq(group_valid),
            result.groups.payload.eq(group),
        ]
        m.d.sync += [
            group_valid.eq(gemm.logits.valid & ~stop),
            group["values"].eq(gemm.logits.data),
            group["count"].eq(Mux(gemm.logits.last & (tail != 0), tail, cfg.fire_lanes)),
            group["last"].eq(gemm.logits.last & final),
        ]

        # Trace
        m.d.comb += [
            self.trace_spike_en.eq(write.en),
            self.trace_spike_address.eq(write.address),
            self.trace_spike_data.eq(write.data),
            self.trace_stream_en.eq(stream.write.en),
            self.trace_stream_address.eq(stream.write.address),
            self.trace_stream_data.eq(stream.write.data),
        ]
        return m


def _connect_write(m: Module, source: Any, target: Any) -> None:
    """A transfer's write port to a memory's, which may have fewer address bits."""
    m.d.comb += [target.address.eq(source.address), target.en.eq(source.en), target.data.eq(source.data)]
