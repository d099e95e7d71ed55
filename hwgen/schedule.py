"""The cycle model: predicts, for one image, the exact cycles of every descriptor and layer from the spikes that it reads.

A layer's cycles run from its first dispatch to the next layer's (the first layer's from the start of the image), so that
they add up to the image's. RTL measures the same points; the top bench asserts equality.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.attention_cycles import attention_cycles
from hwgen.descriptors import After, Kind
from hwgen.gemm_cycles import gemm_cycles, input_planes, inside, vectors
from hwgen.loader import image_cycles
from hwgen.sequencer import FETCH_CYCLES, HANDOVER
from hwgen.steps import Part, Program, Step
from hwgen.timeline import MemoryTiming, run_timeline

RESULT_LATENCY = 5
"""Cycles from the first group of logits to their first beat, and from the last beat to its being known."""


@dataclass(frozen=True, slots=True)
class LayerCycles:
    """Prediction for one layer and one image."""

    layer: str
    cycles: int
    events: int
    """weight rows read (GEMM)"""
    bound: int
    """cycles that the weight memory's read ports need for these events"""
    stalls: int = 0
    """of the cycles, those in which only external memory kept the next descriptor waiting"""


def predict(program: Program, values: Mapping[str, NDArray[np.integer]], memory: MemoryTiming | None = None, *,
            initial: bool = True, last_step: bool = True) -> list[LayerCycles]:
    """Cycles of each layer for one image; of a stepwise machine, for one time step (is it the `initial`, the last?).

    `values[name]` [T, C]: what buffer `name` of `program.buffers` holds ("image": pixels by patch, as docs/semantics.md 3.1
    orders them). Layers come in execution order, "image" first; the head's cycles include the delivery of the logits.
    Exact where all is on chip; with external memory (`memory`: how fast it is) transfers are a model (`hwgen.timeline`).
    """
    costs = step_costs(program, values, initial=initial, last_step=last_step)
    starts, stalls = _starts(program, [cost.cycles for cost in costs], memory)
    out: dict[str, LayerCycles] = {}
    for index, (step, cost) in enumerate(zip(program.steps, costs, strict=False)):
        cycles = starts[index + 1] - (starts[index] if index else 0)
        before = out.get(step.layer, LayerCycles(step.layer, 0, 0, 0))
        out[step.layer] = LayerCycles(step.layer, before.cycles + cycles, before.events + cost.events, before.bound + cost.bound,
                                      before.stalls + stalls[index + 1] + (stalls[0] if index == 0 else 0))
    return list(out.values())


def _starts(program: Program, cycles: list[int], memory: MemoryTiming | None) -> tuple[list[int], list[int]]:
    """(dispatch cycle of each descriptor and of END, stalls of each) where each but END takes `cycles` to the next one's."""
    if program.machine.memory_bits:
        return run_timeline(program, cycles, memory or MemoryTiming())
    return list(itertools.accumulate(cycles, initial=FETCH_CYCLES)), [0] * (len(cycles) + 1)


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one descriptor costs: cycles from its dispatch to the next one's, weight rows read, and their bound."""

    cycles: int
    events: int = 0
    bound: int = 0


def step_costs(program: Program, values: Mapping[str, NDArray[np.integer]], *, initial: bool = True,
               last_step: bool = True) -> list[StepCost]:
    """The cost of every descriptor but END, for one image, were external memory never in the way. Arguments: as `predict`."""
    machine = program.machine
    memory = np.zeros((program_depth(program), machine.lanes), np.int64)
    packed: Part | None = None
    counts = np.zeros((0, 0, 0), np.int64)
    out: list[StepCost] = []
    for step in program.steps:
        if step.kind == Kind.END:
            continue
        if step.kind != Kind.GEMM:
            skipped = step.kind == Kind.IMAGE and not initial  # the image is still there
            out.append(StepCost(FETCH_CYCLES if skipped else paced(fixed_cycles(program, step))))
            continue
        assert step.inputs is not None
        if step.inputs is not packed:
            packed = step.inputs
            place_part(program, packed, np.asarray(values[packed.name]), memory)
            counts = vectors(step.fields, machine, memory)
        cost = gemm_cycles(step.fields, machine, counts)
        out.append(StepCost(dispatched(step, cost.cycles, last_step), cost.events, _bound(counts, machine.rows_per_cycle)))
    return out


def place_part(program: Program, part: Part, values: NDArray[np.integer], memory: NDArray[np.int64]) -> None:
    """Lay the part's tokens of `values` [T, C] into a scratchpad image [words, lanes]."""
    buffer = dataclasses.replace(program.buffers[part.name], tokens=len(part.tokens))
    memory[part.base:part.base + buffer.size] = buffer.pack(values[None][:, part.tokens])[0]


def fixed_cycles(program: Program, step: Step) -> int:
    """Cycles of a descriptor whose duration does not depend on spikes."""
    if step.kind == Kind.IMAGE:
        return image_cycles(program.machine, *(step.fields[name] for name in ("tokens", "channels", "groups")))
    assert step.attention is not None
    return attention_cycles(program.machine, step.attention)


def paced(unit: int) -> int:
    """From a descriptor's dispatch to the first cycle in which the next one can be, when its unit takes `unit` cycles."""
    return max(FETCH_CYCLES, unit + HANDOVER)


def program_depth(program: Program) -> int:
    """Spike words that the program touches."""
    if program.machine.memory_bits:
        return program.machine.spike_words
    return max(buffer.base + buffer.size for buffer in program.buffers.values())


def dispatched(step: Step, unit: int, last_step: bool = True) -> int:
    """From a GEMM descriptor's dispatch to the next one's, when its unit takes `unit` cycles. Logits leave in the last step."""
    cycles = paced(unit)
    if step.fields["after"] == After.LOGITS and last_step:
        groups = step.fields["groups"] + 1
        cycles = max(cycles, unit - groups + 1 + RESULT_LATENCY + step.fields["count"])
    return cycles


def _bound(counts: NDArray[np.int64], rows_per_cycle: int) -> int:
    """Sum over tokens and planes of ceil(events / rows read a cycle)."""
    return int((-(-counts.sum(axis=2) // rows_per_cycle)).sum())


def layer_table(program: Program) -> str:
    """Per layer: tiles, predicted cycles, memory, as text.

    Cycles of a layer with weights depend on the spikes of an image: the table gives the least (no spike at all) and the most
    (every bit plane full), and, when the network file records its activity (`notes["activity"]`: layer -> events per input
    channel), the cycles at that activity. The image's transfer and attention take the same cycles for every image.
    """
    rates = _activity(program)
    lines = [f"{'layer':<14}{'tiles':>6}{'weight rows':>13}{'spike words':>13}{'least':>10}{'predicted':>11}{'most':>10}"]
    rows, unknown = _weight_rows(program), unrecorded(program)
    least, likely, most = (_layer_cycles(program, at) for at in ({}, rates, dict.fromkeys(program.layers, 1e9)))
    for name in program.layers:
        steps = [step for step in program.steps if step.layer == name]
        size = program.buffers[name].size if name in program.buffers else 0
        lines.append(f"{name:<14}{len(steps):>6}{rows.get(name, 0):>13}{size:>13}{least[name]:>10}"
                     f"{'-' if name in unknown else likely[name]:>11}{most[name]:>10}")
    total = predicted_cycles(program)
    lines.append(f"{'total':<14}{len(program.steps):>6}{sum(rows.values()):>13}{'':>13}{sum(least.values()):>10}"
                 f"{'-' if total is None else total:>11}{sum(most.values()):>10}")
    if program.machine.stepwise:
        lines.append("cycles are of one time step, whose spikes no file records: `make sim` predicts each one exactly")
    elif unknown:
        lines.append("predicted: the network file records no activity" + (f" of {', '.join(unknown)}" if rates else "")
                     + "; `make sim` predicts each image exactly")
    return "\n".join(lines)


def rate_line(program: Program, clock_mhz: float) -> str:
    """What the total of `layer_table` is in milliseconds and images a second at a clock of `clock_mhz`, as one line."""
    cycles, unit = predicted_cycles(program), "time step" if program.machine.stepwise else "image"
    memory = f", external memory of {MemoryTiming().latency} cycles latency" if program.machine.memory_bits else ""
    if cycles is not None:
        return (f"predicted: {cycles} cycles/image, {cycles / clock_mhz / 1e3:.3f} ms, {clock_mhz * 1e6 / cycles:.1f} images/s "
                f"at {clock_mhz:g} MHz{memory}")
    least, most = (sum(_layer_cycles(program, at).values()) for at in ({}, dict.fromkeys(program.layers, 1e9)))
    return (f"{least} to {most} cycles/{unit}, {least / clock_mhz / 1e3:.3f} to {most / clock_mhz / 1e3:.3f} ms "
            f"at {clock_mhz:g} MHz{memory}")


def predicted_cycles(program: Program) -> int | None:
    """Cycles of an image at the activity that the network file records; None when that of a layer is not recorded."""
    return None if unrecorded(program) else sum(_layer_cycles(program, _activity(program)).values())


def unrecorded(program: Program) -> list[str]:
    """Layers whose cycles depend on spikes of which the network file records nothing."""
    rates = _activity(program)
    return [name for name in program.layers if name not in rates
            and any(step.layer == name and step.kind == Kind.GEMM for step in program.steps)]


def _activity(program: Program) -> Mapping[str, float]:
    """Events per input channel by layer, as recorded for `exact` firing; empty where nothing is recorded for this machine."""
    activity = program.network.notes.get("activity")
    return activity if isinstance(activity, dict) and not program.machine.stepwise else {}


def _weight_rows(program: Program) -> dict[str, int]:
    """Weight rows of each layer's tiles."""
    out: dict[str, int] = {}
    for name in program.layers:
        steps = [step for step in program.steps if step.layer == name]
        out[name] = sum(step.weight_rows for step in steps if step.inputs is steps[0].inputs)
    return out


def _layer_cycles(program: Program, rates: Mapping[str, float]) -> dict[str, int]:
    """Cycles of each layer where every input channel of layer `name` has `rates[name]` events (0 where none is given)."""
    steps = [step for step in program.steps if step.kind != Kind.END]
    starts, _ = _starts(program, [_at_rate(program, step, rates.get(step.layer, 0.0)) for step in steps], None)
    out = dict.fromkeys(program.layers, 0)
    for index, step in enumerate(steps):
        out[step.layer] += starts[index + 1] - (starts[index] if index else 0)
    return out


def _at_rate(program: Program, step: Step, events_per_channel: float) -> int:
    """Cycles of a descriptor, to the next one's dispatch; events are spread evenly over the planes of each input channel."""
    if step.kind != Kind.GEMM:
        return paced(fixed_cycles(program, step))
    f = step.fields
    planes = input_planes(f, program.machine)
    lanes = min(f["row_word_step"], program.machine.lanes)
    count = min(lanes, round(lanes * events_per_channel / planes))
    return dispatched(step, gemm_cycles(f, program.machine, count * inside(f)[:, None].repeat(planes, axis=1)).cycles)
