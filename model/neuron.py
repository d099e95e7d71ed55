"""Integrate-and-fire neurons and the engines that run one network description in its firing modes.

Semantics (docs/semantics.md): v starts at threshold/2, fires when v >= threshold, soft reset v -= threshold,
spikes are unsigned. `exact` accumulates the whole charge before it fires up to L times; `stepwise` fires at most
once in each time step and its spike carries up = L * threshold, as the published network does.
"""
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from model.config import CONV_SITE, AnyModel, MaskingConfig
from model.fused import norm_qcfs
from model.masking import SpikeMask, conv_rows, mask_rows
from model.masking_torch import draws
from model.qcfs import QCFS

SITE_OF = {"q": "q", "k": "k", "scores": "scores", "act2": "fc1", "fc1": "fc2"}
"""Activation of a block -> the site at which its spikes may be masked; any other belongs to a convolutional backbone."""


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


class LfsrMasks:
    """The masks of docs/semantics.md, section 4, for the images numbered `images`; `step` redraws them (stepwise)."""

    def __init__(self, config: MaskingConfig, model: AnyModel, images: Tensor, step: int = 0) -> None:
        """images: int64 [B], on the device of the masks. Step t uses the seed `seed ^ (t * 0x9E3779B1 mod 2^32)`."""
        self.mask = SpikeMask.of(config).at_step(step)
        self.rows, self.conv_rows = mask_rows(model), conv_rows(model)
        self.images = images

    def keep(self, name: str, shape: torch.Size, rows: int) -> Tensor | None:
        """See Masks.keep."""
        block, _, point = name.rpartition(".")
        site = SITE_OF.get(point, "")
        if name in self.conv_rows:
            block, site = name, CONV_SITE
        ratio = self.mask.ratio_of(site, block)
        if not ratio:
            return None
        columns = shape.numel() // (len(self.images) * rows)
        row = self.conv_rows[name] if site == CONV_SITE else getattr(self.rows[block], "qkv" if site in "qk" else site)
        first = columns if site == "k" else 0
        return draws(self.mask.seed, self.images, row, rows, first + columns)[:, :, first:] >= ratio


class DrawnMasks:
    """Masks drawn beforehand: bool [B, rows, columns] by activation. A compiled network takes them as plain tensors."""

    def __init__(self, drawn: dict[str, Tensor]) -> None:
        self.drawn = drawn

    def keep(self, name: str, shape: torch.Size, rows: int) -> Tensor | None:
        """See Masks.keep."""
        return self.drawn.get(name)


class Engine:
    """How activations fire and which spikes are masked during one pass; this one is the QCFS network itself."""

    def __init__(self, masks: Masks | None = None, paths: dict[str, Tensor] | None = None) -> None:
        """paths: factor of each image, [B], on a residual branch by its name (drop path); branches not named are whole."""
        self.masks = masks
        self.paths = paths or {}

    def fire(self, act: QCFS, x: Tensor) -> Tensor:
        """Real-valued output of the neurons of `act` for input `x`, same shape."""
        return act(x)  # type: ignore[no-any-return]

    def normed(self, norm: nn.Module | None, acts: tuple[QCFS, ...], x: Tensor) -> Tensor:
        """Output of `acts` for `norm` of x [rows, C] (x itself without one), each for an equal share of the channels."""
        y = x if norm is None else norm(x)
        if len(acts) == 1:
            return self.fire(acts[0], y)
        return torch.cat([self.fire(act, part) for act, part in zip(acts, y.chunk(len(acts), -1), strict=True)], -1)

    def normed_both(self, norm: nn.Module, act: QCFS, x: Tensor) -> tuple[Tensor, Tensor]:
        """(output of `act` for `norm` of x [rows, C], the normalised rows themselves)."""
        y = norm(x)
        return self.fire(act, y), y

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

    def branch(self, name: str, x: Tensor) -> Tensor:
        """Output `x` [B, ...] of the residual branch that the activation `name` opens, before it joins the stream."""
        factor = self.paths.get(name)
        return x if factor is None else x * factor.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


class TrainEngine(Engine):
    """The QCFS network in training: BatchNorm and activation as one function (`model.fused`)."""

    def normed(self, norm: nn.Module | None, acts: tuple[QCFS, ...], x: Tensor) -> Tensor:
        """See Engine.normed."""
        if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            return super().normed(norm, acts, x)
        return norm_qcfs(norm, _thresholds(acts, x.shape[-1]), acts[0].levels, x)[0]

    def normed_both(self, norm: nn.Module, act: QCFS, x: Tensor) -> tuple[Tensor, Tensor]:
        """See Engine.normed_both."""
        if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            return super().normed_both(norm, act, x)
        return norm_qcfs(norm, _thresholds((act,), x.shape[-1]), act.levels, x, both=True)


def _thresholds(acts: tuple[QCFS, ...], channels: int) -> Tensor:
    """Threshold of each channel, [channels]: an equal share of them for each of `acts`."""
    return torch.cat([act.threshold.expand(channels // len(acts)) for act in acts])


class PlanEngine(Engine):
    """Runs the QCFS network and notes which masks and branches a pass asks for, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: list[tuple[str, int, int]] = []
        """Activation, mask rows and columns of an image."""
        self.branches: list[str] = []

    def mask(self, name: str, x: Tensor, rows: int, arrange: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """See Engine.mask; for one image."""
        self.sites.append((name, rows, x.numel() // rows))
        return x

    def branch(self, name: str, x: Tensor) -> Tensor:
        """See Engine.branch."""
        self.branches.append(name)
        return x


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
