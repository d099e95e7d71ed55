"""`stepwise` in integers: golden == naive loops at every layer and step; mutations are caught; near the float network's steps."""
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import sim.golden.stepwise as stepwise
from model.config import SITES, ModelConfig, QuantizeConfig
from model.masking import SpikeMask
from quantize import network as network_file
from quantize.layers import Network
from quantize.random_network import random_images, random_network
from sim.golden.network import run as run_exact
from sim.images import load as load_images

SEED = 0x2545F491
STEPS = 5
SHAPES = {
    "shift": ModelConfig(8, 1, 3, 2, 8, (2,), (2,), 2, 2.0, 7),
    "two stages, three channels": ModelConfig(16, 3, 3, 2, 6, (2, 1), (1, 2), 4, 1.0, 3),
    "one level": ModelConfig(6, 2, 4, 1, 4, (3,), (2,), 3, 1.0, 1),
}
MASKS: dict[str, dict[str, int]] = {"none": {}, "all": dict.fromkeys(SITES, 96)}


def differences(trace: stepwise.StepTrace, expected: list[list[Any]]) -> list[str]:
    """Layers, steps and images at which the golden and the naive loops differ."""
    found = []
    for index, image in enumerate(expected):
        total = np.zeros(trace.logits.shape[2], np.int64)
        for step, (layers, logits) in enumerate(image):
            for name, wanted in layers.items():
                given = trace.steps[step].outputs[name]
                last = next(given[key] for key in ("next", "planes", "counts") if key in given)
                if not np.array_equal(last[index], np.array(wanted)):
                    found.append(f"image {index}, step {step}: {name}")
            total += np.array(logits)
            if not np.array_equal(trace.logits[step, index], total):
                found.append(f"image {index}, step {step}: logits")
    return found


def expected_of(naive: ModuleType, loops: ModuleType, network: Network, images: Any, mask: str, first: int) -> list[list[Any]]:
    return [loops.run(naive.Lfsr, network, image.tolist(), first + index, SEED, MASKS[mask], STEPS)
            for index, image in enumerate(images)]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", SHAPES)
def test_golden_equals_naive(naive: ModuleType, naive_stepwise: ModuleType, name: str, mask: str) -> None:
    network = random_network(SHAPES[name], 11, QuantizeConfig(8, 10, 6))
    images = random_images(SHAPES[name], 3, 2)
    spike_mask = SpikeMask(SEED, MASKS[mask])
    trace = stepwise.run_stepwise(network, images, STEPS, mask=spike_mask, first_image=6, keep=True)
    assert differences(trace, expected_of(naive, naive_stepwise, network, images, mask, 6)) == []
    spiking = [out["counts"].mean() for step in trace.steps for out in step.outputs.values() if "counts" in out]
    assert 0.02 < np.mean(spiking) < 0.98  # neither silent nor saturated
    bare = stepwise.run_stepwise(network, images, STEPS, mask=spike_mask, first_image=6)
    assert np.array_equal(bare.logits, trace.logits) and not bare.steps
    one = stepwise.run_stepwise(network, images[1:], STEPS, mask=spike_mask, first_image=7)
    assert np.array_equal(one.logits, trace.logits[:, 1:])  # no potential goes on to the next image


def wrong_fire(v: Any, charge: Any, threshold: Any) -> Any:
    v = charge + (np.floor(np.asarray(threshold) * 0.5) if v is None else v)
    spikes = (v > threshold).astype(np.float64)
    return spikes, v - spikes * threshold


def from_zero(v: Any, charge: Any, threshold: Any) -> Any:
    return stepwise_integrate(np.zeros(()) if v is None else v, charge, threshold)


def hard_reset(v: Any, charge: Any, threshold: Any) -> Any:
    spikes, after = stepwise_integrate(v, charge, threshold)
    return spikes, np.where(spikes > 0, 0, after)


def forgetful(v: Any, charge: Any, threshold: Any) -> Any:
    return stepwise_integrate(None, charge, threshold)


def same_mask(self: SpikeMask, step: int) -> SpikeMask:
    return self


def unscaled(real: Callable[..., Any], self: Any, layer: Any, values: Any, stream: Any) -> Any:
    levels, self.levels = self.levels, 1
    try:
        return real(self, layer, values, stream)
    finally:
        self.levels = levels


stepwise_integrate = stepwise.integrate
MUTATIONS: list[tuple[str, object, str, Any]] = [
    ("fire: > instead of >=", stepwise, "integrate", wrong_fire),
    ("potential starts at 0", stepwise, "integrate", from_zero),
    ("hard reset", stepwise, "integrate", hard_reset),
    ("potential forgotten between steps", stepwise, "integrate", forgetful),
    ("the same mask in every step", SpikeMask, "at_step", same_mask),
    ("a spike worth 1 instead of L", stepwise._Stepwise, "gemm", None),
    ("currents of 15 bits", stepwise, "CURRENT_FRACTION", 2),
    ("a GEMM takes pixels as spikes", Network, "takes_spikes", lambda network, layer: layer.kind not in ("merge", "head")),
]


@pytest.mark.parametrize(("owner", "name", "replacement"), [entry[1:] for entry in MUTATIONS],
                         ids=[entry[0] for entry in MUTATIONS])
def test_mutated_golden_is_caught(naive: ModuleType, naive_stepwise: ModuleType, monkeypatch: pytest.MonkeyPatch, owner: object,
                                  name: str, replacement: Any) -> None:
    network = random_network(SHAPES["shift"], 5, QuantizeConfig(8, 10, 6))
    images = random_images(SHAPES["shift"], 8, 2)
    expected = expected_of(naive, naive_stepwise, network, images, "all", 0)
    mask = SpikeMask(SEED, MASKS["all"])
    assert differences(stepwise.run_stepwise(network, images, STEPS, mask=mask, keep=True), expected) == []
    if replacement is None:
        real = stepwise._Stepwise.gemm

        def replacement(self: Any, layer: Any, values: Any, stream: Any) -> Any:
            return unscaled(real, self, layer, values, stream)
    monkeypatch.setattr(owner, name, replacement)
    assert differences(stepwise.run_stepwise(network, images, STEPS, mask=mask, keep=True), expected) != []


def test_more_steps_come_nearer_to_exact() -> None:
    """The trained network on its first sample images: more steps agree with `exact` on more classes."""
    network = network_file.load("configs/cifar10-tiny.mstn")
    images, _ = load_images(Path("configs/cifar10-sample.npz"), 16)
    exact = run_exact(network, images, keep=False).classes
    equal = (stepwise.run_stepwise(network, images, 24).classes == exact).sum(axis=1)
    assert equal[0] < equal[7] <= equal[23] >= 12


def test_bad_input() -> None:
    network = random_network(SHAPES["shift"], 11)
    images = random_images(SHAPES["shift"], 3, 1)
    with pytest.raises(ValueError, match="at least 1 time step, not 0"):
        stepwise.run_stepwise(network, images, 0)
    with pytest.raises(ValueError, match="uint8"):
        stepwise.run_stepwise(network, images.astype(np.int32), 1)
    with pytest.raises(ValueError, match="lower first_image"):
        stepwise.run_stepwise(network, images, 1, first_image=1 << 32)
    assert stepwise.run_stepwise(network, images[:0], 3).logits.shape == (3, 0, 3)
