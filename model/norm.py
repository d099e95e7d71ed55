"""The norms of our own network: BatchNorm, which the machine needs, and LayerNorm, for comparison.

BatchNorm is an affine map in evaluation, so thresholds and offsets absorb it; LayerNorm divides by each token's own
deviation, so it exists in the float firing modes only (docs/reference.md, section 4).
"""
from torch import Tensor, nn

KINDS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


def new_norm(kind: str, channels: int) -> nn.Module:
    """A norm over `channels`, eps 1e-5, of `kind` batch or layer; it takes [rows, channels]."""
    return KINDS[kind](channels)


def normalise(norm: nn.Module | None, x: Tensor) -> Tensor:
    """`norm` over the last dimension of `x` (any leading shape); `x` itself where there is no norm."""
    return x if norm is None else norm(x.reshape(-1, x.shape[-1])).view(x.shape)  # type: ignore[no-any-return]

