"""Golden == naive loops, exactly, at every boundary; and each block of the golden, once mutated, is caught by that."""
import dataclasses
from collections.abc import Callable
from functools import partial, partialmethod
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import sim.golden.attention as attention
import sim.golden.fire as fire
import sim.golden.gemm as gemm
import sim.golden.network as walk
from model.config import SITES, ModelConfig, QuantizeConfig
from model.masking import SpikeMask, draws
from quantize.layers import Network
from quantize.random_network import random_images, random_network

SEED = 0x2545F491
MASKS: dict[str, dict[str, int]] = {
    "none": {}, "all": dict.fromkeys(SITES, 192), "mixed": {"k": 64, "fc2": 240},
    "scores": {"q": 0, "scores": 128, "fc1": 64},
    "blocks": {"q": 128, "s0.b0.fc2": 192, "s0.b1.q": 0, "s0.b1.scores": 64, "s1.b0.fc1": 224, "s0.b0.k": 32},
}


def model(image: int, channels: int, embedding: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int,
          levels: int, patch: int = 2, mlp: float = 1.0) -> ModelConfig:
    return ModelConfig(image, channels, 3, patch, embedding, depths, heads, window, mlp, levels)


MODELS = {
    "window2-shift": model(8, 1, 8, (2,), (1,), 2, 7, mlp=2.0),
    "window4-shift-two-stages": model(16, 3, 6, (2, 1), (1, 2), 4, 3),
    "window7-three-heads": model(28, 1, 6, (2,), (3,), 7, 15),
    "window7-clipped": model(28, 1, 3, (1, 1), (3, 3), 7, 1),
    "three-stages": model(16, 3, 6, (2, 1, 2), (3, 3, 1), 2, 1, mlp=1.5),
    "window3-patch1": model(6, 2, 4, (3,), (2,), 3, 7, patch=1),
}
FORMATS = {"three-stages": QuantizeConfig(4, 6, 4), "window3-patch1": QuantizeConfig(4, 16, 12)}
CASES = [("window2-shift", "none"), ("window2-shift", "all"), ("window4-shift-two-stages", "none"),
         ("window4-shift-two-stages", "blocks"),
         ("window4-shift-two-stages", "mixed"), ("window7-three-heads", "scores"), ("window7-clipped", "none"),
         ("three-stages", "none"), ("three-stages", "all"), ("window3-patch1", "none"), ("window3-patch1", "scores")]


def differences(trace: walk.Trace, expected: list[dict[str, dict[str, Any]]]) -> list[str]:
    """Boundaries at which the golden and the naive loops differ, or which only one of them has."""
    found = []
    for index, image in enumerate(expected):
        for layer, wanted in image.items():
            given = dict(trace.outputs[layer])
            for key in ("inputs", "before", "scores", "scores_before"):
                if layer in getattr(trace, key):
                    given[key] = getattr(trace, key)[layer]
            if given.keys() != wanted.keys():
                found.append(f"image {index} {layer}: has {sorted(given)}, not {sorted(wanted)}")
            for key in given.keys() & wanted.keys():
                assert given[key].dtype == np.int32
                if not np.array_equal(given[key][index], np.array(wanted[key])):
                    found.append(f"image {index} {layer}: {key}")
        if not np.array_equal(trace.logits[index], image["head"]["logits"]):
            found.append(f"image {index}: logits")
    return found


def naive_traces(naive: ModuleType, network: Network, images: Any, mask: str,
                 first: int) -> list[dict[str, dict[str, Any]]]:
    return [naive.run(network, image.tolist(), first + index, SEED, MASKS[mask]) for index, image in enumerate(images)]


@pytest.mark.parametrize(("name", "mask"), CASES)
def test_golden_equals_naive(naive: ModuleType, name: str, mask: str) -> None:
    shape = MODELS[name]
    network = random_network(shape, 11, FORMATS.get(name))
    images = random_images(shape, 3, 2)
    trace = walk.run(network, images, mask=SpikeMask(SEED, MASKS[mask]), first_image=6)
    assert differences(trace, naive_traces(naive, network, images, mask, 6)) == []
    bare = walk.run(network, images, mask=SpikeMask(SEED, MASKS[mask]), first_image=6, keep=False)
    assert np.array_equal(bare.logits, trace.logits)


def test_naive_neuron_has_two_equal_forms(naive: ModuleType) -> None:
    for levels in (1, 3, 7, 15):
        for threshold in (1, 2, 3, 10):
            for v in range(-30, 300):
                counts = naive.spikes(v, threshold, levels)
                assert counts == naive.spikes_by_phase(v, threshold, levels)
                assert counts == int(fire.fire(np.array(v), threshold, levels))


def test_naive_rows_equal_serial_stepping(naive: ModuleType) -> None:
    lfsr = naive.Lfsr(SEED, 9)
    state = SEED ^ 9
    for row in range(2):
        serial = []
        for _ in range(4096):
            for _ in range(8):
                state = lfsr.step(state)
            serial.append(state & 255)
        assert lfsr.row(row, 4096) == serial


# Mutations: (module, name, replacement). Each must make golden != naive on the network below.
def strict_fire(v: Any, threshold: Any, levels: int) -> Any:
    """Fires while v > threshold."""
    return np.clip((v - 1) // threshold, 0, levels).astype(np.int32)


def no_half(charge: Any, bias: Any, threshold: Any, levels: int) -> Any:
    return fire.fire(charge + bias, threshold, levels)


def inclusive_keep(self: SpikeMask, site: str, images: Any, row: int, rows: int, columns: int, first: int = 0,
                   block: str = "") -> Any:
    """Masks where draw <= ratio."""
    ratio = self.ratios.get(site, 0)
    return draws(self.seed, images, row, rows, first + columns)[:, :, first:] > ratio if ratio else None


def shifted(real: Callable[..., Any], layer: Any) -> Any:
    return real(dataclasses.replace(layer, shift=layer.shift + 1) if layer.shift else layer)


def unmasked_windows(real: Callable[..., Any], layer: Any) -> Any:
    where = real(layer)
    return dataclasses.replace(where, allowed=np.ones_like(where.allowed))


def transposed_relative(real: Callable[..., Any], layer: Any) -> Any:
    where = real(layer)
    return dataclasses.replace(where, relative=where.relative.T)


def no_half_scores(q: Any, k: Any, layer: Any, levels: int) -> Any:
    dot = (q @ k.swapaxes(-1, -2)) * 256
    return fire.fire(dot, layer.score_threshold, levels)


def swapped_heads(real: Callable[..., Any], counts: Any, layer: Any, where: Any) -> Any:
    q, k, v = real(counts, layer, where)
    return k, q, v


def no_rounding(stream: Any, to: Any) -> Any:
    top = 1 << to.bits - 1
    return np.clip(stream // 2**to.shift, -top, top - 1)


def symmetric_saturation(stream: Any, to: Any) -> Any:
    top = (1 << to.bits - 1) - 1
    return np.clip((stream + ((1 << to.shift) >> 1)) // 2**to.shift, -top, top)


def no_negation(real: Callable[..., Any], stream: Any, norm: Any, levels: int) -> Any:
    return real(stream, dataclasses.replace(norm, negate=norm.negate * 0), levels)


def never_fresh(stream: Any, counts: Any, add: Any) -> Any:
    if stream is not None and stream.shape != counts.shape:
        stream = stream[:, :counts.shape[1], :1]
    return (add.gain * counts + (0 if stream is None else stream)).astype(np.int32)


def one_more(real: Callable[..., Any], self: Any, values: Any) -> Any:
    return real(self, values) + 1


MUTATIONS: list[tuple[str, object, str, Any]] = [
    ("fire: > instead of >=", fire, "fire", strict_fire),
    ("fire: no half threshold", fire, "fire_biased", no_half),
    ("fire: no half threshold after a GEMM", walk, "fire_biased", no_half),
    ("residual: never fresh", walk, "residual", never_fresh),
    ("norm fire: sign flag ignored", walk, "norm_fire", partial(no_negation, fire.norm_fire)),
    ("requantise: no rounding", walk, "requantise", no_rounding),
    ("requantise: lowest value unused", walk, "requantise", symmetric_saturation),
    ("gemm: accumulator one too large", gemm.Weights, "sums", partialmethod(partial(one_more, gemm.Weights.sums))),
    ("gemm: merge phases in raster order", gemm, "PHASES", ((0, 0), (0, 1), (1, 0), (1, 1))),
    ("attention: > instead of >=", attention, "fire", strict_fire),
    ("attention: no half threshold for scores", walk, "scores", no_half_scores),
    ("attention: shift off by one", walk, "geometry", partial(shifted, attention.geometry)),
    ("attention: window mask ignored", walk, "geometry", partial(unmasked_windows, attention.geometry)),
    ("attention: relative position transposed", walk, "geometry", partial(transposed_relative, attention.geometry)),
    ("attention: q and k swapped", walk, "heads_of", partial(swapped_heads, attention.heads_of)),
    ("masking: <= instead of <", SpikeMask, "keep", inclusive_keep),
]


@pytest.fixture(scope="module")
def reference(naive: ModuleType) -> tuple[Network, Any, list[dict[str, dict[str, Any]]]]:
    """A small network with every kind of layer, images, and their naive traces under masks."""
    shape = model(16, 1, 4, (2, 1), (2, 1), 4, 7)
    network = random_network(shape, 5, QuantizeConfig(8, 8, 5))
    images = random_images(shape, 8, 3)
    return network, images, naive_traces(naive, network, images, "all", 0)


@pytest.mark.parametrize(("owner", "name", "replacement"), [entry[1:] for entry in MUTATIONS],
                         ids=[entry[0] for entry in MUTATIONS])
def test_mutated_golden_is_caught(reference: Any, monkeypatch: pytest.MonkeyPatch, owner: object, name: str,
                                  replacement: Any) -> None:
    network, images, expected = reference
    mask = SpikeMask(SEED, MASKS["all"])
    assert differences(walk.run(network, images, mask=mask), expected) == []
    monkeypatch.setattr(owner, name, replacement)
    assert differences(walk.run(network, images, mask=mask), expected) != []
