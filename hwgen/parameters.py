"""Layouts of the fire unit's parameters, one per channel: the compiler packs them, the hardware unpacks them."""
from amaranth.hdl import signed
from amaranth.lib import data

from hwgen.config import MachineConfig
from quantize.formats import BIAS_BITS, GAIN_BITS, THRESHOLD_BITS

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


def _field(value: int, bits: int, is_signed: bool, name: str) -> int:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if is_signed else (0, (1 << bits) - 1)
    if not low <= value <= high:
        raise ValueError(f"fire parameter {name} is {value}: it does not fit {bits} bits")
    return value & (1 << bits) - 1


def pack_channel(layout: data.StructLayout, values: dict[str, int]) -> int:
    """Pack one channel; ValueError names the field that does not fit."""
    word = 0
    for name, field in layout:
        shape = field.shape
        bits = shape if isinstance(shape, int) else shape.width
        is_signed = not isinstance(shape, int) and shape.signed
        word |= _field(int(values[name]), bits, is_signed, name) << field.offset
    return word
