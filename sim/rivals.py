"""The same network and images run in other ways on the same array: cycles and energy, from the machine's own exact cycle model.

Every way walks the same tiles with the same fire unit and attention unit; only what the extractor feeds to the array differs.

* dense time-stepped: an SNN that runs the whole network in each of T = L steps, as the published one does, every input of every
  step taken (one plane a step for counts; pixels and the residual into merging and head are multi-bit in each step);
* the same, kinder: layers whose input is multi-bit (embedding, merging, head) run once, not in each step;
* dense bit-serial: every bit plane of every input: the equal-bit quantised ANN on this array, the honest rival;
* rate-coded, zero-skip: counts as up to L unary spikes, zeros skipped; as many steps to a word as this machine has planes;
* phase-coded, zero-skip: this machine;
* the same with Random Spike Masking.
"""
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.descriptors import Kind
from hwgen.gemm_cycles import gemm_cycles, vectors
from hwgen.program import Program
from hwgen.schedule import dispatched, fixed_cycles, paced, place_part, predict, program_depth
from hwgen.sequencer import FETCH_CYCLES
from hwgen.steps import Step
from model.config import MaskingConfig
from model.masking import SpikeMask
from sim import energy
from sim.golden.network import run as run_golden
from sim.ops import LayerOps, count, mean, memories
from sim.verify import stored

Ints = NDArray[np.int64]
Values = Mapping[str, NDArray[np.integer]]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run the network: mean cycles and, where the energy model covers it, picojoules an image."""

    name: str
    cycles: float
    events: float
    energy_pj: float | None = None
    energy_column: str = ""


def full_values(program: Program) -> dict[str, NDArray[np.integer]]:
    """Values whose every stored bit is set, by buffer."""
    return {name: np.full((buffer.tokens, buffer.channels), -1 if buffer.signed else (1 << buffer.bits) - 1)
            for name, buffer in program.buffers.items()}


def unary_counts(program: Program, step: Step, values: NDArray[np.integer], planes: int) -> Ints:
    """Events [tokens, planes, words] of a GEMM step whose input counts are sent as unary spikes: plane t holds counts > t."""
    assert step.inputs is not None
    machine = program.machine
    fields = step.fields | {"passes_less_one": 0, "first_group": 0, "first_bit": 0}
    memory = np.zeros((program_depth(program), machine.lanes), np.int64)
    out = []
    for plane in range(planes):
        place_part(program, step.inputs, (np.asarray(values) > plane).astype(np.int64), memory)
        out.append(vectors(fields, machine, memory)[:, 0])
    return np.stack(out, axis=1)


def _counts_in(program: Program, step: Step) -> bool:
    """Whether the step reads spike counts (and not pixels or residual planes)."""
    assert step.inputs is not None
    return program.buffers[step.inputs.name].bits == program.network.model.planes and step.inputs.name != "image"


def unary_cycles(program: Program, values: Values, *, dense: bool) -> tuple[int, int]:
    """(cycles, events) with unary counts, each neuron firing once after all T = L planes; `dense`: every plane is full."""
    levels = program.network.model.levels
    total, events = FETCH_CYCLES, 0
    known: tuple[object, Ints] | None = None
    memory = np.zeros((program_depth(program), program.machine.lanes), np.int64)
    for step in program.steps:
        if step.kind == Kind.END:
            continue
        if step.kind != Kind.GEMM:
            total += paced(fixed_cycles(program, step))
            continue
        assert step.inputs is not None
        if known is None or known[0] is not step.inputs:
            given = np.asarray(values[step.inputs.name])
            if _counts_in(program, step):
                counts = unary_counts(program, step, np.full_like(given, levels) if dense else given, levels)
            else:
                place_part(program, step.inputs, given, memory)
                counts = vectors(step.fields, program.machine, memory)
            known = step.inputs, counts
        cost = gemm_cycles(step.fields, program.machine, known[1])
        total, events = total + dispatched(step, cost.cycles), events + cost.events
    return total, events


def stepped_cycles(program: Program, *, multibit_once: bool) -> tuple[int, int]:
    """(cycles, events) of the dense time-stepped SNN at T = L; it depends on no spike."""
    levels, full = program.network.model.levels, full_values(program)
    total, events = FETCH_CYCLES, 0
    memory = np.zeros((program_depth(program), program.machine.lanes), np.int64)
    for step in program.steps:
        if step.kind == Kind.END:
            continue
        if step.kind != Kind.GEMM:
            each = paced(fixed_cycles(program, step))
            total += each if step.kind == Kind.IMAGE else levels * each
            continue
        assert step.inputs is not None
        fields, counts_in = step.fields, _counts_in(program, step)
        if counts_in:
            fields = fields | {"passes_less_one": 0, "first_group": 0, "first_bit": 0}
        place_part(program, step.inputs, full[step.inputs.name], memory)
        cost = gemm_cycles(fields, program.machine, vectors(fields, program.machine, memory))
        times = 1 if multibit_once and not counts_in else levels
        total, events = total + times * dispatched(step, cost.cycles), events + times * cost.events
    return total, events


def ways(program: Program, images: NDArray[np.uint8], masking: MaskingConfig, ratio: float) -> list[Way]:
    """All ways, as means over `images` uint8 [B, H, W, C]; masking at `masking.sites` with `ratio`, at these weights."""
    constants, capacities = energy.load(), memories(program.machine)
    plain = run_golden(program.network, images)
    masked = run_golden(program.network, images, mask=SpikeMask.of(masking.at(ratio)))
    levels = program.network.model.levels

    def spent(ops: Sequence[LayerOps], column: str) -> float:
        return sum(energy.energy(layer, constants, capacities)[column] for layer in ops)

    ops, masked_ops = mean(count(program, plain, images)), mean(count(program, masked, images))
    values = stored(plain, program, images)
    unary = [unary_cycles(program, {name: found[index] for name, found in values.items()}, dense=False)
             for index in range(len(images))]
    dense = predict(program, full_values(program))
    stepped, kinder = (stepped_cycles(program, multibit_once=once) for once in (False, True))
    ours, rival = "snn_integer_memory", "ann_serial_integer_memory"
    return [
        Way(f"dense, time-stepped SNN, T = {levels}", *stepped),
        Way("the same, multi-bit inputs once", *kinder),
        Way("dense, bit-serial (equal-bit quantised ANN)", sum(layer.cycles for layer in dense),
            sum(layer.events for layer in dense), spent(ops, rival), rival),
        Way(f"rate-coded, zero-skip, T = {levels}", float(np.mean(unary, axis=0)[0]), float(np.mean(unary, axis=0)[1])),
        Way("phase-coded, zero-skip (this machine)", sum(layer.cycles for layer in ops), sum(layer.events for layer in ops),
            spent(ops, ours), ours),
        Way(f"the same, RSM {ratio:.0%} at {', '.join(masking.sites)}", sum(layer.cycles for layer in masked_ops),
            sum(layer.events for layer in masked_ops), spent(masked_ops, ours), ours)]


@dataclass(frozen=True, slots=True)
class Masked:
    """A layer whose input is masked: the same input before and after its mask."""

    layer: str
    events_kept: float
    cycles_kept: float
    cycles: int
    """with the mask"""
    over_bound: float
    """these over the layer's bound: ceil(events / 2) for each token and plane"""
    paced_by: str
    """with the mask: "events"; "fire unit"; "memory" (external)"""

    @property
    def excess(self) -> float:
        """Cycles kept over events kept: 1 is proportional."""
        return self.cycles_kept / self.events_kept


PACED = 0.03
"""A layer is paced by external memory, or by the fire unit, if it would take this share of its cycles less without it."""


def masked_layers(program: Program, image: NDArray[np.uint8], masking: MaskingConfig, ratio: float) -> list[Masked]:
    """Cycles of GEMM layers whose own input is masked, over those of the same input unmasked, for image uint8 [H, W, C]."""
    trace = run_golden(program.network, image[None], mask=SpikeMask.of(masking.at(ratio)))
    after = {name: found[0] for name, found in stored(trace, program, image[None]).items()}
    names = program.layers
    source = {name: next(before for before in reversed(names[:index]) if before in program.buffers)
              for index, name in enumerate(names) if index}
    before = after | {source[name]: found[0] for name, found in trace.before.items()}
    low = {layer.layer: layer for layer in predict(program, after)}
    high = {layer.layer: layer for layer in predict(program, before)}
    at_once = dataclasses.replace(program, steps=[
        dataclasses.replace(step, fields=step.fields | {"spacing": 0}) if step.kind == Kind.GEMM else step
        for step in program.steps])
    unfired = {layer.layer: layer for layer in predict(at_once, after)}
    gemm = {step.layer for step in program.steps if step.kind == Kind.GEMM}
    out = []
    for name in trace.before:
        if name not in gemm:
            continue
        found, working = low[name], low[name].cycles - low[name].stalls
        pace = ("memory" if found.stalls > PACED * found.cycles else
                "fire unit" if working - (unfired[name].cycles - unfired[name].stalls) > PACED * working else "events")
        out.append(Masked(name, found.events / high[name].events, found.cycles / high[name].cycles, found.cycles,
                          found.cycles / found.bound, pace))
    return out


def proportion(layers: Sequence[Masked]) -> float:
    """Cycles kept over events kept, all `layers` together (each weighs as much as its cycles did without the mask)."""
    before = [layer.cycles / layer.cycles_kept for layer in layers]
    events = sum(layer.events_kept * cycles for layer, cycles in zip(layers, before, strict=True))
    return sum(layer.cycles for layer in layers) / events
