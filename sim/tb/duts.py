"""Devices under test of the block benches: a hardware block with the memories it needs, and their parameter sets.

Ports are flat: structured ones appear as one vector, packed as Amaranth packs them. Memories are loaded through `load`
(one word a cycle) and read back through `look` (data one cycle after the address).
"""
import os
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from amaranth.hdl import Cat, Module, ResetInserter, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import MachineConfig
from hwgen.descriptors import ADDRESS_BITS, DESCRIPTOR_WORDS, GEMM, PROGRAM_BITS, layout
from hwgen.extract import Extractor, emission
from hwgen.fire import FireUnit
from hwgen.gemm import GemmEngine
from hwgen.lanes import LaneArray
from hwgen.lfsr import Jump, draw_bytes, next_row
from hwgen.memory import RowMemory, Scratchpad, address_bits, read_signature, taken_over, write_signature
from hwgen.parameters import branch_words, neuron_words
from hwgen.sequencer import Sequencer
from hwgen.verilog import convert
from hwgen.weights import WeightMemory
from model.lfsr import WIDTH
from quantize.formats import LOGIT_BITS, STREAM_BITS
from sim.runner import Results, run_bench
from sim.tb.step_duts import POTENTIAL_WORDS, DivideDut, PotentialDut

_STEPS = MachineConfig(lanes=8, rows_per_cycle=2, planes=1, fire_lanes=2, acc_bits=24, firing="stepwise", steps=4, level_bits=3,
                       potential_bits=30, current_bits=20, head_lanes=6, neuron_potentials=512, norm_potentials=256,
                       output_potentials=POTENTIAL_WORDS)
MACHINES = {
    "narrow": MachineConfig(lanes=8, rows_per_cycle=1, planes=3, fire_lanes=4, queue_depth=2, acc_bits=24),
    "wide": MachineConfig(lanes=16, rows_per_cycle=2, planes=2, fire_lanes=8, queue_depth=5),
    "grouped": MachineConfig(lanes=32, rows_per_cycle=2, planes=3, fire_lanes=8),
    "binary": MachineConfig(lanes=8, rows_per_cycle=2, planes=1, fire_lanes=8, acc_bits=32, weight_bits=4),
    "deep": MachineConfig(lanes=16, rows_per_cycle=2, planes=4, fire_lanes=2, acc_bits=30),
    "steps": _STEPS,
    "steps_single": replace(_STEPS, attention_rows=1, level_bits=1, fire_lanes=4),
    "steps_quad": replace(_STEPS, attention_rows=4, level_bits=4),
}
"""The parameter sets of the benches, by name; the variable MACHINE tells a bench which one was built."""

SPIKE_WORDS, STREAM_WORDS, WEIGHT_ROWS, PARAM_WORDS, LOGIT_WORDS = 2048, 512, 512, 64, 64
SPIKES, STREAM, WEIGHTS, NEURON, BRANCH, LOGITS, PROGRAM = range(7)
"""What `load.select` and `look.select` mean."""
LFSR_DRAWS = 4
DESCRIPTORS = 24
"""Descriptors that the sequencer's program memory holds."""
MEMORY_INIT, MEMORY_PORTS = 5, 2
"""The memory bench: words that are not 0 at power up, and read ports of a row memory."""


def machine() -> MachineConfig:
    """The parameter set of the running bench."""
    return MACHINES[os.environ["MACHINE"]]


def mutated(name: str) -> bool:
    """True when this run is to expect something wrong (variable MUTATE): the bench must fail then."""
    return os.environ.get("MUTATE") == name


@lru_cache(maxsize=32)
def verilog_of(block: str, name: str) -> str:
    """Verilog of the DUT of `block` (a key of `DUTS`), module `dut`, for the parameter set `name`."""
    return convert(DUTS[block](MACHINES[name]), "dut")


def bench(folder: Path, block: str, name: str, simulator: str = "verilator", mutate: str = "", **more: Any) -> Results:
    """Generate the DUT of `block` for the parameter set `name` and run its bench `sim.tb.tb_<block>`.

    `mutate` must make it fail. Builds lie in `folder`/<name>, shared by all runs; `more` goes to `run_bench`.
    """
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    source = place / "dut.v"
    text = verilog_of(block, name)
    if not source.is_file() or source.read_text(encoding="utf-8") != text:
        source.write_text(text, encoding="utf-8")
    return run_bench(name=mutate or "run", toplevel="dut", sources=[source], test_module=f"sim.tb.tb_{block}",
                     build_dir=place, simulator=simulator, env={"MACHINE": name, "MUTATE": mutate}, **more)


def _load_signature(width: int) -> wiring.Signature:
    return wiring.Signature({"select": Out(3), "address": Out(ADDRESS_BITS), "en": Out(1), "data": Out(width)})


def _read(m: Module, client: object, port: object) -> None:
    """A client's read port (wide address) onto a memory's."""
    m.d.comb += [port.address.eq(client.address), port.en.eq(client.en), client.data.eq(port.data)]  # type: ignore[attr-defined]


def _load(m: Module, load: object, select: int, port: object) -> None:
    """Writes of the bench; they come only while the block is idle, and win."""
    with m.If(load.en & (load.select == select)):  # type: ignore[attr-defined]
        m.d.comb += [port.address.eq(load.address), port.en.eq(1), port.data.eq(load.data)]  # type: ignore[attr-defined]


def _write(m: Module, client: object, port: object) -> None:
    m.d.comb += [port.address.eq(client.address), port.en.eq(client.en), port.data.eq(client.data)]  # type: ignore[attr-defined]


class LfsrDut(wiring.Component):
    """Draws, the next row, and a `Jump`."""

    def __init__(self, m: MachineConfig) -> None:
        super().__init__({"at": In(WIDTH), "draws": Out(8 * LFSR_DRAWS), "row": Out(WIDTH), "start": In(1),
                          "polynomial": In(WIDTH), "state": In(WIDTH), "result": Out(WIDTH), "done": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.jump = jump = Jump()
        m.d.comb += [self.draws.eq(Cat(draw_bytes(self.at, LFSR_DRAWS))), self.row.eq(next_row(self.at)),
                     jump.start.eq(self.start), jump.polynomial.eq(self.polynomial), jump.state.eq(self.state),
                     self.result.eq(jump.result), self.done.eq(jump.done)]
        return m


class ExtractDut(wiring.Component):
    """The extractor on a spike scratchpad."""

    def __init__(self, m: MachineConfig) -> None:
        self.m = m
        super().__init__({"start": In(1), "desc": In(layout(GEMM)), "out": Out(emission(m)), "hold": In(1),
                          "ending": Out(1), "en": Out(1), "load": In(_load_signature(m.word_bits))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.extract = extract = Extractor(self.m)
        m.submodules.spikes = spikes = Scratchpad(width=self.m.word_bits, depth=SPIKE_WORDS)
        _load(m, self.load, SPIKES, spikes.write)
        m.d.comb += [extract.start.eq(self.start), extract.desc.eq(self.desc), extract.hold.eq(self.hold),
                     spikes.read.address.eq(extract.address), spikes.read.en.eq(extract.en),
                     extract.word.eq(taken_over(m, spikes.read.data, extract.take)),
                     self.out.eq(extract.out), self.ending.eq(extract.ending), self.en.eq(extract.en)]
        return m


class LanesDut(wiring.Component):
    """The lane array on a weight memory."""

    def __init__(self, m: MachineConfig) -> None:
        self.m = m
        super().__init__({"events": In(emission(m)), "acc": Out(data.ArrayLayout(signed(m.acc_bits), m.lanes)),
                          "ready": Out(1), "load": In(_load_signature(m.lanes * m.weight_bits))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.lanes = lanes = LaneArray(self.m)
        m.submodules.weights = weights = WeightMemory(width=self.m.lanes * self.m.weight_bits, depth=WEIGHT_ROWS,
                                                      ports=self.m.rows_per_cycle)
        _load(m, self.load, WEIGHTS, weights.write)
        m.d.comb += [lanes.events.eq(self.events), self.acc.eq(lanes.acc), self.ready.eq(lanes.ready)]
        for port, read in enumerate(weights.read):
            m.d.comb += [read.address.eq(lanes.address[port]), read.en.eq(lanes.en[port]),
                         lanes.row[port].eq(read.data)]
        return m


def _fire_inputs(m: MachineConfig) -> dict[str, object]:
    return {"start": In(1), "done": Out(1), "desc": In(layout(GEMM)), "masked": In(1), "mask_state": In(WIDTH),
            "mask_override": In(1), "override_ratio": In(8), "first_step": In(1), "last_step": In(1)}


def _written(width: int) -> wiring.Signature:
    return wiring.Signature({"address": Out(ADDRESS_BITS), "en": Out(1), "data": Out(width)})


def _logits(m: MachineConfig) -> wiring.Signature:
    return wiring.Signature({"valid": Out(1), "last": Out(1), "data": Out(m.fire_lanes * LOGIT_BITS)})


class FireDut(wiring.Component):
    """The fire unit on its parameter memories and the residual scratchpad; its writes are visible."""

    def __init__(self, m: MachineConfig) -> None:
        self.m = m
        width = max(neuron_words(m).size, branch_words(m).size)
        super().__init__({**_fire_inputs(m), "acc": In(data.ArrayLayout(signed(m.acc_bits), m.lanes)), "ready": In(1),
                          "load": In(_load_signature(width)), "spike_write": Out(_written(m.word_bits)),
                          "stream_write": Out(_written(m.fire_lanes * STREAM_BITS)), "logits": Out(_logits(m))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fire = fire = FireUnit(self.m)
        _parameters(m, self.m, self.load, fire)
        m.submodules.stream = stream = Scratchpad(width=self.m.fire_lanes * STREAM_BITS, depth=STREAM_WORDS)
        _read(m, fire.stream_read, stream.read)
        _write(m, fire.stream_write, stream.write)
        _load(m, self.load, STREAM, stream.write)
        _control(m, self, fire)
        m.d.comb += [fire.acc.eq(self.acc), fire.ready.eq(self.ready)]
        for port, members in (("spike_write", ("address", "en", "data")), ("stream_write", ("address", "en", "data")),
                              ("logits", ("valid", "last", "data"))):
            m.d.comb += [getattr(getattr(self, port), name).eq(getattr(getattr(fire, port), name)) for name in members]
        return m


def _control(m: Module, dut: object, unit: object) -> None:
    for name in ("start", "desc", "masked", "mask_state", "override", "override_ratio", "initial", "last_step"):
        outer = {"override": "mask_override", "initial": "first_step"}.get(name, name)  # those are words of SystemVerilog
        m.d.comb += getattr(unit, name).eq(getattr(dut, outer))
    m.d.comb += dut.done.eq(unit.done)  # type: ignore[attr-defined]


def _parameters(m: Module, cfg: MachineConfig, load: object, unit: object) -> None:
    m.submodules.neuron = neuron = RowMemory(width=neuron_words(cfg).size, depth=PARAM_WORDS, ports=1)
    m.submodules.branch = branch = RowMemory(width=branch_words(cfg).size, depth=PARAM_WORDS, ports=1)
    _read(m, unit.neuron_read, neuron.read[0])  # type: ignore[attr-defined]
    _read(m, unit.branch_read, branch.read[0])  # type: ignore[attr-defined]
    _load(m, load, NEURON, neuron.write)
    _load(m, load, BRANCH, branch.write)


class GemmDut(wiring.Component):
    """The GEMM engine with all its memories. The bench only starts it: `finished` stays high from the done pulse to the
    next start, `elapsed` is the number of cycles from start to done, `taken` the events; logits collect in a memory,
    group by group (its word's top bit: last)."""

    def __init__(self, m: MachineConfig) -> None:
        self.m = m
        widths = [m.word_bits, m.fire_lanes * STREAM_BITS, m.lanes * m.weight_bits, neuron_words(m).size,
                  branch_words(m).size, m.fire_lanes * LOGIT_BITS + 1]
        self.look_width = max(widths[SPIKES], widths[STREAM], widths[LOGITS])
        look = wiring.Signature({"select": Out(3), "address": Out(ADDRESS_BITS), "data": In(self.look_width)})
        super().__init__({**_fire_inputs(m), "load": In(_load_signature(max(widths))), "look": In(look),
                          "finished": Out(1), "elapsed": Out(24), "taken": Out(24), "logit_words": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cfg = self.m
        m.submodules.engine = engine = GemmEngine(cfg)
        m.submodules.spikes = spikes = Scratchpad(width=cfg.word_bits, depth=SPIKE_WORDS)
        m.submodules.stream = stream = Scratchpad(width=cfg.fire_lanes * STREAM_BITS, depth=STREAM_WORDS)
        m.submodules.weights = weights = WeightMemory(width=cfg.lanes * cfg.weight_bits, depth=WEIGHT_ROWS,
                                                   ports=cfg.rows_per_cycle)
        m.submodules.logits = logits = Scratchpad(width=cfg.fire_lanes * LOGIT_BITS + 1, depth=LOGIT_WORDS)
        _parameters(m, cfg, self.load, engine)
        for port, read in enumerate(weights.read):
            _read(m, engine.weight_read[port], read)
        _load(m, self.load, WEIGHTS, weights.write)
        busy = Signal()
        for select, memory, reader, writer in ((SPIKES, spikes, engine.spike_read, engine.spike_write),
                                               (STREAM, stream, engine.stream_read, engine.stream_write)):
            _read(m, reader, memory.read)
            _write(m, writer, memory.write)
            _load(m, self.load, select, memory.write)
            self._look(m, select, memory, busy)
        self._look(m, LOGITS, logits, busy)
        m.d.comb += engine.spike_read.data.eq(taken_over(m, spikes.read.data, engine.spike_read.take))
        m.d.comb += [logits.write.en.eq(engine.logits.valid), logits.write.address.eq(self.logit_words),
                     logits.write.data.eq(Cat(engine.logits.data, engine.logits.last))]
        _control(m, self, engine)
        count = Signal(24)
        with m.If(self.start):
            m.d.sync += [busy.eq(1), self.finished.eq(0), count.eq(1), self.taken.eq(0), self.logit_words.eq(0)]
        with m.Elif(busy):
            m.d.sync += [count.eq(count + 1), self.taken.eq(self.taken + engine.events),
                         self.logit_words.eq(self.logit_words + engine.logits.valid)]
            with m.If(engine.done):
                m.d.sync += [busy.eq(0), self.finished.eq(1), self.elapsed.eq(count)]
        return m

    def _look(self, m: Module, select: int, memory: Scratchpad, busy: Signal) -> None:
        with m.If(~busy & ~self.start & (self.look.select == select)):
            m.d.comb += [memory.read.address.eq(self.look.address), memory.read.en.eq(1),
                         self.look.data.eq(memory.read.data)]


class SequencerDut(wiring.Component):
    """The sequencer on its program memory, reset after `halt` or by `abort_run` as the machine does it."""

    INPUTS = ("run", "first", "images", "image_index", "seed", "failed", "unit_done", "results_idle", "reads",
              "writes", "time_steps")
    OUTPUTS = ("finished", "busy", "error", "image_done", "payload", "mask_state", "start_image", "start_gemm",
               "start_attention", "halt", "dispatch", "descriptor", "steps", "image_start", "stalled", "last_step")

    def __init__(self, m: MachineConfig) -> None:
        self.sequencer = Sequencer(m, address_bits(DESCRIPTORS), transfers=True)
        members = self.sequencer.signature.members
        super().__init__({**{name: members[name] for name in (*self.INPUTS, *self.OUTPUTS)},
                          "header": Out(PROGRAM_BITS), "first_step": Out(1), "abort_run": In(1),
                          "load": In(_load_signature(PROGRAM_BITS))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sequencer, halted, stop = self.sequencer, Signal(), Signal()
        m.d.sync += halted.eq(sequencer.halt)
        m.d.comb += stop.eq(halted | self.abort_run)
        m.submodules.sequencer = ResetInserter(stop)(sequencer)
        m.submodules.program = program = RowMemory(width=PROGRAM_BITS, depth=DESCRIPTORS * DESCRIPTOR_WORDS, ports=1)
        _read(m, sequencer.read, program.read[0])
        _load(m, self.load, PROGRAM, program.write)
        m.d.comb += [getattr(sequencer, name).eq(getattr(self, name)) for name in self.INPUTS]
        m.d.comb += [getattr(self, name).eq(getattr(sequencer, name)) for name in self.OUTPUTS]
        m.d.comb += [self.header.eq(sequencer.header),
                     self.first_step.eq(sequencer.initial)]  # `initial` is a word of Verilog
        return m


def memory_shape(m: MachineConfig) -> tuple[int, list[int], int]:
    """Width, first words and depth of the memory bench's memories; the depth is no power of two."""
    width = m.word_bits
    return width, [0x9E3779B97F4A7C15 * (index + 1) % (1 << width) for index in range(MEMORY_INIT)], 5 * m.fire_lanes + 3


class MemoryDut(wiring.Component):
    """A loadable row memory, the same not loadable, and a scratchpad: `<name>_read<port>__*` and `<name>_write__*`."""

    def __init__(self, m: MachineConfig) -> None:
        width, init, depth = memory_shape(m)
        self.memories: dict[str, RowMemory | Scratchpad] = {
            "rows": RowMemory(width=width, depth=depth, ports=MEMORY_PORTS, init=init),
            "fixed": RowMemory(width=width, depth=depth, ports=MEMORY_PORTS, init=init, loadable=False),
            "pad": Scratchpad(width=width, depth=depth, init=init)}
        bits = address_bits(depth)
        ports = {f"{name}_read{port}": In(read_signature(bits, width)) for name, memory in self.memories.items()
                 for port in range(MEMORY_PORTS if isinstance(memory, RowMemory) else 1)}
        super().__init__({**ports, **{f"{name}_write": In(write_signature(bits, width)) for name in self.memories}})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name, memory in self.memories.items():
            m.submodules[name] = memory
            for port, inner in enumerate(memory.read if isinstance(memory, RowMemory) else [memory.read]):
                _read(m, getattr(self, f"{name}_read{port}"), inner)
            _write(m, getattr(self, f"{name}_write"), memory.write)
        return m


DUTS: dict[str, Callable[[MachineConfig], wiring.Component]] = {
    "lfsr": LfsrDut, "extract": ExtractDut, "lanes": LanesDut, "fire": FireDut, "gemm": GemmDut,
    "sequencer": SequencerDut, "memory": MemoryDut, "potential": PotentialDut, "attention_divide": DivideDut}
