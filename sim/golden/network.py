"""The golden model: an integer network on images, layer by layer, bit-accurate (docs/semantics.md). numpy only."""
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model.config import CONV_SITE, AnyModel
from model.masking import MaskRows, SpikeMask, conv_rows, mask_rows
from quantize.layers import Attention, Gemm, Network
from sim.golden.attention import Geometry, Softmax, geometry, heads_of, scores, weighted
from sim.golden.fire import Counts, Exact, fire_biased, norm_fire, requantise, residual
from sim.golden.gemm import Weights, gathered, merged, patches, pooled

CHUNK_VALUES = 1 << 19
"""Values of the widest tensor that one chunk of images may hold: bounds the memory of a run."""

KEPT_BYTES = (1 << 25) - (1 << 16)
"""Just below the largest block that counts for glibc's rule (mallopt(3), M_MMAP_THRESHOLD)."""


@dataclass(slots=True)
class Trace:
    """What the hardware stores, layer by layer; every array is int32 and starts with the image index.

    `outputs[layer]`: after spike masking. "counts" [B, T, C] (qkv: C is 3C; attn; fc1; conv), "stream" and "next" [B, T, C]
    (embed, proj, merge, fc2; a convolution with a residual), "stream" and "planes" (last fc2 of a stage), "stream" alone (a
    projection shortcut, which hands nothing on), "logits" [B, classes] (head).
    `inputs[layer]` [B, T, C_in]: the layer's input values after masking; T: output tokens; attention: qkv's counts; a
    convolution: its input map, not gathered.
    `before[layer]`: the same before masking, only where its site is masked. `scores[attn]` [B, windows, heads, n, n]
    (query, key): after masking; `scores_before[attn]`: before it, only where scores are masked.
    Without `keep` all are empty but `logits` [B, classes].
    """

    logits: Counts
    outputs: dict[str, dict[str, Counts]] = field(default_factory=dict)
    inputs: dict[str, Counts] = field(default_factory=dict)
    before: dict[str, Counts] = field(default_factory=dict)
    scores: dict[str, Counts] = field(default_factory=dict)
    scores_before: dict[str, Counts] = field(default_factory=dict)

    @property
    def classes(self) -> NDArray[np.int64]:
        """Predicted class [B]: the first index of the largest logit."""
        return np.argmax(self.logits, axis=1)


def check_images(model: AnyModel, images: object) -> None:
    """ValueError, in one line, unless `images` is uint8 [B, H, W, C] of this model, within its `in_bits`."""
    side, channels = model.image_size, model.in_channels
    need = f"this network takes uint8 [B, {side}, {side}, {channels}]"
    if not isinstance(images, np.ndarray):
        raise ValueError(f"images are a {type(images).__name__}, not an array: {need}")
    if images.dtype != np.uint8:
        raise ValueError(f"images have dtype {images.dtype}: {need}")
    if images.ndim != 4 or images.shape[1:] != (side, side, channels):
        raise ValueError(f"images have shape {list(images.shape)}: {need}")
    top = (1 << model.in_bits) - 1
    if top < 255 and images.size and int(images.max()) > top:
        raise ValueError(f"images hold the value {images.max()}: this network takes 0 to {top} (in_bits = {model.in_bits})")


def run(network: Network, images: NDArray[np.uint8], *, mask: SpikeMask | None = None, first_image: int = 0,
        keep: bool = True) -> Trace:
    """Run `network` on images uint8 [B, H, W, C].

    `mask`: Random Spike Masking; image number `first_image + index` picks the draws. `keep=False` keeps logits only,
    in bounded memory. ValueError: images of a wrong shape or dtype, or image numbers beyond 32 bits.
    """
    check_images(network.model, images)
    if first_image < 0 or first_image + len(images) > 1 << 32:
        raise ValueError(f"image numbers {first_image}..{first_image + len(images) - 1} do not fit 32 bits: "
                         "lower first_image")
    walk = Walk(network, mask)
    parts = []
    for start in range(0, max(len(images), 1), walk.chunk):
        part = images[start:start + walk.chunk]
        parts.append(walk.run(part, np.arange(len(part), dtype=np.int64) + first_image + start, keep))
    return parts[0] if len(parts) == 1 else _joined(parts)


def images_at_once(network: Network) -> int:
    """Images of a chunk: as many as keep the widest tensor within CHUNK_VALUES, at least 1."""
    widest = 1
    for layer in network.layers:
        if isinstance(layer, Attention):
            widest = max(widest, layer.tokens * layer.heads * layer.window**2)
        else:
            widest = max(widest, layer.tokens * max(layer.inputs, layer.outputs))
    return max(1, CHUNK_VALUES // widest)


def _joined(parts: list[Trace]) -> Trace:
    def join(pick: str) -> dict[str, Counts]:
        return {name: np.concatenate([getattr(part, pick)[name] for part in parts]) for name in getattr(parts[0], pick)}

    outputs = {layer: {what: np.concatenate([part.outputs[layer][what] for part in parts]) for what in found}
               for layer, found in parts[0].outputs.items()}
    return Trace(np.concatenate([part.logits for part in parts]), outputs, *(
        join(pick) for pick in ("inputs", "before", "scores", "scores_before")))


class Walk:
    """One network with its index tables, ready matrices and mask rows, ready to run chunks of images.

    Values between layers are integers in float32 (`sim.golden.fire`): one BLAS call makes a layer's sums, and the neurons
    work in place.
    """

    def __init__(self, network: Network, mask: SpikeMask | None) -> None:
        # glibc returns freed memory to the system only beyond twice the largest block ever mapped and freed: after this one,
        # chunks reuse each other's memory, and half of the time no longer goes into page faults.
        np.empty(KEPT_BYTES, np.uint8)
        self.network = network
        self.levels = network.model.levels
        self.mask = mask if mask is not None and any(mask.ratios.values()) else None
        self.rows: dict[str, MaskRows] = mask_rows(network.model) if self.mask else {}
        self.conv_rows = conv_rows(network.model) if self.mask else {}
        self.where: dict[str, Geometry] = {}
        self.rom: dict[str, Softmax] = {}
        self.weights: dict[str, Weights] = {}
        for layer in network.layers:
            if isinstance(layer, Attention):
                where = self.where[layer.name] = geometry(layer)
                self.rom[layer.name] = Softmax.of(layer, where, self.levels)
            else:
                largest = 1 << layer.in_bits - 1 if layer.in_signed else (1 << layer.in_bits) - 1
                self.weights[layer.name] = Weights.of(layer.weight, largest)
        self.chunk = images_at_once(network)

    def masked(self, site: str, block: str, counts: Exact, row: int, numbers: NDArray[np.int64], first: int = 0) -> Exact | None:
        """Counts [B, rows, columns] with the masked ones at 0; None where the site of `block` masks nothing."""
        if self.mask is None:
            return None
        kept = self.mask.keep(site, numbers, row, counts.shape[1], counts.shape[2], first, block)
        return None if kept is None else counts * kept

    def run(self, images: NDArray[np.uint8], numbers: NDArray[np.int64], keep: bool) -> Trace:
        """All layers on one chunk of images, `numbers` being their image numbers."""
        trace = Trace(np.zeros((len(images), self.network.model.classes), np.int32))
        values: Exact = patches(images, self.network.model.patch)
        unmasked: Exact | None = None
        stream: Exact | None = None
        for layer in self.network.layers:
            if isinstance(layer, Gemm) and layer.kind == "merge":
                values = merged(values, layer.side)
            elif isinstance(layer, Gemm) and layer.kind == "head":
                values = pooled(values)
            if keep:
                trace.inputs[layer.name] = values.astype(np.int32)
                if unmasked is not None:
                    trace.before[layer.name] = unmasked.astype(np.int32)
            if isinstance(layer, Attention):
                found = self.attention(layer, values, numbers, trace if keep else None)
            else:
                found = self.gemm(layer, values, stream)
                stream = found.get("stream", stream)
            final = next((key for key in ("counts", "next", "planes", "logits") if key in found), "")
            if final:  # else nothing is handed on: the next layer reads what this one read
                hidden = self.hide(layer.name, layer.kind, final, found[final], numbers)
                unmasked = found[final] if hidden is not None else None
                if hidden is not None:
                    found[final] = hidden
                values = found[final]
            if keep:
                trace.outputs[layer.name] = {what: given.astype(np.int32) for what, given in found.items()}
        trace.logits[:] = values
        return trace

    def gemm(self, layer: Gemm, values: Exact, stream: Exact | None) -> dict[str, Exact]:
        """One spike GEMM with what follows it, before spike masking."""
        if layer.gather is not None:
            values = gathered(values, layer.side, layer.gather)
        acc = self.weights[layer.name].sums(values)
        if layer.threshold is None:
            return {"logits": acc[:, 0].astype(np.int64) + layer.bias}
        counts = fire_biased(acc, layer.bias, layer.threshold, self.levels).astype(np.float32, copy=False)
        if layer.residual is None:
            return {"counts": counts}
        joined = residual(stream, counts, layer.residual)
        if layer.norm is not None:
            return {"stream": joined, "next": norm_fire(joined, layer.norm, self.levels)}
        if layer.requantise is None:
            return {"stream": joined}
        return {"stream": joined, "planes": requantise(joined, layer.requantise)}

    def attention(self, layer: Attention, values: Exact, numbers: NDArray[np.int64],
                  trace: Trace | None) -> dict[str, Exact]:
        """Windowed attention, its scores masked."""
        where = self.where[layer.name]
        q, k, v = heads_of(values, layer, where)
        a = scores(q, k, layer, self.levels)
        kept = self.masked_scores(layer, a, numbers)
        if trace is not None:
            if kept is not None:
                trace.scores_before[layer.name] = a.astype(np.int32)
            trace.scores[layer.name] = (a if kept is None else kept).astype(np.int32)
        if kept is not None:
            a = kept
        return {"counts": weighted(a, v, layer, where, self.levels, self.rom[layer.name])}

    def masked_scores(self, layer: Attention, a: Exact, numbers: NDArray[np.int64]) -> Exact | None:
        """Scores [B, windows, heads, n, n] with the masked ones at 0; None where nothing is masked."""
        if self.mask is None:
            return None
        block = layer.name.rpartition(".")[0]
        lines = a.reshape(len(a), layer.windows * layer.heads * layer.window**2, layer.window**2)
        kept = self.masked("scores", block, lines, self.rows[block].scores, numbers)
        return None if kept is None else kept.reshape(a.shape)

    def hide(self, name: str, kind: str, final: str, counts: Exact, numbers: NDArray[np.int64]) -> Exact | None:
        """The spike mask on what a layer hands on; None where nothing is masked."""
        block = name.rpartition(".")[0]
        if name in self.conv_rows:
            return self.masked(CONV_SITE, name, counts, self.conv_rows[name], numbers)
        if self.mask is None or final in ("planes", "logits") or kind not in ("qkv", "proj", "fc1"):
            return None
        rows = self.rows[block]
        if kind == "qkv":
            width = counts.shape[-1] // 3
            parts = [self.masked(site, block, counts[..., first:first + width], rows.qkv, numbers, first)
                     for site, first in (("q", 0), ("k", width))]
            if all(part is None for part in parts):
                return None
            q, k = (counts[..., index * width:(index + 1) * width] if part is None else part
                    for index, part in enumerate(parts))
            return np.concatenate([q, k, counts[..., 2 * width:]], axis=-1)
        # The input counts of fc1 leave proj's norm fire, those of fc2 leave fc1.
        return self.masked("fc1", block, counts, rows.fc1, numbers) if kind == "proj" else self.masked(
            "fc2", block, counts, rows.fc2, numbers)
