"""Direct training against plain conversion: accuracy and synaptic operations of `stepwise` at few time steps, in integers.

Every network is folded into integers, and masked as it was trained; the paper names direct training with masking as future work.
"""
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model import checkpoint
from model.masking import SpikeMask
from quantize.export import export
from quantize.layers import Attention, Network
from sim.golden.attention import geometry, heads_of
from sim.golden.network import Trace
from sim.golden.stepwise import run_stepwise
from sim.ops import plane_spikes
from sim.studies import chart
from sim.studies.setting import COUNTED, Setting
from sim.studies.table import Table

STEPS = (1, 2, 4, 8, 16)


def step_sops(network: Network, trace: Trace) -> int:
    """Synaptic operations of one time step for all images of `trace`: additions of one channel, as `sim.ops` counts them.

    A layer: spikes (or set bits of its input values) times its outputs. Attention: the ones among the AND products of q and k,
    and for every spike of v each query that may see it.
    """
    total = 0
    for layer in network.layers:
        values = trace.inputs[layer.name]
        if isinstance(layer, Attention):
            where = geometry(layer)
            q, k, v = (part.astype(np.int64) for part in heads_of(values, layer, where))  # [B, windows, heads, n, d]
            seen = where.allowed.sum(axis=1)  # [windows, n]: queries that see key j
            total += int((q.sum(axis=3) * k.sum(axis=3)).sum()) + int((v.sum(axis=4) * seen[:, None]).sum())
        else:
            spikes = int(values.sum(dtype=np.int64)) if network.takes_spikes(layer) else plane_spikes(values, layer.in_bits)
            total += spikes * layer.outputs
    return total


def study(setting: Setting, checkpoints: list[Path]) -> tuple[Table, str]:
    """The configuration's own network converted, then each of `checkpoints`, masked as its metadata says it was trained."""
    rows: list[list[str | int | float | None]] = []
    lines: dict[str, list[tuple[float, float]]] = {}
    for path in tqdm([setting.checkpoint, *checkpoints], desc="direct", unit="network"):
        model, info = checkpoint.load(path)
        checkpoint.expect(path, model, setting.config.model)
        mask = SpikeMask.of(model.masking)
        network = export(model, setting.config)
        classes = run_stepwise(network, setting.images, STEPS[-1], mask=mask).classes
        counted = run_stepwise(network, setting.images[:COUNTED], STEPS[-1], mask=mask, keep=True)
        sops = np.cumsum([step_sops(network, trace) for trace in counted.steps]) / len(setting.images[:COUNTED])
        name = f"{path.stem}" + (f", ratio {model.masking.ratio:g}" if model.masking.active else "")
        trained = f"directly, T = {info['steps']}" if "direct" in info else "converted"
        for step in STEPS:
            share = float((classes[step - 1] == setting.labels).mean())
            rows.append([name, trained, step, share, float(sops[step - 1])])
            lines.setdefault(name, []).append((float(step), share))
    table = Table(f"{setting.config.name}: direct training against plain conversion, `stepwise`",
                  ["network", "trained", "T", "accuracy", "SOPs an image"], rows, frozenset({"accuracy"}),
                  setting.notes(f"Integers, `stepwise`; SOPs: means of {COUNTED} images."))
    return table, chart.lines(table.title, "time steps T", "accuracy", lines, log=True)
