"""Random tiles of a stepwise machine's fire unit: the same descriptor in several time steps, potentials from step to step.

What a step is to give comes from `sim.golden.stepwise.integrate` and the parts of the golden that both modes share.
"""
import random
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hwgen.config import MachineConfig
from hwgen.descriptors import After
from model.lfsr import STEP_SEED, WIDTH
from quantize.layers import Requantise, Residual
from sim.golden import fire as golden
from sim.golden.stepwise import integrate
from sim.tb.cases import (
    FireCase,
    Ints,
    dropped,
    expected_writes,
    parameters,
    random_residual,
    random_tile,
    stream_words,
    thresholds,
)
from sim.tb.duts import mutated

STEPS = 3
PARTS = 2
"""Descriptors whose potentials lie beside each other: they run in turns."""
BIAS_TOP = 1 << 26
"""Largest bias: the charges of STEPS steps fit a potential."""


def _near(rng: random.Random, charge: Ints, threshold: Ints) -> Ints:
    """Biases [C] with which a random token of `charge` [T, C] comes to the threshold in the first step, or beside it."""
    picked = np.array([charge[rng.randrange(len(charge)), c] for c in range(charge.shape[1])], np.int64)
    beside = np.array([rng.choice([-1, 0, 0, 1]) for _ in threshold], np.int64)
    return np.clip(threshold - (threshold >> 1) + beside - picked, -BIAS_TOP, BIAS_TOP)


class _Neurons:
    """Neurons [T, C] of a tile."""

    def __init__(self, threshold: Ints) -> None:
        self.threshold = threshold
        self.v: NDArray[np.float64] | None = None

    def step(self, charge: Ints) -> Ints:
        """Spikes of a time step."""
        spikes, self.v = integrate(self.v, charge.astype(np.float64), self.threshold.astype(np.float64))
        return spikes.astype(np.int64)


def random_steps(rng: random.Random, m: MachineConfig, acc: Ints, tokens: tuple[int, int], after: After,
                 part: int = 0) -> list[FireCase]:
    """Cases of consecutive time steps for the sums `acc` [steps, T, C]; potentials in part `part` of their memories."""
    steps, count, channels = acc.shape
    levels = (1 << m.level_bits) - 1
    fields, place = random_tile(rng, m, (count, channels), tokens, after, part)
    potential_step = fields["groups"] + 1 + rng.randint(0, 2)
    spans = [depth // PARTS for depth in (m.neuron_potentials, m.norm_potentials)]  # unlike: no base can stand for the other
    bases = [part % PARTS * span + rng.randint(0, span - count * potential_step) for span in spans]
    if after != After.NORM:  # nothing of it is used: it may lie on another tile's
        bases[1] = rng.randint(0, m.norm_potentials - 1)
    scaled = rng.randint(0, 1)
    fields |= {"phases": int(after != After.LOGITS), "scaled": scaled, "potential_step": potential_step,
               "potential_base": bases[0], "norm_base": bases[1]}
    masked, override = rng.randint(0, 1), rng.random() < 0.3
    select = np.array([rng.randint(0, 2) for _ in range(channels)])

    charge = acc * (levels if scaled else 1)
    threshold, threshold2 = (levels * thresholds(rng, channels) for _ in range(2))
    if after == After.LOGITS:
        threshold *= 0
    bias = _near(rng, charge[0], threshold)
    gain, old = random_residual(rng, levels, steps * count, channels)
    old = old.reshape(steps, count, channels)
    negate = np.array([rng.randint(0, 1) for _ in range(channels)], np.int64)
    neurons, norms, bias2 = _Neurons(threshold), _Neurons(threshold2), None
    found = []
    for step in range(steps):
        spikes = 0 * acc[step] if after == After.LOGITS else neurons.step(charge[step] + bias)
        stream = golden.residual(old[step], (spikes * levels).astype(np.int32), Residual(gain, bool(fields["fresh"])))
        signed = np.where(negate == 1, -stream, stream).astype(np.int64)
        bias2 = _near(rng, signed, threshold2) if bias2 is None else bias2
        if mutated("norm"):
            norms.v = None
        fired = norms.step(signed + bias2)
        drawn = replace(place, seed=place.seed ^ step * STEP_SEED & (1 << WIDTH) - 1)
        gone = dropped(fields, select, masked, override, place if mutated("redrawn") else drawn)
        out = golden.requantise(stream, Requantise(fields["shift"], fields["plane_bits"] + 1))
        if after != After.PLANES:
            out = np.where(gone, 0, fired if after == After.NORM else spikes)
        sums = (charge[step if mutated("sums") else 0:step + 1] + bias).sum(axis=0)
        writes, done = expected_writes(m, fields, sums, stream, out)
        if after == After.LOGITS and step < steps - 1:
            writes = []
        neuron, branch = parameters(
            rng, m, fields, {"offset": bias, "threshold": threshold // levels, "select": select},
            {"gain": gain, "negate": negate, "offset": bias2, "threshold": threshold2 // levels})
        found.append(FireCase(fields, masked, drawn.state, int(override), place.override_ratio, neuron, branch,
                              stream_words(m, fields, old[step]), writes, done))
    return found
