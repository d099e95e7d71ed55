"""The cycle model: predicts, for one image, the exact cycles of every descriptor and layer from the spikes that it reads.

A layer's cycles run from its first dispatch to the next layer's (the first layer's from the start of the image), so that they add up to
the image's. RTL measures the same points; the top bench asserts equality.
"""
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.attention_cycles import attention_cycles
from hwgen.descriptors import After, Kind
from hwgen.gemm_cycles import gemm_cycles, vectors
from hwgen.loader import image_cycles
from hwgen.program import Program, Step
from hwgen.sequencer import FETCH_CYCLES

RESULT_LATENCY = 3
"""Cycles from the first group of logits to their first beat."""


@dataclass(frozen=True, slots=True)
class LayerCycles:
    """Prediction for one layer and one image."""

    layer: str
    cycles: int
    events: int
    """weight rows read (GEMM)"""
    bound: int
    """cycles that the weight memory's read ports need for these events"""


def predict(program: Program, values: Mapping[str, NDArray[np.integer]]) -> list[LayerCycles]:
    """Cycles of each layer for one image.

    `values[name]` [T, C]: what buffer `name` of `program.buffers` holds ("image": pixels by patch, as docs/semantics.md 3.1 orders
    them). Layers come in execution order, "image" first; the head's cycles include the delivery of the logits.
    """
    out: list[LayerCycles] = []
    previous = None
    names = list(program.buffers)
    memory = np.zeros((program_depth(program), program.machine.lanes), np.int64)
    for name in program.layers:
        steps = [step for step in program.steps if step.layer == name]
        cycles = events = bound = 0
        if previous is not None and steps[0].kind == Kind.GEMM:
            buffer = program.buffers[previous]
            memory[buffer.base:buffer.base + buffer.size] = buffer.pack(np.asarray(values[previous])[None])[0]
            counts = vectors(steps[0].fields, program.machine, memory)
        for step in steps:
            if step.kind == Kind.GEMM:
                cost = gemm_cycles(step.fields, program.machine, counts)
                cycles += _dispatched(step, cost.cycles)
                events, bound = events + cost.events, bound + _bound(counts, program.machine.rows_per_cycle)
            else:
                cycles += max(FETCH_CYCLES, fixed_cycles(program, step))
        if previous is None:
            cycles += FETCH_CYCLES
        out.append(LayerCycles(name, cycles, events, bound))
        if name in names:
            previous = name
    return out


def fixed_cycles(program: Program, step: Step) -> int:
    """Cycles of a descriptor whose duration does not depend on spikes."""
    if step.kind == Kind.IMAGE:
        return image_cycles(program.machine, step.fields["tokens"], step.fields["channels"])
    assert step.attention is not None
    return attention_cycles(program.machine, step.attention)


def program_depth(program: Program) -> int:
    """Spike words that the program touches."""
    return max(buffer.base + buffer.size for buffer in program.buffers.values())


def _dispatched(step: Step, unit: int) -> int:
    """From this descriptor's dispatch to the next one's."""
    if step.fields["after"] == After.LOGITS:
        groups = step.fields["groups"] + 1
        unit = max(unit, unit - groups + 1 + RESULT_LATENCY + step.fields["count"])
    return max(FETCH_CYCLES, unit)


def _bound(counts: NDArray[np.int64], rows_per_cycle: int) -> int:
    """Sum over tokens and planes of ceil(events / rows read a cycle)."""
    return int((-(-counts.sum(axis=2) // rows_per_cycle)).sum())
