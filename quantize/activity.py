"""How many events each layer's inputs carry, measured on sample images: the compiler predicts typical cycles from it."""
import numpy as np
from numpy.typing import NDArray

from quantize.layers import Attention, Network
from quantize.torch_integer import IntegerMST


def activity(network: Network, images: NDArray[np.uint8]) -> dict[str, float]:
    """Mean events (set bits of the bit planes) per input value of each GEMM layer, on images uint8 [B, H, W, C]."""
    outputs = IntegerMST(network).run(images)
    value, bits = images.astype(np.int64), network.model.in_bits
    found: dict[str, float] = {}
    for layer in network.layers:
        if not isinstance(layer, Attention):
            planes = (value & (1 << bits) - 1)[..., None] >> np.arange(bits) & 1
            found[layer.name] = round(float(planes.sum(axis=-1).mean()), 4)
        given = outputs[layer.name]
        for kind in ("next", "planes", "counts"):
            if kind in given:
                value = given[kind].numpy().astype(np.int64)
                requantise = None if isinstance(layer, Attention) else layer.requantise
                bits = network.model.planes if requantise is None else requantise.bits
                break
    return found
