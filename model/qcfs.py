"""QCFS: the quantised activation whose counts an integrate-and-fire neuron reproduces.

Source: Bu et al., "Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural networks",
ICLR 2022 (quantisation clip-floor-shift). Here `threshold` is their up-bound divided by L.
"""
import math
from typing import Any

import torch
from torch import Tensor, nn


class QcfsFunction(torch.autograd.Function):
    """threshold * clamp(floor(x / threshold + 1/2), 0, levels) with a straight-through gradient inside the clamp."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor, levels: int) -> Tensor:
        """x any shape, threshold scalar tensor of x's dtype, levels = L; returns x's shape and dtype."""
        ctx.save_for_backward(x, threshold)
        ctx.levels = levels
        return threshold * torch.clamp(torch.floor(x / threshold + 0.5), 0, levels)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of x (passed where 0 <= x/threshold <= L) and of the threshold (count minus charge there)."""
        (grad,) = grads
        x, threshold = ctx.saved_tensors
        charge = x / threshold
        count = torch.clamp(torch.floor(charge + 0.5), 0, ctx.levels)
        inside = (charge >= 0) & (charge <= ctx.levels)
        grad_x = torch.where(inside, grad, 0)
        grad_threshold = (grad * (count - torch.where(inside, charge, 0))).sum()
        return grad_x, grad_threshold, None


def qcfs(x: Tensor, threshold: Tensor, levels: int) -> Tensor:
    """QCFS activation of `x` (any shape, float); the result is `threshold` times counts in 0..levels."""
    return QcfsFunction.apply(x, threshold, levels)  # type: ignore[no-any-return, no-untyped-call]


def qcfs_count(x: Tensor, threshold: Tensor, levels: int) -> Tensor:
    """Spike counts clamp(floor(x / threshold + 1/2), 0, levels) of `x`, as floats of x's dtype; no gradient."""
    return torch.clamp(torch.floor(x.detach() / threshold.detach() + 0.5), 0, levels)


class QCFS(nn.Module):
    """QCFS with one learned positive threshold (learned as a logarithm, so that it stays positive).

    `name` is the verify point's name, e.g. "s0.b1.q"; the network sets it. `up` is the initial levels * threshold.
    """

    def __init__(self, levels: int, up: float = 2.0) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"levels must be at least 1, not {levels}")
        if not up > 0:
            raise ValueError(f"up must be positive, not {up}")
        self.levels = levels
        self.name = ""
        self.log_threshold = nn.Parameter(torch.tensor(math.log(up / levels)))

    @property
    def threshold(self) -> Tensor:
        """The firing threshold: a positive scalar tensor with gradient."""
        return self.log_threshold.exp()

    def set_threshold(self, value: float) -> None:
        """Overwrite the threshold; ValueError unless it is positive and finite."""
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{self.name or 'QCFS'}: threshold must be positive, not {value}")
        with torch.no_grad():
            self.log_threshold.fill_(math.log(value))

    def forward(self, x: Tensor) -> Tensor:
        """x: float, any shape -> the same shape, on the grid threshold * {0..L}."""
        return qcfs(x, self.threshold, self.levels)
