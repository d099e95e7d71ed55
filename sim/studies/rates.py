"""Firing rates: how many of a layer's neurons spike, and how often."""
import numpy as np
from numpy.typing import NDArray

from model.masking import SpikeMask
from quantize.layers import Attention
from sim.golden.network import run
from sim.ops import plane_spikes
from sim.studies import chart
from sim.studies.setting import COUNTED, Setting
from sim.studies.table import Table


def study(setting: Setting) -> tuple[Table, str]:
    """Counts that each layer fires, after the configuration's mask, on the first images."""
    images = setting.images[:COUNTED]
    trace = run(setting.network, images, mask=SpikeMask.of(setting.config.masking))
    levels, planes = setting.config.model.levels, setting.config.model.planes
    fired: dict[str, NDArray[np.int32]] = {}
    for layer in setting.network.layers:
        found = trace.outputs[layer.name]
        if layer.kind == "qkv":
            fired |= dict(zip((f"{layer.name}.{part}" for part in "qkv"), np.split(found["counts"], 3, axis=-1), strict=True))
        elif "counts" in found or "next" in found:
            fired[layer.name] = found["counts" if "counts" in found else "next"]
        if isinstance(layer, Attention):
            fired[f"{layer.name}.scores"] = trace.scores[layer.name]
    rows: list[list[str | int | float | None]] = []
    for name, counts in fired.items():
        neurons = counts[0].size
        rows.append([name, neurons, float((counts > 0).mean()), float(counts.mean()) / levels, float(counts.mean()),
                     plane_spikes(counts, planes) / counts.size])
    table = Table(f"{setting.config.name}: firing rates by layer",
                  ["layer", "neurons", "neurons that fire", "firing rate", "spikes a neuron (rate code)",
                   "spikes a neuron (phase code)"], rows, frozenset({"neurons that fire", "firing rate"}),
                  setting.notes(f"Integer network, `exact`, T = L = {levels}; means of the first {len(images)} images; "
                                "firing rate: spikes over neurons and time steps."))
    return table, chart.bars(table.title, [str(row[0]) for row in rows],
                             {name: [float(row[at] or 0) for row in rows]
                              for name, at in (("neurons that fire", 2), ("firing rate", 3))})
