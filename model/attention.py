"""Window attention on spike counts: window partition, shift mask, relative position bias, softmax over keys."""
import math

import torch
from torch import Tensor, nn

from model.neuron import Engine
from model.norm import new_norm
from model.qcfs import QCFS

WINDOW_MASK = -100.0
"""Added to the score of a pair whose tokens the cyclic shift brought together (Swin's region mask)."""


def partition(x: Tensor, side: int, window: int, shift: int) -> Tensor:
    """Tokens [B, side*side, C] in raster order -> [B * windows, window*window, C] after a cyclic shift up and left."""
    batch, _, channels = x.shape
    x = x.view(batch, side, side, channels)
    if shift:
        x = torch.roll(x, (-shift, -shift), (1, 2))
    across = side // window
    x = x.view(batch, across, window, across, window, channels).transpose(2, 3)
    return x.reshape(-1, window * window, channels)


def unpartition(x: Tensor, side: int, window: int, shift: int) -> Tensor:
    """Inverse of `partition`: [B * windows, window*window, C] -> [B, side*side, C]."""
    channels = x.shape[-1]
    across = side // window
    x = x.view(-1, across, across, window, window, channels).transpose(2, 3)
    x = x.reshape(-1, side, side, channels)
    if shift:
        x = torch.roll(x, (shift, shift), (1, 2))
    return x.reshape(-1, side * side, channels)


def window_mask(side: int, window: int, shift: int) -> Tensor:
    """Float [windows, window*window, window*window]: 0 where a pair may attend, WINDOW_MASK where it may not."""
    edge = torch.zeros(side)
    if shift:
        edge[side - window:] = 1
        edge[side - shift:] = 2
    region = (3 * edge[:, None] + edge[None, :]).reshape(1, -1, 1)
    region = partition(region, side, window, 0)[..., 0]
    return torch.where(region[:, :, None] == region[:, None, :], 0.0, WINDOW_MASK)


def relative_index(window: int) -> Tensor:
    """Int64 [W*W, W*W]: row of the bias table for query i and key j: (yi-yj+W-1) * (2W-1) + (xi-xj+W-1)."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.reshape(-1), x.reshape(-1)
    return (y[:, None] - y[None, :] + window - 1) * (2 * window - 1) + (x[:, None] - x[None, :] + window - 1)


def initial_bias(window: int, heads: int, turn: float) -> Tensor:
    """Float [(2W-1)^2, heads]: each head starts out looking at one neighbour of the query.

    Head h prefers the offset at angle 2 pi (h / heads + turn) on a circle of radius 1. An untrained attention is
    then a small convolution, which a short training needs (compare d'Ascoli et al., ConViT, ICML 2021).
    """
    offset = torch.arange(1 - window, window).float()
    angle = 2 * math.pi * (torch.arange(heads) / heads + turn)
    dy, dx = torch.sin(angle), torch.cos(angle)
    far = (offset[:, None, None] - dy) ** 2 + (offset[None, :, None] - dx) ** 2
    return -far.reshape(-1, heads)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows of `window` x `window` tokens of a `side` x `side` map.

    Counts everywhere: q, k, v, scores and output each pass an activation. Channel order of qkv: q, k, v, each
    heads x head size. The softmax includes masked (zero) scores; the window mask excludes pairs. `norm`: kind of the
    norms after q/k/v and output projection, "" for none.
    """

    region: Tensor
    index: Tensor

    def __init__(self, channels: int, heads: int, side: int, window: int, shift: int, levels: int,
                 norm: str, turn: float) -> None:
        super().__init__()
        self.heads, self.side, self.window, self.shift = heads, side, window, shift
        self.head_size = channels // heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.qkv_norm: nn.Module | None = new_norm(norm, 3 * channels) if norm else None
        self.q_act, self.k_act, self.v_act = QCFS(levels), QCFS(levels), QCFS(levels)
        self.score_act, self.out_act = QCFS(levels), QCFS(levels)
        self.bias_table = nn.Parameter(initial_bias(window, heads, turn))
        self.proj = nn.Linear(channels, channels)
        self.proj_norm: nn.Module | None = new_norm(norm, channels) if norm else None
        self.proj_act = QCFS(levels)
        self.register_buffer("index", relative_index(window), persistent=False)
        self.register_buffer("region", window_mask(side, window, shift), persistent=False)

    def score_bias(self) -> Tensor:
        """Relative position bias, float [heads, W*W, W*W]."""
        return self.bias_table[self.index.reshape(-1)].view(*self.index.shape, self.heads).permute(2, 0, 1)

    def to_heads(self, x: Tensor) -> Tensor:
        """Tokens [B, N, C] in raster order -> [B * windows, heads, W*W, head size]."""
        x = partition(x, self.side, self.window, self.shift)
        return x.view(*x.shape[:2], self.heads, self.head_size).transpose(1, 2)

    def from_heads(self, x: Tensor) -> Tensor:
        """Inverse of `to_heads`."""
        return unpartition(x.transpose(1, 2).flatten(2), self.side, self.window, self.shift)

    def from_windows(self, x: Tensor) -> Tensor:
        """[B * N, C] in window order -> tokens [B, N, C] in raster order."""
        return unpartition(x.view(-1, self.window**2, x.shape[-1]), self.side, self.window, self.shift)

    def forward(self, y: Tensor, engine: Engine) -> Tensor:
        """Tokens [B, N, C] -> [B, N, C], both in raster order."""
        batch, tokens, channels = y.shape
        area = self.window**2
        y = partition(y, self.side, self.window, self.shift).reshape(-1, channels)
        qkv = engine.normed(self.qkv_norm, (self.q_act, self.k_act, self.v_act), self.qkv(y))
        q, k, v = qkv.view(-1, area, 3, self.heads, self.head_size).permute(2, 0, 3, 1, 4).unbind(0)
        q = engine.mask(self.q_act.name, q, tokens, self.to_heads)
        k = engine.mask(self.k_act.name, k, tokens, self.to_heads)
        a = engine.fire(self.score_act, (q @ k.transpose(-2, -1)) * self.head_size**-0.5)
        a = engine.mask(self.score_act.name, a, tokens * self.heads)
        a = a + self.score_bias()
        if self.shift:
            a = (a.view(batch, -1, self.heads, area, area) + self.region[:, None]).view(-1, self.heads, area, area)
        o = engine.fire(self.out_act, torch.softmax(a, -1) @ v)
        y = self.proj(o.transpose(1, 2).reshape(-1, channels))
        return self.from_windows(engine.normed(self.proj_norm, (self.proj_act,), y))
