"""Energy of a layer in labelled columns, all of them modelled: counts from `sim.ops`, constants from energy.toml.

Scaling. An addition of up to 8 bits: in proportion to its width; from 8 to 32 bits: linear between the two published
figures; beyond: in proportion to 32 bits. A multiplication of a by b bits: a*b/64 of the 8-bit one. A memory access:
pJ per bit by a power law of the capacity between the published sizes, the smallest figure below them, the last slope
above. A row wider than 64 bits counts as several accesses. Control, clocks, wires and leakage are in no column.
"""
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from model.table import shown
from sim.ops import LayerOps, Tally

CONSTANTS = Path(__file__).with_name("energy.toml")
ARITHMETIC = {"float_mac": 32, "float_ac": 32, "int8_add": 8, "int32_add": 32, "int8_multiply": 8}
"""Constants that there must be, and the width that each must have."""
COLUMNS = {
    "ann_float_proxy": "the papers' proxy, dense ANN: MACs, 32-bit float",
    "snn_float_proxy": "the papers' proxy, this SNN: SOPs, 32-bit float additions",
    "snn_integer": "this machine: integer additions at their real widths",
    "snn_integer_memory": "this machine: the same and its memory accesses",
    "ann_serial_integer": "rival: equal-bit quantised ANN, dense and bit-serial on the same array: integer additions",
    "ann_serial_integer_memory": "the same rival with its memory accesses",
    "ann_multiplier_integer": "rival: equal-bit quantised ANN with integer multipliers, arithmetic only",
}
"""Columns of `energy`, in picojoules an image, and what each means."""


class EnergyError(ValueError):
    """A file of constants that cannot be used: the message names the constant and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Constant:
    """One published figure. `capacity_bytes` 0: arithmetic; else an access to a memory of that size."""

    value: float
    unit: str
    bits: int
    technology: str
    source: str
    capacity_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Constants:
    """The loaded figures, by name."""

    table: dict[str, Constant]

    def add(self, bits: int) -> float:
        """pJ of an integer addition (or subtraction, or comparison) of `bits` bits."""
        low, high = self.table["int8_add"], self.table["int32_add"]
        if bits <= low.bits:
            return low.value * bits / low.bits
        if bits >= high.bits:
            return high.value * bits / high.bits
        return low.value + (high.value - low.value) * (bits - low.bits) / (high.bits - low.bits)

    def multiply(self, a: int, b: int) -> float:
        """pJ of an integer multiplication of `a` by `b` bits."""
        known = self.table["int8_multiply"]
        return known.value * a * b / known.bits**2

    def access(self, capacity_bits: int) -> float:
        """pJ per bit of an access to an on-chip memory of `capacity_bits` bits."""
        known = sorted((entry.capacity_bytes * 8, entry.value / entry.bits) for entry in self.table.values()
                       if entry.capacity_bytes)
        if capacity_bits <= known[0][0]:
            return known[0][1]
        at = next((i for i in range(1, len(known)) if capacity_bits <= known[i][0]), len(known) - 1)
        (small, low), (large, high) = known[at - 1], known[at]
        slope = math.log(high / low) / math.log(large / small)
        return low * (capacity_bits / small)**slope

    def additions(self, tally: Tally) -> float:
        """pJ of additions by width."""
        return sum(amount * self.add(bits) for bits, amount in sorted(tally.items()))

    def sources(self) -> list[dict[str, object]]:
        """The constants as plain values, for a report."""
        return [{"name": name, **asdict(entry)} for name, entry in self.table.items()]


def load(path: Path = CONSTANTS) -> Constants:
    """Read and check a file of constants; EnergyError names the constant, the value and the remedy."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EnergyError(f"{path}: no such file of energy constants") from None
    except (ValueError, RecursionError) as error:
        raise EnergyError(f"{path}: not TOML that is read: {error}") from None
    table = {name: _constant(f"{path.name}: [{name if len(name) < 40 else shown(name)}]", entry) for name, entry in raw.items()}
    for name, bits in ARITHMETIC.items():
        if name not in table:
            raise EnergyError(f"{path.name}: lacks [{name}]: add it with its source")
        if table[name].bits != bits or table[name].capacity_bytes:
            raise EnergyError(f"{path.name}: [{name}] must be an operation of {bits} bits, not {table[name].bits}")
    sizes = [entry.capacity_bytes for entry in table.values() if entry.capacity_bytes]
    if len(set(sizes)) < 2 or len(set(sizes)) < len(sizes):
        raise EnergyError(f"{path.name}: needs at least 2 memories of different capacity_bytes, not {sizes}")
    return Constants(table)


def energy(layer: LayerOps, constants: Constants, capacities: Mapping[str, int]) -> dict[str, float]:
    """pJ of `layer` by column of `COLUMNS`. `capacities`: bits of each memory (`sim.ops.memories`).

    What follows the sums (neurons, residual, softmax sums) costs this machine and its rivals the same, as do all
    memories but the weights.
    """
    after = constants.additions(layer.fire_additions)
    snn, serial = (constants.additions(tally) + after for tally in (layer.additions, layer.dense_additions))
    shared = sum(bits * constants.access(capacities[name]) for name, bits in layer.memory_bits.items()
                 if name != "weights")
    weight = constants.access(capacities["weights"])
    table = constants.table
    return {
        "ann_float_proxy": layer.dense_macs * table["float_mac"].value,
        "snn_float_proxy": layer.sops * table["float_ac"].value,
        "snn_integer": snn,
        "snn_integer_memory": snn + shared + layer.memory_bits.get("weights", 0) * weight,
        "ann_serial_integer": serial,
        "ann_serial_integer_memory": serial + shared + layer.dense_weight_bits * weight,
        "ann_multiplier_integer": _multiplied(layer, constants) + after}


def break_even(layers: list[LayerOps], constants: Constants) -> tuple[float, float]:
    """SOPs per dense MAC at which this machine's sums cost what integer multipliers would, and those of `layers`."""
    sops, macs = sum(layer.sops for layer in layers), sum(layer.dense_macs for layer in layers)
    if not sops or not macs:
        return 0.0, 0.0
    each = sum(constants.additions(layer.additions) for layer in layers) / sops
    return sum(_multiplied(layer, constants) for layer in layers) / macs / each, sops / macs


def _multiplied(layer: LayerOps, constants: Constants) -> float:
    return sum(macs.count * (constants.multiply(macs.a, macs.b) + constants.add(macs.acc)) for macs in layer.macs)


def _constant(where: str, raw: object) -> Constant:
    kinds = {"value": (int, float), "unit": (str,), "bits": (int,), "technology": (str,), "source": (str,),
             "capacity_bytes": (int,)}
    if not isinstance(raw, dict):
        raise EnergyError(f"{where} must be a table, not {shown(raw)}")
    for key, value in raw.items():
        if key not in kinds:
            raise EnergyError(f"{where} has no key {shown(key)}; known: {', '.join(kinds)}")
        if type(value) not in kinds[key]:
            raise EnergyError(f"{where} {key} must be {kinds[key][-1].__name__}, not {shown(value)}")
        if not value or (not isinstance(value, str) and not 0 < value < math.inf):
            need = "given" if isinstance(value, str) else "positive"
            raise EnergyError(f"{where} {key} must be {need}, not {shown(value)}")
    lacking = [key for key in kinds if key not in raw and key != "capacity_bytes"]
    if lacking:
        raise EnergyError(f"{where} lacks {lacking[0]!r}")
    if raw["unit"] != "pJ":
        raise EnergyError(f"{where} unit must be 'pJ', not {shown(raw['unit'])}")
    return Constant(**raw)
