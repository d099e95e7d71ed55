"""Attention maps of one image under several masking ratios: before conversion (QCFS) and after (integers, `stepwise`).

A map shows how much attention each token receives in one block: the softmax weight of its key, averaged over the queries of
its window and over heads, at the token's place.
"""
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.attention import WindowAttention
from model.masking import SpikeMask
from model.mst import MST
from model.neuron import Engine, StepwiseEngine
from quantize.layers import Attention
from sim.golden.attention import Softmax, geometry
from sim.golden.network import run
from sim.studies import chart
from sim.studies.measure import masking_of
from sim.studies.setting import Setting
from sim.studies.table import Table

RATIOS = (0.0, 0.25, 0.5, 0.75)
STEPS = 16
KINDS = ("QCFS, before", "integers, after", f"stepwise, T = {STEPS}")
Map = NDArray[np.float64]


def received(layer: Attention, weights: Map) -> Map:
    """Map [side, side] of softmax weights [windows, heads, n queries, n keys]."""
    found = np.zeros(layer.side**2)
    found[geometry(layer).token] = weights.mean(axis=(1, 2))
    return found.reshape(layer.side, layer.side)


def integer_weights(layer: Attention, scores: NDArray[np.int32], levels: int) -> Map:
    """Softmax weights [windows, heads, n, n] of masked score counts of the same shape: ROM entry over the row's sum."""
    rom = Softmax.of(layer, geometry(layer), levels)
    index = (scores + rom.place).astype(np.intp)
    return np.asarray(rom.num.take(index) / rom.den.take(index).sum(axis=-1, keepdims=True), np.float64)


class _Watching:
    """Mixed into an engine: adds up the softmax weights of every block's masked scores."""

    weights: dict[str, Tensor]

    def watch(self, model: MST) -> None:
        """Begin to watch `model`'s attention layers."""
        self.weights = {}
        self.layers = {module.score_act.name: module for module in model.modules() if isinstance(module, WindowAttention)}

    def mask(self, name: str, x: Tensor, rows: int, arrange: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """See Engine.mask."""
        kept: Tensor = super().mask(name, x, rows, arrange)  # type: ignore[misc]
        if name in self.layers:
            layer = self.layers[name]
            seen = torch.softmax(kept + layer.score_bias() + layer.region[:, None], -1)
            self.weights[name] = self.weights.get(name, torch.zeros_like(seen)) + seen
        return kept


class _WatchingQcfs(_Watching, Engine):
    """The QCFS network, watched."""


class _WatchingStepwise(_Watching, StepwiseEngine):
    """The `stepwise` network, watched."""


@torch.no_grad()
def study(setting: Setting, index: int = 0) -> tuple[Table, str]:
    """Maps of image `index` at every ratio of RATIOS (attention's sites), for the last block of each stage."""
    levels = setting.config.model.levels
    image = setting.images[index:index + 1]
    last: dict[str, Attention] = {}  # by stage
    for layer in setting.network.layers:
        if isinstance(layer, Attention):
            last[layer.name.split(".")[0]] = layer
    columns, rows = ["image", *(f"ratio {ratio:g}" for ratio in RATIOS)], []
    cells: list[list[NDArray[np.float64]]] = []
    found: dict[tuple[str, float, str], Map] = {}
    for ratio in RATIOS:
        masking = masking_of(setting, ("q", "k", "scores") if ratio else (), ratio)
        trace = run(setting.network, image, mask=SpikeMask.of(masking), first_image=index)
        model = MST(setting.transformer, masking).eval()
        model.load_state_dict(setting.model.state_dict())
        pixels, number = model.normalise(torch.from_numpy(image).permute(0, 3, 1, 2)), torch.tensor([index])
        plain, stepped = _WatchingQcfs(model._masks(1, number)), _WatchingStepwise()
        plain.watch(model)
        stepped.watch(model)
        model.run(pixels, plain)
        for step in range(STEPS):
            stepped.masks = model._masks(1, number, step)
            model.run(pixels, stepped)
        for layer in last.values():
            name = layer.name.replace(".attn", ".scores")
            seen = (plain.weights[name].numpy(), integer_weights(layer, trace.scores[layer.name][0], levels),
                    stepped.weights[name].numpy() / STEPS)
            found |= {(layer.name, ratio, kind): received(layer, weights) for kind, weights in zip(KINDS, seen, strict=True)}
    table_rows: list[list[str | int | float | None]] = []
    for layer in last.values():
        for kind in KINDS:
            rows.append(f"{layer.name}: {kind}")
            cells.append([image[0] / 255.0 if image.shape[-1] == 3 else 1 - image[0, ..., 0] / 255.0,
                          *(found[layer.name, ratio, kind] for ratio in RATIOS)])
            for ratio in RATIOS:
                table_rows.append([layer.name, kind, ratio,
                                   _correlation(found[layer.name, ratio, kind], found[layer.name, 0.0, KINDS[0]])])
    table = Table(f"{setting.config.name}: attention maps of test image {index} (class {setting.labels[index]})",
                  ["block", "network", "ratio", "correlation with the unmasked QCFS map"], table_rows,
                  notes=setting.notes("A map: softmax weight that each token's key receives, mean over the queries of its window "
                                      "and over heads; mask at q, k and scores."))
    return table, chart.grid(table.title, columns, rows, cells)


def _correlation(a: Map, b: Map) -> float | None:
    if a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
