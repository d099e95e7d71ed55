"""VGG and ResNet: convolution as a GEMM over gathered tokens, from plain loops to the machine, with and without masks."""
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.config import MachineConfig
from hwgen.emit import emit
from hwgen.program import CompileError, compile_network
from model.config import ConfigError, MaskingConfig, read_model
from model.masking import SpikeMask, conv_rows
from quantize.layers import Gather, Gemm, Network
from quantize.network import load, save
from quantize.random_network import random_images, random_network
from quantize.torch_integer import IntegerMST
from sim.fast import build, run
from sim.golden.network import run as golden
from sim.golden.stepwise import run_stepwise
from sim.job import Answer
from sim.trace_file import TRACE_SUFFIX
from sim.verify import verify

SHAPE: dict[str, Any] = {"image_size": 8, "in_channels": 1, "classes": 5, "levels": 7, "widths": [6, 10]}
MODELS = {
    "vgg": read_model({**SHAPE, "kind": "vgg", "depths": [1, 2], "dense": [9]}),
    "average": read_model({**SHAPE, "kind": "vgg", "depths": [2, 1], "pooling": "average", "levels": 3}),
    "resnet": read_model({**SHAPE, "kind": "resnet", "depths": [1, 1]}),
    "projection": read_model({**SHAPE, "kind": "resnet", "depths": [1, 2], "shortcut": "projection"})}
MACHINE = MachineConfig(lanes=8, fire_lanes=4, attention_rows=1, acc_bits=24)
MASKING = MaskingConfig(("conv",), 0.25)


def convolution(layer: Gemm, gather: Gather, values: np.ndarray) -> np.ndarray:
    """Sums [T', out] of one image's counts [T, C], by loops over output tokens and taps."""
    kernel, channels, out = gather.kernel, values.shape[1], gather.out_side(layer.side)
    sums = np.zeros((out * out, layer.outputs), np.int64)
    for y in range(out):
        for x in range(out):
            for ky in range(kernel):
                for kx in range(kernel):
                    row, column = y * gather.stride + ky - gather.padding, x * gather.stride + kx - gather.padding
                    if 0 <= row < layer.side and 0 <= column < layer.side:
                        first = (kx * kernel + ky) * channels
                        sums[y * out + x] += layer.weight[:, first:first + channels] @ values[row * layer.side + column]
    return sums


def plain(network: Network, image: np.ndarray, number: int, mask: SpikeMask) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits of one image, and what the layer after each one reads."""
    values = image.reshape(-1, image.shape[-1]).astype(np.int64)
    handed: list[np.ndarray] = []
    stream: Any = 0
    rows = conv_rows(network.model)

    def fire(charge: np.ndarray, threshold: np.ndarray) -> np.ndarray:
        v, count = charge + (threshold >> 1), np.zeros_like(charge)
        for _ in range(network.model.levels):
            spike = v >= threshold
            v, count = v - spike * threshold, count + spike
        return count

    for layer in network.layers:
        assert isinstance(layer, Gemm)
        if layer.gather is None:
            return layer.weight @ values.sum(0) + layer.bias, handed
        assert layer.threshold is not None
        count = fire(convolution(layer, layer.gather, values) + layer.bias, layer.threshold)
        if layer.residual is not None:
            joined = count * layer.residual.gain
            stream = joined if layer.residual.fresh else stream + joined
            if layer.name.endswith("proj"):  # its counts are on the stream alone: the next layer reads the same `values`
                handed.append(values)
                continue
            assert layer.norm is not None
            count = fire(np.where(layer.norm.negate, -stream, stream) + layer.norm.bias, layer.norm.threshold)
        if layer.name in rows:
            kept = mask.keep("conv", np.array([number]), rows[layer.name], *count.shape, block=layer.name)
            count = count if kept is None else count * kept[0]
        handed.append(count)
        values = count
    raise AssertionError("no head")


@pytest.mark.parametrize("masking", [MaskingConfig(("conv",)), MASKING,
                                     MaskingConfig(("conv",), 0.5, ratios=(("s0.conv0.conv", 0.0), ("stem.conv", 0.75),
                                                                            ("s0.b0.conv2.conv", 0.875)))])
@pytest.mark.parametrize("name", MODELS)
def test_three_models_agree(name: str, masking: MaskingConfig) -> None:
    network, images, mask = random_network(MODELS[name], 1), random_images(MODELS[name], 2, 2), SpikeMask.of(masking)
    trace = golden(network, images, mask=mask, first_image=7)
    torch = IntegerMST(network, mask).run(images, first_image=7)
    for index, image in enumerate(images):
        logits, handed = plain(network, image, 7 + index, mask)
        assert np.array_equal(trace.logits[index], logits)
        for layer, after, counts in zip(network.layers[:-1], network.layers[1:], handed, strict=True):
            kind = next((kind for kind in ("next", "counts") if kind in trace.outputs[layer.name]), "")
            assert bool(kind) == bool({"next", "counts"} & set(torch[layer.name])) == (not layer.name.endswith("proj"))
            if kind:
                assert np.array_equal(trace.outputs[layer.name][kind][index], counts), layer.name
                assert np.array_equal(np.asarray(torch[layer.name][kind])[index], counts), layer.name
            if "stream" in trace.outputs[layer.name]:
                assert np.array_equal(trace.outputs[layer.name]["stream"], np.asarray(torch[layer.name]["stream"])), layer.name
            if after.kind == "conv":
                assert np.array_equal(trace.inputs[after.name][index], counts)
        assert np.array_equal(np.asarray(torch["head"]["logits"])[index], logits)
    assert any(len(np.unique(counts)) > 2 for counts in handed)


@pytest.mark.parametrize("name", MODELS)
def test_the_file_holds_the_network(name: str, tmp_path: Path) -> None:
    network = random_network(MODELS[name], 1)
    save(tmp_path / "n.mstn", network)
    again, images = load(tmp_path / "n.mstn"), random_images(MODELS[name], 2, 1)
    assert again.model == network.model
    assert np.array_equal(golden(again, images).logits, golden(network, images).logits)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_machine_is_the_golden(name: str, tmp_path: Path) -> None:
    """Logits, every layer and every cycle, for the ratios 0, 1/4 and 3/4; a changed golden is caught."""
    model = MODELS[name]
    built = emit(random_network(model, 1), dataclasses.replace(MACHINE, rows_per_cycle=1 if name == "vgg" else 2), MASKING,
                 Path("rtl/build/benches/test_backbones").resolve() / name)
    program, images = build(built), random_images(model, 3, 2)
    for ratio in (0.0, 0.25, 0.75):
        mask = SpikeMask.of(MASKING.at(ratio))
        answers = run(built, images, program=program, folder=tmp_path, seed=MASKING.seed, ratio=int(256 * ratio), first_image=5,
                      traced=[5, 6])
        for answer, image in zip(answers, images, strict=True):
            seen = Answer([answer.logits.tolist()], answer.cycles, answer.events, answer.stalls, answer.image + 1)
            file = tmp_path / f"{answer.image}{TRACE_SUFFIX}"
            trace = golden(built.program.network, image[None], mask=mask, first_image=answer.image)
            assert verify(built.program, trace, image[None], seen, file).failures == []
            other = golden(built.program.network, image[None], mask=mask, first_image=answer.image + 2)
            assert ratio == 0 or verify(built.program, other, image[None], seen, file).failures != []
    if name == "projection":
        wrong = golden(without_shortcut(built.program.network), image[None], mask=mask, first_image=answer.image)
        failures = verify(built.program, wrong, image[None], seen, file).failures
        assert failures[0].startswith("image 0, s1.b0.proj (residual), token")
        at = next(at for at, step in enumerate(built.program.steps) if step.layer == "s1.b0.proj")
        base = built.program.steps[at].fields["out_base"]
        assert base == built.program.buffers["s1.b0.conv1"].base
        built.program.steps[at].fields["out_base"] = built.program.buffers["s0.b0.conv2"].base
        assert verify(built.program, trace, image[None], seen, file).failures[0].startswith(
            f"image 0, s1.b0.proj: wrote 32 spike words between {base} and {base}, expected 32 at ")


def without_shortcut(network: Network) -> Network:
    """`network`, the counts of its projections worth nothing."""
    return dataclasses.replace(network, layers=tuple(
        dataclasses.replace(layer, residual=dataclasses.replace(layer.residual, gain=0 * layer.residual.gain))
        if isinstance(layer, Gemm) and layer.residual is not None and not layer.hands_on else layer for layer in network.layers))


def test_what_is_refused(tmp_path: Path) -> None:
    for kind in ("vgg", "projection"):
        with pytest.raises(CompileError, match="set \\[machine\\] memory_bits = 0"):
            compile_network(random_network(MODELS[kind], 1), dataclasses.replace(MACHINE, memory_bits=64), MASKING)
    with pytest.raises(ConfigError, match="kind must be one of mst, vgg, resnet, not 'alexnet'"):
        read_model({**SHAPE, "kind": "alexnet"})
    with pytest.raises(ConfigError, match="image_size must be a multiple of 2"):
        read_model({**SHAPE, "kind": "vgg", "depths": [1, 1], "image_size": 7})


def plain_step(network: Network, image: np.ndarray, state: dict[str, np.ndarray], number: int, mask: SpikeMask) -> np.ndarray:
    """Logits of one time step; `state`: potentials, which stay. A spike counts L."""
    levels, stream, rows = network.model.levels, np.zeros(1, np.int64), conv_rows(network.model)
    values = image.reshape(-1, image.shape[-1]).astype(np.int64)

    def fire(name: str, charge: np.ndarray, threshold: np.ndarray) -> np.ndarray:
        v = charge + state.get(name, threshold * levels // 2)
        spike = (v >= threshold * levels).astype(np.int64)
        state[name] = v - spike * threshold * levels
        return spike * levels

    for layer in network.layers:
        assert isinstance(layer, Gemm)
        if layer.gather is None:
            return layer.weight @ values.sum(0) + layer.bias
        assert layer.threshold is not None
        fired = fire(layer.name, convolution(layer, layer.gather, values) + layer.bias, layer.threshold)
        if layer.residual is None:
            values = fired
        else:
            joined = fired * layer.residual.gain
            stream = joined if layer.residual.fresh else stream + joined
            if layer.name.endswith("proj"):
                continue
            assert layer.norm is not None
            signed = np.where(layer.norm.negate, -stream, stream)
            values = fire(f"{layer.name}.norm", signed + layer.norm.bias, layer.norm.threshold)
        if layer.name in rows:
            kept = mask.keep("conv", np.array([number]), rows[layer.name], *values.shape)
            values = values if kept is None else values * kept[0]
    raise AssertionError("no head")


@pytest.mark.parametrize("ratio", [0.0, 0.25])
@pytest.mark.parametrize("name", MODELS)
def test_stepwise_is_the_plain_loop(name: str, ratio: float) -> None:
    network, images, mask = random_network(MODELS[name], 1), random_images(MODELS[name], 2, 2), SpikeMask.of(MASKING.at(ratio))
    found = run_stepwise(network, images, 4, mask=mask, first_image=7)
    for index, image in enumerate(images):
        state: dict[str, np.ndarray] = {}
        logits = [plain_step(network, image, state, 7 + index, mask.at_step(step)) for step in range(4)]
        assert np.array_equal(found.logits[:, index], np.cumsum(logits, axis=0))
    if name == "projection":
        other = run_stepwise(without_shortcut(network), images, 4, mask=mask, first_image=7)
        assert not np.array_equal(found.logits, other.logits)
