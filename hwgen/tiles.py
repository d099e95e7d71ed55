"""Memory contents of one tile of output channels: its weight rows, and the parameters of its neurons and residuals."""

import numpy as np
from numpy.typing import NDArray

from hwgen.config import MachineConfig
from hwgen.layout import Buffer
from hwgen.parameters import BRANCH, NEURON, pack_channels
from quantize.layers import Gemm, Residual

Ints = NDArray[np.int64]


def tile_rows(layer: Gemm, source: Buffer) -> int:
    """Weight rows of a tile of `layer`: one for each input lane of `source`, by gathered token."""
    return source.rows * (layer.inputs // source.channels)


def weight_rows(m: MachineConfig, layer: Gemm, source: Buffer, channels: Ints) -> list[int]:
    """Rows of the tile whose lanes hold output `channels` (-1: none), one for each input lane of `source`, by gathered token."""
    used = channels >= 0
    phases = tile_rows(layer, source) // source.rows
    word, lane = np.nonzero(source.channel_map >= 0)
    column = source.channel_map[word, lane] + source.channels * np.arange(phases)[:, None]
    rows = np.zeros((phases, source.rows, m.lanes), np.int8)
    tile = layer.weight[channels[used]].astype(np.int8)
    rows[:, (word * source.row_step + lane)[:, None], np.flatnonzero(used)] = tile.T[column]
    return packed_rows(rows.reshape(-1, m.lanes), m.weight_bits)


def fire_parameters(
    m: MachineConfig, layer: Gemm, channels: Ints, groups: int, sites: tuple[str, ...]
) -> tuple[list[int], list[int]]:
    """Words of the neuron and of the branch memory for the tile; no branch words for a layer without a residual."""
    channels = channels[:groups * m.fire_lanes]
    neurons = _words(pack_channels(NEURON, _neurons(m, layer, channels, sites)), m.fire_lanes)
    if layer.residual is None:
        return neurons, []
    return neurons, _words(pack_channels(BRANCH, _branches(m, layer, layer.residual, channels)), m.fire_lanes)


def _neurons(m: MachineConfig, layer: Gemm, channels: Ints, sites: tuple[str, ...]) -> dict[str, Ints]:
    bias = layer.bias[channels]
    if layer.threshold is None:  # stepwise, the sums of all steps begin at half a threshold: at 0
        values = {"offset": bias, "threshold": np.full_like(bias, int(not m.stepwise)), "select": np.zeros_like(bias)}
    else:
        threshold = layer.threshold[channels]
        values = {"offset": bias + _initial(m, threshold), "threshold": threshold, "select": _select(layer, channels, sites)}
    return _silent(values, channels)


def _branches(m: MachineConfig, layer: Gemm, residual: Residual, channels: Ints) -> dict[str, Ints]:
    gain = residual.gain[channels]
    if layer.norm is None:
        return _silent({"gain": gain, "negate": 0 * gain, "offset": 0 * gain - 1, "threshold": 0 * gain + 1}, channels)
    threshold = layer.norm.threshold[channels]
    return _silent({"gain": gain, "negate": layer.norm.negate[channels],
                    "offset": layer.norm.bias[channels] + _initial(m, threshold), "threshold": threshold}, channels)


def _initial(m: MachineConfig, threshold: Ints) -> Ints:
    """Half a threshold with each charge; a stepwise machine adds it itself, before the first time step."""
    return 0 * threshold if m.stepwise else threshold >> 1


def _silent(values: dict[str, Ints], channels: Ints) -> dict[str, Ints]:
    """`values`, those of lanes without a channel such that they never fire."""
    never = {"offset": -1, "threshold": 1}
    return {name: np.where(channels < 0, never.get(name, 0), given) for name, given in values.items()}


def _select(layer: Gemm, channels: Ints, sites: tuple[str, ...]) -> Ints:
    """Which ratio of the descriptor masks a channel: 1 for q, 2 for k; 1 for all channels of any other masked layer."""
    if layer.kind != "qkv":
        return np.full(len(channels), int(bool(sites)))
    third = layer.outputs // 3
    q, k = channels < third, (third <= channels) & (channels < 2 * third)
    return np.where(q, int("q" in sites), np.where(k, 2 * int("k" in sites), 0))


def _words(bits: NDArray[np.uint8], lanes: int) -> list[int]:
    """Bits [channels, size] as words of `lanes` channels, the first lowest."""
    data = np.packbits(bits.reshape(len(bits) // lanes, -1), axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in data]


def packed_rows(rows: NDArray[np.int8], bits: int) -> list[int]:
    """Signed rows [rows, lanes] as integers, lane 0 lowest, `bits` (4 or 8) a weight."""
    held = rows.view(np.uint8) if bits == 8 else rows[:, ::2].view(np.uint8) & 15 | rows[:, 1::2].view(np.uint8) << 4
    size, data = held.shape[1], held.tobytes()
    return [int.from_bytes(data[at:at + size], "little") for at in range(0, len(data), size)]
