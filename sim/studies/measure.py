"""What studies measure of the integer network: accuracy, and the means of operations, cycles and energy."""
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from hwgen.inputs import machine_of
from hwgen.program import compile_network, sized
from model.config import MaskingConfig
from model.masking import SpikeMask
from quantize.layers import Network
from sim import energy
from sim.golden.network import run
from sim.ops import LayerOps, count, mean, memories
from sim.studies.setting import COUNTED, Setting

ATTENTION, MLP = ("qkv", "attn", "proj"), ("fc1", "fc2")
"""Kinds of the layers of a block's two halves."""


LayerCost = tuple[LayerOps, dict[str, float]]
"""Mean counts of a layer, and its energy in pJ by column."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Means of an image: cycles (predicted), synaptic operations, and energy in pJ by column of `sim.energy.COLUMNS`."""

    cycles: float
    sops: float
    energy_pj: dict[str, float]


def accuracy(setting: Setting, mask: SpikeMask | None, network: Network | None = None) -> float:
    """Share of the setting's images that the integer network classifies correctly under `mask`."""
    trace = run(network or setting.network, setting.images, mask=mask, keep=False)
    return float((trace.classes == setting.labels).mean())


def masking_of(setting: Setting, sites: Sequence[str], ratio: float) -> MaskingConfig:
    """The configuration's masking with other sites, and `ratio` rounded to 1/256."""
    return dataclasses.replace(setting.config.masking, sites=tuple(sites), ratio=round(ratio * 256) / 256, ratios=())


def layer_costs(setting: Setting, masking: MaskingConfig, mask: SpikeMask | None = None) -> list[LayerCost]:
    """Mean counts of each layer over the first COUNTED images, and its energy by column."""
    program = compile_network(setting.network, machine_of(setting.config), masking)
    program.machine = sized(program.machine, program)
    images = setting.images[:COUNTED]
    trace = run(setting.network, images, mask=mask or SpikeMask.of(masking))
    constants, capacities = energy.load(), memories(program.machine)
    return [(layer, energy.energy(layer, constants, capacities)) for layer in mean(count(program, trace, images))]


def cost(layers: Sequence[LayerCost], kinds: Sequence[str] = ()) -> Cost:
    """Sums over `layers` of these `kinds` (all, if none are given)."""
    chosen = [(layer, pj) for layer, pj in layers if not kinds or layer.kind in kinds]
    return Cost(sum(layer.cycles for layer, _ in chosen), sum(layer.sops for layer, _ in chosen),
                {column: sum(pj[column] for _, pj in chosen) for column in energy.COLUMNS})
