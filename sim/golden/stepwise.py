"""The golden model in `stepwise` mode: every time step runs the whole integer network (docs/semantics.md, section 6). numpy only.

The published conversion (MST, section 3.2) on the same integers as `exact`: IF neurons keep their potential from step to step and
fire at most one spike in each, which stands for a count of L; softmax and residual belong to one step; logits add up.
"""
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model.masking import SpikeMask
from quantize.formats import CURRENT_FRACTION, SCORE_SHIFT
from quantize.layers import Attention, Gemm, Network, NormFire
from sim.golden.attention import heads_of
from sim.golden.fire import Exact, requantise, residual
from sim.golden.gemm import gathered
from sim.golden.network import Trace, Walk, check_images


@dataclass(slots=True)
class StepTrace:
    """`logits` int64 [steps, B, classes]: running sums. `steps`: a Trace of each step, spikes as 0 and 1, `logits` its own."""

    logits: NDArray[np.int64]
    steps: list[Trace] = field(default_factory=list)

    def runs(self) -> Trace:
        """The kept steps as one Trace of images and steps, step within image: the order in which the machine runs them.

        `logits`: the running sums, [B * steps, classes]. ValueError where they leave int32, which no machine would do.
        """
        def joined(parts: list[NDArray[np.int32]]) -> NDArray[np.int32]:
            return np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])

        def join(pick: str) -> dict[str, NDArray[np.int32]]:
            return {name: joined([getattr(step, pick)[name] for step in self.steps]) for name in getattr(self.steps[0], pick)}

        outputs = {layer: {what: joined([step.outputs[layer][what] for step in self.steps]) for what in found}
                   for layer, found in self.steps[0].outputs.items()}
        if self.logits.size and not -1 << 31 <= int(self.logits.min()) <= int(self.logits.max()) < 1 << 31:
            raise ValueError(f"the sums of {len(self.steps)} time steps leave 32 bits: use fewer steps")
        logits = self.logits.transpose(1, 0, 2).reshape(-1, self.logits.shape[2]).astype(np.int32)
        return Trace(logits, outputs, *(join(pick) for pick in ("inputs", "before", "scores", "scores_before")))

    @property
    def classes(self) -> NDArray[np.int64]:
        """Predicted class [steps, B] after each step: the first index of the largest sum."""
        return np.argmax(self.logits, axis=2)


def run_stepwise(network: Network, images: NDArray[np.uint8], steps: int, *, mask: SpikeMask | None = None, first_image: int = 0,
                 keep: bool = False) -> StepTrace:
    """Run `network` on images uint8 [B, H, W, C] for `steps` time steps, each showing the same image.

    `mask`: Random Spike Masking, redrawn at every step; image number `first_image + index` picks the draws. `keep`: also what
    every layer handed on in every step. ValueError: images of a wrong shape or dtype, or steps below 1.
    """
    check_images(network.model, images)
    if steps < 1:
        raise ValueError(f"stepwise needs at least 1 time step, not {steps}")
    if first_image < 0 or first_image + len(images) > 1 << 32:
        raise ValueError(f"image numbers {first_image}..{first_image + len(images) - 1} do not fit 32 bits: lower first_image")
    walk = _Stepwise(network, mask)
    logits = np.zeros((steps, len(images), network.model.classes), np.int64)
    traces: list[Trace] = []
    # with `keep` all images are one chunk, so that each step has one trace
    chunk = max(len(images), 1) if keep else walk.chunk
    for start in range(0, len(images), chunk):
        part = images[start:start + chunk]
        numbers = np.arange(len(part), dtype=np.int64) + first_image + start
        walk.state.clear()
        for step in range(steps):
            walk.mask = None if mask is None or not any(mask.ratios.values()) else mask.at_step(step)
            trace = walk.run(part, numbers, keep)
            logits[step, start:start + len(part)] = trace.logits
            if keep:
                traces.append(trace)
    return StepTrace(np.cumsum(logits, axis=0), traces)


def integrate(v: Exact | None, charge: Exact, threshold: Exact | int) -> tuple[Exact, Exact]:
    """One step of IF neurons: charge, fire where v >= threshold, soft reset. Returns (spikes 0/1, v), shaped as `charge`.

    `v` None: before the first step, half a threshold. float64, exact.
    """
    v = charge + (np.floor(np.asarray(threshold) * 0.5) if v is None else v)
    spikes = (v >= threshold).astype(np.float64)
    return spikes, v - spikes * threshold


class _Stepwise(Walk):
    """A walk whose neurons keep their potentials in `state`, by layer and neuron."""

    def __init__(self, network: Network, mask: SpikeMask | None) -> None:
        super().__init__(network, mask)
        self.state: dict[str, Exact] = {}

    def step(self, name: str, charge: Exact, threshold: Exact | int) -> Exact:
        """Spikes of the neurons `name` for this step's charge."""
        spikes, self.state[name] = integrate(self.state.get(name), charge.astype(np.float64, copy=False), threshold)
        return spikes

    def gemm(self, layer: Gemm, values: Exact, stream: Exact | None) -> dict[str, Exact]:
        """See Walk.gemm; spikes count L, so charges and thresholds are L-fold and no bias is divided."""
        if layer.gather is not None:
            values = gathered(values, layer.side, layer.gather)
        acc = self.weights[layer.name].sums(values).astype(np.float64) * (self.levels if self.network.takes_spikes(layer) else 1)
        if layer.threshold is None:
            return {"logits": acc[:, 0].astype(np.int64) + layer.bias}
        charge = acc + layer.bias
        spikes = self.step(layer.name, charge, layer.threshold * self.levels)
        if layer.residual is None:
            return {"counts": spikes}
        joined = residual(stream, spikes * self.levels, layer.residual)
        if layer.norm is not None:
            return {"stream": joined, "next": self.norm_step(f"{layer.name}.norm", joined, layer.norm)}
        if layer.requantise is None:
            return {"stream": joined}
        return {"stream": joined, "planes": requantise(joined, layer.requantise)}

    def norm_step(self, name: str, stream: Exact, norm: NormFire) -> Exact:
        """BatchNorm of this step's stream, and neuron."""
        signed = np.where(norm.negate != 0, -stream, stream)
        return self.step(name, signed + norm.bias, norm.threshold * self.levels)

    def attention(self, layer: Attention, values: Exact, numbers: NDArray[np.int64], trace: Trace | None) -> dict[str, Exact]:
        """See Walk.attention: q, k, scores, softmax and its sum over v of this step alone."""
        where, rom = self.where[layer.name], self.rom[layer.name]
        q, k, v = heads_of(values.astype(np.float64, copy=False), layer, where)
        charge = (q @ k.swapaxes(-1, -2)) * (self.levels << SCORE_SHIFT)
        a = self.step(f"{layer.name}.scores", charge, layer.score_threshold)
        kept = self.masked_scores(layer, a, numbers)
        if trace is not None:
            trace.scores[layer.name] = (a if kept is None else kept).astype(np.int32)
            if kept is not None:
                trace.scores_before[layer.name] = a.astype(np.int32)
        index = ((a if kept is None else kept) * self.levels + rom.place).astype(np.intp)
        total = rom.num.take(index, mode="clip").astype(np.float64) @ v
        row = rom.den.take(index, mode="clip").astype(np.float64).sum(axis=-1, keepdims=True)
        # exact: the shifted sum has 41 bits, so no quotient below an integer rounds up to it
        current = np.floor(total * (1 << CURRENT_FRACTION) / row)
        out = self.step(layer.name, current, 1 << CURRENT_FRACTION)
        result = np.empty((len(out), layer.tokens, layer.heads * layer.head_size))
        result[:, where.token] = out.transpose(0, 1, 3, 2, 4).reshape(len(out), layer.windows, -1, layer.heads * layer.head_size)
        return {"counts": result}
