"""The golden model equals the integer-exact torch model, count by count, with and without spike masks."""
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from model.config import SITES, MaskingConfig, ModelConfig, load
from model.masking import SpikeMask
from quantize.layers import Attention, Gemm, Network, NetworkError
from quantize.network import load as load_network
from quantize.random_network import random_network
from sim.golden.network import run

torch = pytest.importorskip("torch", reason="torch cannot be imported: install its CPU build, see `make help`")
torch_integer = pytest.importorskip("quantize.torch_integer")
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[2]
CONFIG = load(ROOT / "configs" / "cifar10-tiny.toml")

SHAPES = {
    "tiny": CONFIG.model,
    "wide window, one channel": ModelConfig(image_size=28, in_channels=1, classes=3, patch=2, embedding=24, depths=(2,),
                                            heads=(3,), window=7, mlp_ratio=1.5, levels=15),
    "three stages, L=1": ModelConfig(image_size=16, in_channels=3, classes=4, patch=1, embedding=8, depths=(2, 1, 2),
                                     heads=(1, 1, 2), window=2, mlp_ratio=2.0, levels=1),
    "five heads, L=3": ModelConfig(image_size=16, in_channels=2, classes=10, patch=2, embedding=40, depths=(1, 2),
                                   heads=(5, 5), window=4, mlp_ratio=1.0, levels=3),
}
MASKS = {
    "none": None,
    "published 3/4": SpikeMask.of(MaskingConfig(("q", "k", "scores"), 0.75, 7)),
    "paper 1/4": SpikeMask.of(MaskingConfig(SITES, 0.25)),
    "by block": SpikeMask.of(MaskingConfig(("q",), 0.5, 3, (("fc1", 0.25), ("s0.b0.fc2", 0.75), ("s0.b1.q", 0.0),
                                                             ("s1.b0.scores", 0.25), ("s0.b0.k", 0.875)))),
    "mixed": SpikeMask(99, {"k": 240, "fc2": 64, "q": 0, "scores": 0, "fc1": 0}),
}


def assert_equal(network: Network, images: np.ndarray, mask: SpikeMask | None, first: int) -> None:
    golden = run(network, images, mask=mask, first_image=first)
    found = torch_integer.IntegerMST(network, mask).run(images, first)
    assert list(found) == [layer.name for layer in network.layers]
    for layer in network.layers:
        for what, wanted in golden.outputs[layer.name].items():
            given = found[layer.name][what].numpy()
            assert np.array_equal(given, wanted), (
                f"{layer.name} {what} differs first at {np.argwhere(given != wanted)[0].tolist()}")
        if isinstance(layer, Attention):
            given = found[layer.name]["scores"].numpy()
            assert np.array_equal(given, golden.scores[layer.name]), f"{layer.name} scores"


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_random_networks(shape: str, mask: str) -> None:
    model = SHAPES[shape]
    size = (2, model.image_size, model.image_size, model.in_channels)
    images = np.random.default_rng(5).integers(0, 256, size, np.uint8)
    assert_equal(random_network(model, seed=11), images, MASKS[mask], first=3)


@pytest.mark.parametrize("mask", MASKS)
def test_committed_network_on_real_images(mask: str) -> None:
    path = ROOT / "configs" / "cifar10-tiny.mstn"
    if not path.is_file():
        pytest.skip(f"{path.name} is missing: `make quantize` writes it")
    with np.load(ROOT / "configs" / "cifar10-sample.npz", allow_pickle=False) as sample:
        images = sample["images"][:6]
    assert_equal(load_network(path), images, MASKS[mask], first=0)


def test_predictions_are_the_golden_classes() -> None:
    network = random_network(SHAPES["five heads, L=3"], seed=2)
    images = np.random.default_rng(1).integers(0, 256, (7, 16, 16, 2), np.uint8)
    mask = MASKS["paper 1/4"]
    found = np.concatenate(list(torch_integer.IntegerMST(network, mask).predict(images, chunk=3)))
    assert np.array_equal(found, run(network, images, mask=mask).classes)


def test_a_changed_network_is_seen() -> None:
    """The comparison can fail: one weight off by one changes a count."""
    network = random_network(SHAPES["five heads, L=3"], seed=2)
    layer = network.layer("s0.b0.fc1")
    assert isinstance(layer, Gemm)
    changed = dataclasses.replace(layer, bias=layer.bias + layer.threshold)
    other = dataclasses.replace(network, layers=tuple(changed if entry is layer else entry for entry in network.layers))
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 2), np.uint8)
    golden = run(network, images)
    found = torch_integer.IntegerMST(other).run(images)
    assert not np.array_equal(found["s0.b0.fc1"]["counts"].numpy(), golden.outputs["s0.b0.fc1"]["counts"])
    assert np.array_equal(found["s0.b0.proj"]["next"].numpy(), golden.outputs["s0.b0.proj"]["next"])


@pytest.mark.parametrize("images, message", [
    (np.zeros((1, 16, 16, 2), np.float32), r"images are float32 \[1, 16, 16, 2\]: this .* uint8 \[B, 16, 16, 2\]"),
    (np.zeros((1, 16, 15, 2), np.uint8), r"images are uint8 \[1, 16, 15, 2\]"),
])
def test_wrong_images_are_refused(images: np.ndarray, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        torch_integer.IntegerMST(random_network(SHAPES["five heads, L=3"], seed=2)).run(images)
