"""The integer network beside the float QCFS model: accuracy of both, and per layer the share of equal spike counts."""
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from model.conv_config import ConvConfig
from model.masking import SpikeMask
from model.spiking import SpikingNetwork
from quantize.layers import Gemm, Network
from quantize.torch_integer import Forced, IntegerMST, Outputs

CHUNK = 100
"""Images at a time: bounds the memory."""

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Row:
    """One activation: share of equal counts when the layer's input is the float model's (`alone`) and when both
    networks run freely (`equal`); then also the mean absolute difference, and the float model's mean count."""

    name: str
    alone: float
    equal: float
    difference: float
    mean: float


def _float_images(mst: SpikingNetwork, images: Images) -> Tensor:
    return mst.normalise(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))))


def _mask(mst: SpikingNetwork) -> SpikeMask | None:
    return SpikeMask.of(mst.masking) if mst.masking.active else None


def places(network: Network) -> dict[str, tuple[str, str, int]]:
    """Activation of the float model -> (layer, key of its outputs, which third of the channels or -1 for all)."""
    found: dict[str, tuple[str, str, int]] = {}
    if isinstance(network.model, ConvConfig):
        for layer in network.layers[:-1]:
            found[layer.name] = layer.name, "fired", -1
            if isinstance(layer, Gemm) and layer.norm is not None:
                found[f"{layer.name}.act"] = layer.name, "fired_next", -1
        return found
    names = [layer.name for layer in network.layers[:-1]]
    for name, following in zip(names, [*names[1:], ""], strict=True):
        block, _, kind = name.rpartition(".")
        if kind == "qkv":
            found |= {f"{block}.{part}": (name, "fired", third) for third, part in enumerate("qkv")}
        elif kind == "attn":
            found |= {f"{block}.scores": (name, "fired_scores", -1), f"{block}.out": (name, "fired", -1)}
        else:
            found[name] = name, "fired", -1
        if kind == "proj":
            found[f"{block}.act2"] = name, "fired_next", -1
        elif following.endswith(".qkv"):
            found[following.removesuffix("qkv") + "act1"] = name, "fired_next", -1
    return found


def integer_counts(network: Network, outputs: Outputs) -> dict[str, Tensor]:
    """Counts of an integer run, as fired (before any mask), by the names and with the shapes of the float model's `counts`."""
    found = {}
    for activation, (layer, key, third) in places(network).items():
        counts = outputs[layer][key]
        found[activation] = counts if third < 0 else counts.chunk(3, -1)[third]
    return found


def forced_counts(network: Network, counts: dict[str, Tensor]) -> Forced:
    """The float model's counts as what an integer run is to go on with."""
    parts: dict[tuple[str, str], list[Tensor]] = {}
    for activation, (layer, key, _) in places(network).items():
        parts.setdefault((layer, key), []).append(counts[activation].to(torch.int32))
    return {place: torch.cat(tensors, -1) for place, tensors in parts.items()}


class _Tally:
    """Sums over batches, by activation."""

    def __init__(self) -> None:
        self.sums: dict[str, NDArray[np.float64]] = {}

    def add(self, name: str, *values: float) -> None:
        self.sums[name] = self.sums.get(name, np.zeros(len(values))) + values


def agreement(mst: SpikingNetwork, network: Network, images: Images, progress: bool = False) -> list[Row]:
    """One row per activation in network order, then the predicted class, for uint8 images [B, H, W, C].

    Both networks work with the masks of `mst`.
    """
    integer = IntegerMST(network, _mask(mst))
    tally = _Tally()
    for start in tqdm(range(0, len(images), CHUNK), desc="agreement", disable=not progress):
        part = images[start:start + CHUNK]
        pixels, index = _float_images(mst, part), torch.arange(start, start + len(part))
        wanted, logits = mst.counts(pixels, index), mst.logits(pixels, image_index=index)
        runs = [integer.run(part, start), integer.run(part, start, forced_counts(network, wanted))]
        free, alone = (integer_counts(network, outputs) for outputs in runs)
        for name, counts in wanted.items():
            equal = float((alone[name] == counts).sum())
            delta = (free[name] - counts).abs()
            tally.add(name, counts.numel(), equal, float((delta == 0).sum()), float(delta.sum()), float(counts.sum()))
        same = [float((outputs["head"]["logits"].argmax(1) == logits.argmax(1)).sum()) for outputs in runs]
        tally.add("predicted class", len(part), same[1], same[0], 0, 0)
    return [Row(name, *(sums[1:] / sums[0]).tolist()) for name, sums in tally.sums.items()]


@torch.no_grad()
def accuracies(mst: SpikingNetwork, network: Network, images: Images, labels: Labels,
               progress: bool = False) -> tuple[float, float]:
    """Accuracy (share of 1) of the float QCFS model and of the integer network on uint8 images [B, H, W, C]."""
    integer = IntegerMST(network, _mask(mst))
    right_float = right_integer = 0
    for start in tqdm(range(0, len(images), CHUNK), desc="accuracy", disable=not progress):
        part, truth = images[start:start + CHUNK], labels[start:start + CHUNK]
        index = torch.arange(start, start + len(part))
        right_float += int((mst(_float_images(mst, part), index).argmax(1).numpy() == truth).sum())
        right_integer += int((integer.run(part, start)["head"]["logits"].argmax(1).numpy() == truth).sum())
    return right_float / len(images), right_integer / len(images)


def table(rows: list[Row]) -> str:
    """Markdown table of `rows`."""
    lines = ["| activation | equal, this layer alone | equal | mean abs. difference | mean count |",
             "|---|---|---|---|---|"]
    for row in rows:
        tail = "| | |" if row is rows[-1] else f"| {row.difference:.4f} | {row.mean:.3f} |"
        lines.append(f"| {row.name} | {100 * row.alone:.2f} % | {100 * row.equal:.2f} % {tail}")
    return "\n".join(lines) + "\n"
