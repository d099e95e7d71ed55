"""The golden's interface: chunks, image numbers, bounds, refusals; and its arithmetic in floats at the formats' corners."""
import tracemalloc
import unittest.mock
from pathlib import Path

import numpy as np
import pytest

import sim.golden.network as walk
from model.config import SITES, MaskingConfig, ModelConfig
from model.masking import SpikeMask
from quantize.layers import Requantise
from quantize.random_network import random_images, random_network
from sim.golden.fire import fire_biased, requantise, residual
from sim.golden.gemm import accumulate

MODEL = ModelConfig(16, 3, 5, 2, 8, (2, 1), (1, 2), 4, 2.0, 7)
NETWORK = random_network(MODEL, 2)
IMAGES = random_images(MODEL, 4, 6)
MASK = SpikeMask.of(MaskingConfig(SITES, 0.75))


@pytest.mark.parametrize("mask", [None, MASK])
def test_chunks_and_order_do_not_matter(monkeypatch: pytest.MonkeyPatch, mask: SpikeMask | None) -> None:
    whole = walk.run(NETWORK, IMAGES, mask=mask, first_image=10)
    monkeypatch.setattr(walk, "CHUNK_VALUES", 1)
    split = walk.run(NETWORK, IMAGES, mask=mask, first_image=10)
    assert np.array_equal(whole.logits, split.logits)
    for layer, found in whole.outputs.items():
        for key, values in found.items():
            assert np.array_equal(values, split.outputs[layer][key])
    for kind in ("inputs", "before", "scores", "scores_before"):
        assert getattr(whole, kind).keys() == getattr(split, kind).keys()
        for layer, values in getattr(whole, kind).items():
            assert np.array_equal(values, getattr(split, kind)[layer])
    alone = walk.run(NETWORK, IMAGES[3:4], mask=mask, first_image=13)
    assert np.array_equal(alone.logits[0], whole.logits[3])
    assert np.array_equal(walk.run(NETWORK, IMAGES, mask=mask, first_image=10, keep=False).logits, whole.logits)


def test_masks_depend_on_the_image_number() -> None:
    twice = np.repeat(IMAGES[:1], 2, axis=0)
    masked = walk.run(NETWORK, twice, mask=MASK)
    assert not np.array_equal(masked.outputs["s0.b0.qkv"]["counts"][0], masked.outputs["s0.b0.qkv"]["counts"][1])
    plain = walk.run(NETWORK, twice)
    assert np.array_equal(plain.logits[0], plain.logits[1])
    assert plain.before == {}
    assert plain.scores_before == {}


def test_masking_only_ever_removes() -> None:
    trace = walk.run(NETWORK, IMAGES, mask=MASK)
    parts = ("attn", "fc1", "fc2")
    assert set(trace.before) == {f"{block}.{part}" for block in ("s0.b0", "s0.b1", "s1.b0") for part in parts}
    for layer, before in trace.before.items():
        after = trace.inputs[layer]
        assert ((after == before) | (after == 0)).all()
        width = before.shape[-1] // 3
        if layer.endswith("attn"):
            assert np.array_equal(after[..., 2 * width:], before[..., 2 * width:])
            before, after = before[..., :2 * width], after[..., :2 * width]
        assert 0.65 < 1 - (after > 0).sum() / (before > 0).sum() < 0.85


def test_classes_take_the_first_of_equals() -> None:
    trace = walk.Trace(np.array([[3, 9, 9], [5, 5, 1]], np.int32))
    assert trace.classes.tolist() == [1, 0]


def test_no_images() -> None:
    assert walk.run(NETWORK, IMAGES[:0]).logits.shape == (0, 5)
    assert walk.run(NETWORK, IMAGES[:0], mask=MASK, keep=False).logits.shape == (0, 5)


@pytest.mark.parametrize(("weight", "value"), [(127, 15), (-128, 4095), (127, 1 << 40), (-128, -(1 << 47))])
def test_accumulate_is_exact_in_every_arithmetic(weight: int, value: int) -> None:
    """float32, float64 and int64 sums, at odd values that a rounded sum would miss."""
    weights = np.full((2, 300), weight, np.int64)
    values = np.full((1, 3, 300), value, np.int64)
    values[0, 0, 7] += 1
    expected = [[sum(int(w) * int(v) for w, v in zip(row, token, strict=True)) for row in weights]
                for token in values[0]]
    assert accumulate(weights, values).tolist() == [expected]


THRESHOLDS = np.array([1, 2, 3, 7, 41, 47, 55, 61, 83, 107, 1000, 349525, 524287, 524288, 699051, 1048573, 1048574, 1048575])
OFFSETS = np.array([0, 1, -1, 999_983, 1 << 22, (1 << 24) - 1, 1 << 24, (1 << 24) + 1, -(1 << 25) + 3, (1 << 27) - 1, -(1 << 27)])


@pytest.mark.parametrize("levels", [1, 3, 7, 15])
def test_neurons_are_exact_in_floats_around_every_threshold(levels: int) -> None:
    """The largest thresholds and biases of the formats, at each k * threshold and just below, against integer division."""
    bias, threshold = (grid.ravel() for grid in np.meshgrid(OFFSETS, THRESHOLDS))
    multiple = np.arange(-1, levels + 2)[:, None, None] * threshold + np.arange(-1, 2)[:, None]
    charge = (multiple - bias - (threshold >> 1)).reshape(-1, len(bias))
    expected = np.clip((charge + bias + (threshold >> 1)) // threshold, 0, levels)
    assert fire_biased(charge, bias, threshold, levels).dtype == np.int32
    assert np.array_equal(fire_biased(charge, bias, threshold, levels), expected)
    assert np.array_equal(fire_biased(charge.astype(np.float64), bias, threshold, levels), expected)
    small = np.where(np.abs(charge) < 1 << 24, charge, 0)
    fits = np.clip((small + bias + (threshold >> 1)) // threshold, 0, levels)
    assert (small != 0).sum() > 600
    for columns in (np.abs(bias) < 1 << 23, np.abs(bias) > 0):  # float32 throughout, and where a bias needs float64
        given = small.astype(np.float32)[:, columns]
        assert np.array_equal(fire_biased(given, bias[columns], threshold[columns], levels), fits[:, columns])
    inverse = 1 / threshold.astype(np.float32)
    wrong = np.clip(np.floor((small + bias + (threshold >> 1)).astype(np.float32) * inverse), 0, levels)
    assert levels == 1 or not np.array_equal(wrong, fits), "a reciprocal would do: the cases are too easy"


def test_requantise_is_the_same_in_floats_and_integers() -> None:
    stream = np.arange(-32768, 32768, dtype=np.int32)[None]
    for shift in range(16):
        to = Requantise(shift, 6)
        expected = np.clip((stream + ((1 << shift) >> 1)) // 2**shift, -32, 31)
        assert np.array_equal(requantise(stream, to), expected)
        assert np.array_equal(requantise(stream.astype(np.float32), to), expected)


def test_images_may_be_a_memory_map_and_memory_stays_bounded(tmp_path: Path) -> None:
    """A run over eight times the images takes no more memory than what it returns."""
    file = tmp_path / "images.npy"
    np.save(file, np.tile(IMAGES, (40, 1, 1, 1)))
    mapped = np.load(file, mmap_mode="r")
    peaks = []
    with unittest.mock.patch.multiple(walk, CHUNK_VALUES=1 << 14, KEPT_BYTES=1):
        for count in (30, 240):
            tracemalloc.start()
            logits = walk.run(NETWORK, mapped[:count], keep=False).logits
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert np.array_equal(logits, np.tile(walk.run(NETWORK, IMAGES, keep=False).logits, (40, 1)))
    assert 0 < peaks[1] < peaks[0] + 240 * 4096


def test_a_stream_beyond_int16_is_an_error() -> None:
    layer = NETWORK.layer("embed")
    assert layer.residual is not None  # type: ignore[union-attr]
    with pytest.raises(OverflowError, match="leaves int16"):
        residual(None, np.full((1, 1, 8), 32768, np.int32), layer.residual)  # type: ignore[union-attr]


@pytest.mark.parametrize(("images", "message"), [
    (IMAGES.astype(np.float32), r"^images have dtype float32: this network takes uint8 \[B, 16, 16, 3\]$"),
    (IMAGES.astype(np.int8), "dtype int8"),
    (IMAGES[0], r"^images have shape \[16, 16, 3\]: this network takes uint8 \[B, 16, 16, 3\]$"),
    (IMAGES[..., :1], r"shape \[6, 16, 16, 1\]"),
    (IMAGES[:, :8], r"shape \[6, 8, 16, 3\]"),
    (IMAGES.transpose(0, 3, 1, 2), r"shape \[6, 3, 16, 16\]"),
    ([1, 2], "^images are a list, not an array: this network takes"),
])
def test_wrong_images_are_refused(images: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        walk.run(NETWORK, images)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", [-1, 2**32 - 5])
def test_image_numbers_beyond_32_bits_are_refused(first: int) -> None:
    with pytest.raises(ValueError, match="do not fit 32 bits: lower first_image"):
        walk.run(NETWORK, IMAGES, first_image=first)
