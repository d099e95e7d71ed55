"""Memory contents of one tile of output channels: its weight rows, and the parameters of its neurons and residuals."""

import numpy as np
from numpy.typing import NDArray

from hwgen.config import MachineConfig
from hwgen.layout import Buffer
from hwgen.parameters import BRANCH, NEURON, pack_channel
from quantize.layers import Gemm

Ints = NDArray[np.int64]

SILENT_NEURON = {"offset": -1, "threshold": 1, "select": 0}
SILENT_BRANCH = {"gain": 0, "negate": 0, "offset": -1, "threshold": 1}
"""Lanes without a channel never fire."""


def weight_rows(m: MachineConfig, layer: Gemm, source: Buffer, channels: Ints) -> list[int]:
    """Rows of the tile whose lanes hold output `channels` (-1: none), one for each input lane of `source`, by gathered token."""
    used = channels >= 0
    phases = layer.inputs // source.channels if layer.kind == "merge" else 1
    rows = np.zeros((phases, source.rows, m.lanes), np.int64)
    for word, lanes in enumerate(source.channel_map):
        for lane in np.flatnonzero(lanes >= 0):
            for phase in range(phases):
                column = phase * source.channels + int(lanes[lane])
                rows[phase, word * source.row_step + lane, used] = layer.weight[channels[used], column]
    return packed_rows(rows.reshape(-1, m.lanes), m.weight_bits)


def fire_parameters(
    m: MachineConfig, layer: Gemm, channels: Ints, groups: int, sites: tuple[str, ...]
) -> tuple[list[int], list[int]]:
    """Words of the neuron and of the branch memory for the tile; no branch words for a layer without a residual."""
    neurons, branches = [], []
    for group in range(groups):
        neuron = branch = 0
        for lane in range(m.fire_lanes):
            channel = int(channels[group * m.fire_lanes + lane])
            values = _neuron(layer, channel, sites) if channel >= 0 else SILENT_NEURON
            neuron |= pack_channel(NEURON, values) << lane * NEURON.size
            branch |= pack_channel(BRANCH, _branch(layer, channel)) << lane * BRANCH.size
        neurons.append(neuron)
        if layer.residual is not None:
            branches.append(branch)
    return neurons, branches


def _neuron(layer: Gemm, channel: int, sites: tuple[str, ...]) -> dict[str, int]:
    bias = int(layer.bias[channel])
    if layer.threshold is None:
        return {"offset": bias, "threshold": 1, "select": 0}
    threshold = int(layer.threshold[channel])
    return {"offset": bias + (threshold >> 1), "threshold": threshold, "select": _select(layer, channel, sites)}


def _branch(layer: Gemm, channel: int) -> dict[str, int]:
    values = dict(SILENT_BRANCH)
    if channel < 0:
        return values
    if layer.residual is not None:
        values["gain"] = int(layer.residual.gain[channel])
    if layer.norm is not None:
        threshold = int(layer.norm.threshold[channel])
        values |= {
            "negate": int(layer.norm.negate[channel]),
            "threshold": threshold,
            "offset": int(layer.norm.bias[channel]) + (threshold >> 1),
        }
    return values


def _select(layer: Gemm, channel: int, sites: tuple[str, ...]) -> int:
    """Which ratio of the descriptor masks the channel: 1 for q, 2 for k; 1 for all channels of any other masked layer."""
    if layer.kind != "qkv":
        return int(bool(sites))
    third = layer.outputs // 3
    return 1 if channel < third and "q" in sites else 2 if third <= channel < 2 * third and "k" in sites else 0


def packed_rows(rows: Ints, bits: int) -> list[int]:
    """Signed rows [rows, lanes] as integers, lane 0 lowest, `bits` a weight."""
    if bits == 8:
        return [int.from_bytes(row.astype(np.int8).tobytes(), "little") for row in rows]
    mask = (1 << bits) - 1
    return [sum((int(value) & mask) << bits * lane for lane, value in enumerate(row)) for row in rows]
