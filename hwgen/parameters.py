"""Layouts of the fire unit's parameters, one per channel: the compiler packs them, the hardware unpacks them."""
import numpy as np
from amaranth.hdl import Shape, signed
from amaranth.lib import data
from numpy.typing import NDArray

from hwgen.config import MachineConfig
from quantize.formats import BIAS_BITS, GAIN_BITS, THRESHOLD_BITS, limits

Ints = NDArray[np.int64]

OFFSET_BITS = BIAS_BITS + 1
"""A bias plus half a threshold: the initial potential, where the charge is added."""

NEURON = data.StructLayout({"offset": signed(OFFSET_BITS), "threshold": THRESHOLD_BITS, "select": 2})
"""The neuron after a GEMM. `select`: which ratio of the descriptor masks the channel (0: none)."""

BRANCH = data.StructLayout({"gain": signed(GAIN_BITS), "negate": 1, "offset": signed(OFFSET_BITS),
                            "threshold": THRESHOLD_BITS})
"""The residual's gain, and the neuron behind it."""


def neuron_words(m: MachineConfig) -> data.ArrayLayout:
    """A word of the neuron parameter memory: `fire_lanes` channels."""
    return data.ArrayLayout(NEURON, m.fire_lanes)


def branch_words(m: MachineConfig) -> data.ArrayLayout:
    """A word of the branch parameter memory."""
    return data.ArrayLayout(BRANCH, m.fire_lanes)


def pack_channels(layout: data.StructLayout, values: dict[str, Ints]) -> NDArray[np.uint8]:
    """Bits [N, size], lowest first, of N channels with `values` [N] of each field; ValueError names a field that does not fit."""
    parts = []
    for name, field in sorted(layout, key=lambda entry: entry[1].offset):
        shape = Shape.cast(field.shape)
        given = np.asarray(values[name], np.int64)
        low, high = limits(shape.width, shape.signed)
        wrong = given[(given < low) | (given > high)]
        if wrong.size:
            raise ValueError(f"fire parameter {name} is {wrong[0]}: it does not fit {shape.width} bits")
        parts.append(given[:, None] >> np.arange(shape.width) & 1)
    return np.concatenate(parts, axis=1).astype(np.uint8)


def pack_channel(layout: data.StructLayout, values: dict[str, int]) -> int:
    """One channel as an integer; ValueError names a field that does not fit."""
    bits = pack_channels(layout, {name: np.array([value]) for name, value in values.items()})
    return int.from_bytes(np.packbits(bits[0], bitorder="little").tobytes(), "little")
