"""Integrate-and-fire neurons and the engines that run one network description in its firing modes.

Semantics (docs/semantics.md): v starts at threshold/2, fires when v >= threshold, soft reset v -= threshold,
spikes are unsigned. `exact` accumulates the whole charge before it fires up to L times; `stepwise` fires at most
once in each time step and its spike carries up = L * threshold, as the published network does.
"""
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from model.config import MaskingConfig, ModelConfig
from model.masking import SpikeMask, mask_rows
from model.qcfs import QCFS

SITE_OF = {"q": "q", "k": "k", "scores": "scores", "act2": "fc1", "fc1": "fc2"}
"""Activation of a block -> the site at which its spikes may be masked."""


def fire_exact(charge: Tensor, threshold: Tensor, levels: int) -> Tensor:
    """Spike counts (float, 0..levels) of IF neurons that got all of `charge` (any shape) before firing."""
    v = charge + threshold / 2
    count = torch.zeros_like(v)
    for _ in range(levels):
        spike = (v >= threshold).to(v.dtype)
        v = v - spike * threshold
        count = count + spike
    return count


class IFNeuron:
    """IF neurons with state, one spike at most per step; `threshold` is a scalar tensor, v starts at half of it."""

    def __init__(self, threshold: Tensor) -> None:
        self.threshold = threshold
        self.v: Tensor | None = None

    def step(self, charge: Tensor) -> Tensor:
        """Charge, fire, soft reset: returns 0/1 spikes of charge's shape and dtype; v may go negative."""
        v = charge + (self.threshold / 2 if self.v is None else self.v)
        spike = (v >= self.threshold).to(v.dtype)
        self.v = v - spike * self.threshold
        return spike


class Masks(Protocol):
    """Which spikes are kept: `keep(name, shape)` for the activation `name`."""

    def keep(self, name: str, shape: torch.Size, rows: int) -> Tensor | None:
        """Bool [B, rows, columns] of `shape[0] * ... / rows` columns, True where kept; None where none is masked."""


class RandomMasks:
    """Masks drawn by torch, for training: same sites and ratio as the specified ones, another generator."""

    def __init__(self, config: MaskingConfig) -> None:
        self.sites, self.ratio = config.sites, config.ratio

    def keep(self, name: str, shape: torch.Size, rows: int) -> Tensor | None:
        """See Masks.keep."""
        if SITE_OF[name.rsplit(".", 1)[1]] not in self.sites:
            return None
        return torch.rand(shape).view(shape) >= self.ratio


class LfsrMasks:
    """The masks of docs/semantics.md, section 4, for the images numbered `images`; `step` redraws them (stepwise)."""

    def __init__(self, config: MaskingConfig, model: ModelConfig, images: Tensor, step: int = 0) -> None:
        """images: int64 [B]. Step t uses the seed `seed ^ (t * 0x9E3779B1 mod 2^32)`."""
        self.mask = SpikeMask.of(config).at_step(step)
        self.rows = mask_rows(model)
        self.images = images.cpu().numpy().astype(np.int64)

    def keep(self, name: str, shape: torch.Size, rows: int) -> Tensor | None:
        """See Masks.keep."""
        block, point = name.rsplit(".", 1)
        site = SITE_OF[point]
        columns = shape.numel() // (len(self.images) * rows)
        first = getattr(self.rows[block], "qkv" if site in "qk" else site)
        kept = self.mask.keep(site, self.images, first, rows, columns, columns if site == "k" else 0)
        return None if kept is None else torch.from_numpy(np.ascontiguousarray(kept))


class Engine:
    """How activations fire and which spikes are masked during one pass; this one is the QCFS network itself."""

    def __init__(self, masks: Masks | None = None) -> None:
        self.masks = masks

    def fire(self, act: QCFS, x: Tensor) -> Tensor:
        """Real-valued output of the neurons of `act` for input `x`, same shape."""
        return act(x)  # type: ignore[no-any-return]

    def mask(self, name: str, x: Tensor, rows: int, arrange: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """`x` with the masked spikes of the activation `name` set to 0.

        An image has `rows` mask rows here; `arrange` brings [B, rows, columns] to x's layout where it differs.
        """
        keep = None if self.masks is None else self.masks.keep(name, x.shape, rows)
        if keep is None:
            return x
        if keep.shape != x.shape:
            keep = keep.reshape(x.shape) if arrange is None else arrange(keep)
        return x * keep.to(x.dtype)


class ExactEngine(Engine):
    """Runs real IF neurons that accumulate first and fire then: output threshold * count."""

    def fire(self, act: QCFS, x: Tensor) -> Tensor:
        """See Engine.fire."""
        threshold = act.threshold.detach()
        return threshold * fire_exact(x, threshold, act.levels)


class StepwiseEngine(Engine):
    """Keeps the potential of every neuron from step to step; a spike carries up = L * threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.neurons: dict[str, IFNeuron] = {}

    def fire(self, act: QCFS, x: Tensor) -> Tensor:
        """See Engine.fire; one call for each activation in each time step."""
        up = act.threshold.detach() * act.levels
        neuron = self.neurons.setdefault(act.name, IFNeuron(up))
        return up * neuron.step(x)


class RecordingEngine(Engine):
    """Keeps the counts of every activation, as int64 in the layout in which it fired, before any mask."""

    def __init__(self, masks: Masks | None = None) -> None:
        super().__init__(masks)
        self.counts: dict[str, Tensor] = {}

    def fire(self, act: QCFS, x: Tensor) -> Tensor:
        """See Engine.fire."""
        y: Tensor = act(x)
        self.counts[act.name] = torch.round(y.detach() / act.threshold.detach()).to(torch.int64)
        return y
