"""BatchNorm and QCFS as one function for training: one pass for the statistics, one for the counts, two back.

The function keeps its input and two numbers a channel; charge and counts are computed again on the way
back, which costs less than reading them from memory. Statistics are sums and sums of squares in one
pass. The result is that of `nn.BatchNorm1d` in training with `model.qcfs` after it, up to rounding.
"""
from typing import Any

import torch
from torch import Tensor, nn


class NormQcfs(torch.autograd.Function):
    """QCFS of batch-normalised rows, and, where asked for, the normalised rows themselves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, threshold: Tensor, levels: int, eps: float,
                both: bool) -> tuple[Tensor, ...]:
        """x float [rows, C]; gamma, beta, threshold [C]; returns counts * threshold [rows, C], mean [C], biased variance [C] and,
        with `both`, the normalised rows."""
        rows = x.shape[0]
        mean = x.sum(0) / rows
        variance = ((x * x).sum(0) / rows - mean * mean).clamp(min=0)
        deviation = torch.rsqrt(variance + eps)
        scale = gamma * deviation
        shift = beta - mean * scale
        a, b = scale / threshold, shift / threshold
        y = threshold * torch.clamp(torch.floor(x * a + (b + 0.5)), 0, levels)
        ctx.save_for_backward(x, gamma, threshold, mean, deviation, a, b)
        ctx.levels, ctx.both = levels, both
        ctx.mark_non_differentiable(mean, variance)
        return (y, mean, variance, x * scale + shift) if both else (y, mean, variance)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, gamma, beta and threshold (straight through inside the clamp, as `model.qcfs`)."""
        x, gamma, threshold, mean, deviation, a, b = ctx.saved_tensors
        grad, rows, levels = grads[0], x.shape[0], ctx.levels
        charge = x * a + b
        inside = (charge >= 0) & (charge <= levels)
        count = torch.clamp(torch.floor(charge + 0.5), 0, levels)
        grad_threshold = (grad * (count - torch.where(inside, charge, 0))).sum(0)
        g = torch.where(inside, grad, 0)
        if ctx.both:
            g = g + grads[3]
        total = g.sum(0)
        weighted = (g * x).sum(0)
        grad_gamma = (weighted - mean * total) * deviation
        scale = gamma * deviation
        slope = -scale * deviation * grad_gamma / rows
        offset = -scale * total / rows - slope * mean
        return g * scale + (x * slope + offset), grad_gamma, total, grad_threshold, None, None, None


def norm_qcfs(norm: nn.BatchNorm1d | nn.BatchNorm2d, threshold: Tensor, levels: int, x: Tensor,
              both: bool = False) -> tuple[Tensor, Tensor]:
    """(fired, normalised) of rows x [rows, C] in training, updating the running statistics of `norm`; `threshold` [C].

    `normalised` is `fired` itself unless `both`.
    """
    out = NormQcfs.apply(x, norm.weight, norm.bias, threshold, levels, norm.eps, both)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        rows, momentum = x.shape[0], norm.momentum
        assert norm.running_mean is not None and norm.running_var is not None and momentum is not None
        norm.running_mean.lerp_(out[1].to(norm.running_mean.dtype), momentum)
        norm.running_var.lerp_((out[2] * (rows / max(1, rows - 1))).to(norm.running_var.dtype), momentum)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
    return out[0], out[3] if both else out[0]
