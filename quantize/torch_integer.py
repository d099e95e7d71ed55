"""The integer network in torch, bit for bit (docs/semantics.md): the fast way to the accuracy on a whole test set.

Every tensor holds integers (int32, or floats where a product is provably exact). Written apart from the golden model,
with which it must agree (tests/golden/test_torch.py).
"""
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model.config import CONV_SITE
from model.masking import SpikeMask, conv_rows, mask_rows
from quantize.formats import SCORE_SHIFT
from quantize.layers import Attention, Gather, Gemm, NetworkError
from quantize.layers import Network as IntegerNetwork

EXACT32 = 1 << 24
"""float32 holds every integer up to here."""

Outputs = dict[str, dict[str, Tensor]]
"""Layer name -> the arrays of `sim.golden`'s trace (int32), and what fires before any mask or residual: "fired" (a
GEMM's neurons), "fired_next" (its norm fire), "fired_scores", "fired" (attention)."""
Forced = dict[tuple[str, str], Tensor]
"""(layer, "fired..." key) -> counts (int32) that take the place of the layer's own for all that follows."""


def _exact_dtype(bound: int) -> torch.dtype:
    return torch.float32 if bound < EXACT32 else torch.float64


def _fire(v: Tensor, threshold: Tensor | int, levels: int) -> Tensor:
    """clamp(v // threshold, 0, levels) of int32 `v`."""
    return torch.div(v, threshold, rounding_mode="floor").clamp_(0, levels)


def _tensor(values: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(values.astype(np.int32))


@dataclass(frozen=True, slots=True)
class _Masks:
    """Spike masks of a batch: images are numbered `first`, `first` + 1, ..."""

    mask: SpikeMask | None
    first: int
    count: int

    def apply(self, x: Tensor, site: str, block: str, row: int, column: int = 0) -> Tensor:
        """`x` [B, rows, columns] with the masked counts of `site` of `block` set to 0."""
        if self.mask is None:
            return x
        images = np.arange(self.first, self.first + self.count, dtype=np.int64)
        keep = self.mask.keep(site, images, row, x.shape[1], x.shape[2], column, block)
        return x if keep is None else x * torch.from_numpy(keep)


class IntegerMST:
    """Runs `network` on uint8 images; holds its parameters as tensors. `mask`: spike mask, or None."""

    def __init__(self, network: IntegerNetwork, mask: SpikeMask | None = None) -> None:
        self.network, self.mask = network, mask
        self.rows = mask_rows(network.model) if mask is not None else {}
        self.conv_rows = conv_rows(network.model) if mask is not None else {}
        self.weights: dict[str, Tensor] = {}
        for layer in network.layers:
            if isinstance(layer, Gemm):
                top = 1 << layer.in_bits - layer.in_signed
                dtype = _exact_dtype(int(np.abs(layer.weight).sum(1).max()) * top)
                weight = _tensor(layer.weight).to(dtype)
                self.weights[layer.name] = weight.T.contiguous() if layer.gather is None else _kernel(weight, layer.gather)

    def run(self, images: NDArray[np.uint8], first_image: int = 0, forced: Forced | None = None) -> Outputs:
        """Outputs of every layer for images [B, H, W, C]; NetworkError for another shape, dtype or range.

        With `forced`, each layer works on the given counts of those before it, so that its own error shows alone.
        """
        forced = forced or {}
        m = self.network.model
        shape = (m.image_size, m.image_size, m.in_channels)
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise NetworkError(f"images are {images.dtype} {list(images.shape)}: "
                               f"this network takes uint8 [B, {m.image_size}, {m.image_size}, {m.in_channels}]")
        if images.size and int(images.max()) >> m.in_bits:
            raise NetworkError(f"images hold the value {images.max()}: this network takes counts of 0 to {(1 << m.in_bits) - 1}")
        batch = len(images)
        masks = _Masks(self.mask, first_image, batch)
        side = m.side(0)
        x = torch.from_numpy(np.ascontiguousarray(images)).view(batch, side, m.patch, side, m.patch, m.in_channels)
        value = x.permute(0, 1, 3, 2, 4, 5).reshape(batch, side * side, -1).to(torch.int32)
        out: Outputs = {}
        stream = value
        for layer in self.network.layers:
            if isinstance(layer, Attention):
                value, out[layer.name] = self._attention(layer, value, masks, forced)
            else:
                value, stream, out[layer.name] = self._gemm(layer, value, stream, masks, forced)
        return out

    def predict(self, images: NDArray[np.uint8], chunk: int = 100) -> Iterator[NDArray[np.int64]]:
        """Classes of images [B, H, W, C], int64, in chunks of `chunk`: the first index of the largest logit."""
        for start in range(0, len(images), chunk):
            logits = self.run(images[start:start + chunk], start)["head"]["logits"].numpy()
            yield logits.argmax(1).astype(np.int64)

    def _gemm(self, layer: Gemm, value: Tensor, stream: Tensor,
              masks: _Masks, forced: Forced) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        levels, given = self.network.model.levels, value
        batch = len(value)
        if layer.kind == "merge":
            half, channels = layer.side // 2, value.shape[-1]
            value = value.view(batch, half, 2, half, 2, channels).permute(0, 1, 3, 4, 2, 5)
            value = value.reshape(batch, half * half, -1)
        elif layer.kind == "head":
            value = value.sum(1, keepdim=True, dtype=torch.int32)
        weight = self.weights[layer.name]
        if layer.gather is not None:
            grid = value.to(weight.dtype).transpose(1, 2).reshape(batch, -1, layer.side, layer.side)
            sums = functional.conv2d(grid, weight, stride=layer.gather.stride, padding=layer.gather.padding)
            sums = sums.flatten(2).transpose(1, 2)
        else:
            sums = value.to(weight.dtype) @ weight
        acc = sums.to(torch.int32) + _tensor(layer.bias)
        if layer.threshold is None:
            return acc, stream, {"logits": acc[:, 0]}
        threshold = _tensor(layer.threshold)
        fired = _fire(acc + (threshold >> 1), threshold, levels)
        count = forced.get((layer.name, "fired"), fired)
        block = layer.name.rpartition(".")[0]
        if layer.residual is None:
            if masks.mask is not None and layer.kind == "qkv":
                rows, c = self.rows[block], layer.outputs // 3
                q = masks.apply(count[..., :c], "q", block, rows.qkv)
                k = masks.apply(count[..., c:2 * c], "k", block, rows.qkv, c)
                count = torch.cat((q, k, count[..., 2 * c:]), -1)
            elif masks.mask is not None and layer.kind == "fc1":
                count = masks.apply(count, "fc2", block, self.rows[block].fc2)
            elif layer.name in self.conv_rows:
                count = masks.apply(count, CONV_SITE, layer.name, self.conv_rows[layer.name])
            return count, stream, {"counts": count, "fired": fired}
        joined = count * _tensor(layer.residual.gain)
        stream = joined if layer.residual.fresh else stream + joined
        out = {"stream": stream, "fired": fired}
        if layer.norm is not None:
            signed = torch.where(_tensor(layer.norm.negate) > 0, -stream, stream)
            threshold = _tensor(layer.norm.threshold)
            fired = _fire(signed + _tensor(layer.norm.bias) + (threshold >> 1), threshold, levels)
            out["fired_next"] = fired
            value = forced.get((layer.name, "fired_next"), fired)
            if layer.name in self.conv_rows:
                value = masks.apply(value, CONV_SITE, layer.name, self.conv_rows[layer.name])
            elif masks.mask is not None and layer.norm.site:
                value = masks.apply(value, layer.norm.site, block, self.rows[block].fc1)
            out["next"] = value
        elif layer.requantise is not None:
            shift, bits = layer.requantise.shift, layer.requantise.bits
            value = (stream + ((1 << shift) >> 1)) >> shift
            out["planes"] = value = value.clamp(-(1 << bits - 1), (1 << bits - 1) - 1)
        else:
            value = given
        return value, stream, out

    def _attention(self, layer: Attention, value: Tensor, masks: _Masks,
                   forced: Forced) -> tuple[Tensor, dict[str, Tensor]]:
        levels = self.network.model.levels
        batch, heads, area = len(value), layer.heads, layer.window**2
        tokens, sees = _windows(layer.side, layer.window, layer.shift)
        index = _relative(layer.window)
        # [B, windows, area, 3, heads, d] -> three of [B, windows, heads, area, d]
        parts = value[:, tokens].view(batch, -1, area, 3, heads, layer.head_size).permute(3, 0, 1, 4, 2, 5).float()
        q, k, v = parts.unbind(0)
        score = (q @ k.transpose(-1, -2)).to(torch.int32)
        scores = _fire((score << SCORE_SHIFT) + (layer.score_threshold >> 1), layer.score_threshold, levels)
        a = forced.get((layer.name, "fired_scores"), scores)
        if masks.mask is not None:
            block = layer.name.rpartition(".")[0]
            a = masks.apply(a.reshape(batch, -1, area), "scores", block, self.rows[block].scores).view(a.shape)
        place = torch.arange(heads)[:, None, None] * (2 * layer.window - 1) ** 2 + index
        place = (place * (levels + 1))[None, None] + a
        num = _tensor(layer.rom_num.reshape(-1))[place] * sees[None, :, None]
        den = _tensor(layer.rom_den.reshape(-1))[place] * sees[None, :, None]
        dtype = _exact_dtype(int(layer.rom_num.max()) * levels * area)
        total = (num.to(dtype) @ v.to(dtype)).to(torch.int32)
        d = den.sum(-1, keepdim=True).to(torch.int32)
        count = _fire(total + (d >> 1), d, levels).transpose(2, 3).reshape(batch, -1, area, heads * layer.head_size)
        out = torch.empty(batch, layer.tokens, count.shape[-1], dtype=torch.int32)
        out[:, tokens.reshape(-1)] = count.reshape(batch, layer.tokens, -1)
        count = forced.get((layer.name, "fired"), out)
        return count, {"counts": count, "fired": out, "scores": a, "fired_scores": scores}


def _kernel(weight: Tensor, gather: Gather) -> Tensor:
    """Weights [out, (kx, ky, c)] as those of a convolution, [out, c, ky, kx]."""
    return weight.view(len(weight), gather.kernel, gather.kernel, -1).permute(0, 3, 2, 1).contiguous()


def _windows(side: int, window: int, shift: int) -> tuple[Tensor, Tensor]:
    """Token at each place [windows, area], and which pairs see each other, 0/1 int32 [windows, area, area]."""
    across = side // window
    inside, place = np.arange(window), np.arange(across)[:, None]
    line = (place * window + inside + shift) % side
    tokens = line[:, None, :, None] * side + line[None, :, None, :]
    group = np.zeros((across, window), np.int64)
    if shift:
        group[-1] = inside >= window - shift
    zone = 2 * group[:, None, :, None] + group[None, :, None, :]
    zone = zone.reshape(across * across, -1)
    return (torch.from_numpy(tokens.reshape(across * across, -1)),
            torch.from_numpy((zone[:, :, None] == zone[:, None, :]).astype(np.int32)))


def _relative(window: int) -> Tensor:
    y, x = np.divmod(np.arange(window * window), window)
    span = 2 * window - 1
    return torch.from_numpy((y[:, None] - y + window - 1) * span + x[:, None] - x + window - 1)
