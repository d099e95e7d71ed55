"""The shape of an integer network, derived from its ModelConfig, and the check of a Network against it and the formats.

Source of every rule: docs/semantics.md and quantize/formats.py. No torch.
"""
from dataclasses import dataclass

import numpy as np

from model.config import CONV_SITE, AnyModel, ModelConfig
from model.conv_config import ConvConfig
from quantize.formats import (
    BIAS_BITS,
    GAIN_BITS,
    LOGIT_BITS,
    STREAM_BITS,
    THRESHOLD_BITS,
    WEIGHT_BITS,
    limits,
)
from quantize.layers import Attention, Gather, Gemm, Layer, Network, NetworkError


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What the model's shape says about one layer. `residual`: '', 'fresh' or 'add'; `after`: '', 'norm' or 'planes'.

    A residual with nothing after it: nothing is handed on, and the next layer reads what this one read.

    `side`: side of the input token map (of the patches, for `embed`). `stage`: which residual stream it is on. `in_bits`
    of merge and head assume `stream_bits`.
    """

    name: str
    kind: str
    stage: int
    block: int
    tokens: int
    side: int
    inputs: int
    outputs: int
    in_bits: int
    in_signed: bool
    residual: str = ""
    after: str = ""
    site: str = ""
    gather: Gather | None = None


def head_bits(stream_bits: int, tokens: int) -> int:
    """Bits of the head's signed input: a sum of `tokens` values of `stream_bits` each."""
    return stream_bits + (tokens - 1).bit_length()


def has_integer_form(model: AnyModel) -> None:
    """NetworkError, which names the layer and the remedy, where `model` has a norm that no threshold absorbs, or a stem."""
    if getattr(model, "stem", ()):
        raise NetworkError("[model] stem: a network with a convolutional stem runs in the float modes only (train, evaluate); "
                           "for integers and RTL leave the stem out and train again")
    for key, layer in (("norm", "s0.b0.norm1 and the other norms"), ("final_norm", "norm, before the head")):
        if getattr(model, key, "batch") == "layer":
            raise NetworkError(f'[model] {key} = "layer": the LayerNorm ({layer}) divides by each token\'s own deviation, which '
                               f'no fixed threshold absorbs: set {key} = "batch" and train again')


def shapes(model: AnyModel, stream_bits: int) -> tuple[LayerShape, ...]:
    """Every layer of `model` in execution order; NetworkError where it has no integer form."""
    has_integer_form(model)
    return _mst_shapes(model, stream_bits) if isinstance(model, ModelConfig) else _conv_shapes(model)


def _conv_shapes(model: ConvConfig) -> tuple[LayerShape, ...]:
    table: list[LayerShape] = []
    plan, stream = model.plan(), 0
    for index, conv in enumerate(plan):
        stream += int(conv.residual == "fresh" and index > 0)
        taps, last = conv.unpooled, index == len(plan) - 1
        table.append(LayerShape(
            conv.name, "conv", stream, -1, conv.tokens, conv.side, conv.inputs, conv.outputs,
            model.planes if index else model.in_bits, False, conv.residual, "norm" if conv.residual and conv.hands_on else "",
            CONV_SITE if conv.residual and conv.hands_on and not last else "",
            Gather(taps.kernel, taps.stride, taps.padding)))
    end = plan[-1]
    table.append(LayerShape("head", "head", stream, -1, 1, end.out_side, end.outputs, model.classes,
                            head_bits(model.planes, end.tokens), False))
    return tuple(table)


def _mst_shapes(model: ModelConfig, stream_bits: int) -> tuple[LayerShape, ...]:
    table: list[LayerShape] = []
    b = model.planes
    for stage, depth in enumerate(model.depths):
        side, width, hidden = model.side(stage), model.width(stage), model.hidden(stage)
        tokens = side * side
        if stage == 0:
            table.append(LayerShape("embed", "embed", 0, -1, tokens, side, model.patch**2 * model.in_channels, width,
                                    model.in_bits, False, "fresh", "norm"))
        else:
            table.append(LayerShape(f"s{stage - 1}.merge", "merge", stage, -1, tokens, 2 * side, 2 * width, width,
                                    stream_bits, True, "fresh", "norm"))
        for block in range(depth):
            name = f"s{stage}.b{block}"
            last = "planes" if block == depth - 1 else "norm"
            table += [
                LayerShape(f"{name}.qkv", "qkv", stage, block, tokens, side, width, 3 * width, b, False),
                LayerShape(f"{name}.attn", "attn", stage, block, tokens, side, 3 * width, width, b, False),
                LayerShape(f"{name}.proj", "proj", stage, block, tokens, side, width, width, b, False,
                           "add", "norm", "fc1"),
                LayerShape(f"{name}.fc1", "fc1", stage, block, tokens, side, width, hidden, b, False),
                LayerShape(f"{name}.fc2", "fc2", stage, block, tokens, side, hidden, width, b, False, "add", last),
            ]
    stage = len(model.depths) - 1
    side = model.side(stage)
    table.append(LayerShape("head", "head", stage, -1, 1, side, model.width(stage), model.classes,
                            head_bits(stream_bits, side * side), True))
    return tuple(table)


def _range(layer: str, tensor: str, values: np.ndarray, low: int, high: int) -> None:
    bad = np.flatnonzero((values < low) | (values > high))
    if len(bad):
        place = np.unravel_index(bad[0], values.shape)
        raise NetworkError(f"{layer}: {tensor}{[int(p) for p in place]} is {int(values.flat[bad[0]])}, outside "
                           f"{low}..{high}: export the network again")


def _tensor(layer: str, tensor: str, values: object, shape: tuple[int, ...], bits: int, signed: bool,
            low: int | None = None) -> None:
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iu":
        kind = getattr(values, "dtype", type(values).__name__)
        raise NetworkError(f"{layer}: {tensor} is {kind}, not an integer array: export the network again")
    if values.shape != shape:
        raise NetworkError(f"{layer}: {tensor} has shape {list(values.shape)}, but the model needs {list(shape)}")
    lowest, highest = limits(bits, signed)
    _range(layer, tensor, values, lowest if low is None else low, highest)


def _equal(layer: str, what: str, given: object, wanted: object) -> None:
    if given != wanted:
        raise NetworkError(f"{layer}: {what} is {given!r}, but the model needs {wanted!r}")


def _check_attention(layer: Attention, shape: LayerShape, network: Network) -> None:
    model, name = network.model, layer.name
    assert isinstance(model, ModelConfig)
    heads = model.heads[shape.stage]
    for what, given, wanted in (
        ("side", layer.side, shape.side), ("heads", layer.heads, heads),
        ("head_size", layer.head_size, shape.outputs // heads), ("window", layer.window, model.window_of(shape.stage)),
        ("shift", layer.shift, model.shift_of(shape.stage, shape.block)),
    ):
        _equal(name, what, given, wanted)
    _range(name, "score_threshold", np.array([layer.score_threshold]), 1, limits(THRESHOLD_BITS, False)[1])
    rom = (heads, (2 * layer.window - 1) ** 2, model.levels + 1)
    _tensor(name, "rom_num", layer.rom_num, rom, network.rom_bits, False)
    _tensor(name, "rom_den", layer.rom_den, rom, network.rom_bits, False)
    # A token always sees itself, so that this alone keeps D, a threshold, from being 0.
    own = (layer.window - 1) * 2 * layer.window
    if (layer.rom_den[:, own] < 1).any():
        raise NetworkError(f"{name}: rom_den[:, {own}] holds 0, so a row may have the threshold 0: export it again")


def _check_gemm(layer: Gemm, shape: LayerShape) -> None:
    name, outputs = layer.name, shape.outputs
    for what, given, wanted in (
        ("tokens", layer.tokens, shape.tokens), ("side", layer.side, shape.side),
        ("in_bits", layer.in_bits, shape.in_bits), ("in_signed", layer.in_signed, shape.in_signed),
        ("gather", layer.gather, shape.gather),
    ):
        _equal(name, what, given, wanted)
    _tensor(name, "weight", layer.weight, (outputs, shape.inputs), WEIGHT_BITS, True)
    _tensor(name, "bias", layer.bias, (outputs,), BIAS_BITS, True)
    _equal(name, "having a threshold", layer.threshold is not None, shape.kind != "head")
    if layer.threshold is not None:
        _tensor(name, "threshold", layer.threshold, (outputs,), THRESHOLD_BITS, False, low=1)
    _equal(name, "having a residual", layer.residual is not None, shape.residual != "")
    if layer.residual is not None:
        _equal(name, "residual.fresh", layer.residual.fresh, shape.residual == "fresh")
        _tensor(name, "residual.gain", layer.residual.gain, (outputs,), GAIN_BITS, True)
    _equal(name, "having a norm", layer.norm is not None, shape.after == "norm")
    if layer.norm is not None:
        _equal(name, "norm.site", layer.norm.site, shape.site)
        _tensor(name, "norm.negate", layer.norm.negate, (outputs,), 1, False)
        _tensor(name, "norm.bias", layer.norm.bias, (outputs,), BIAS_BITS, True)
        _tensor(name, "norm.threshold", layer.norm.threshold, (outputs,), THRESHOLD_BITS, False, low=1)
    _equal(name, "having a requantise", layer.requantise is not None, shape.after == "planes")
    if layer.requantise is not None:
        _range(name, "requantise.shift", np.array([layer.requantise.shift]), 0, STREAM_BITS - 1)
    if shape.kind == "head":
        bound = accumulator_bound(layer) + int(np.abs(layer.bias.astype(np.int64)).max())
        if bound > limits(LOGIT_BITS, True)[1]:
            raise NetworkError(f"{name}: a logit may reach {bound}, outside {LOGIT_BITS} bits: scale the head down")


def accumulator_bound(layer: Gemm) -> int:
    """Largest |acc| that any input of the layer's format can give."""
    largest = 1 << layer.in_bits - 1 if layer.in_signed else (1 << layer.in_bits) - 1
    return int(np.abs(layer.weight.astype(np.int64)).sum(axis=1).max()) * largest


def _check_stream(network: Network, table: tuple[LayerShape, ...]) -> None:
    model = network.model
    top = limits(STREAM_BITS, True)[1]
    for stage in sorted({shape.stage for shape in table if shape.residual}):
        total = np.zeros(next(shape.outputs for shape in table if shape.residual and shape.stage == stage), np.int64)
        for layer, shape in zip(network.layers, table, strict=True):
            if isinstance(layer, Gemm) and layer.residual is not None and shape.stage == stage:
                total += np.abs(layer.residual.gain.astype(np.int64)) * model.levels
        if total.max() > top:
            worst = int(total.argmax())
            raise NetworkError(f"s{stage}: the residual of channel {worst} may reach {int(total[worst])}, above {top}: "
                               "choose a coarser scale for it")


def check(network: Network) -> None:
    """Check shapes against the ModelConfig, values against the formats, and the residual bound; else NetworkError."""
    model = network.model
    if not 6 <= network.rom_bits <= 16:
        raise NetworkError(f"rom_bits must be 6 to 16, not {network.rom_bits}")
    bits = {entry.requantise.bits for entry in network.layers
            if isinstance(entry, Gemm) and entry.requantise is not None}
    if isinstance(model, ModelConfig) and (len(bits) != 1 or not 4 <= min(bits) <= 12):
        raise NetworkError(f"the requantised residual must have one width of 4 to 12 bits, not {sorted(bits)}")
    table = shapes(model, min(bits, default=0))
    names, wanted = [entry.name for entry in network.layers], [shape.name for shape in table]
    for index in range(max(len(names), len(wanted))):
        given = names[index] if index < len(names) else "nothing"
        need = wanted[index] if index < len(wanted) else "nothing"
        if given != need:
            raise NetworkError(f"layer {index} is {given}, but the model needs {need}")
    for layer, shape in zip(network.layers, table, strict=True):
        _check_layer(layer, shape, network)
    _check_stream(network, table)


def _check_layer(layer: Layer, shape: LayerShape, network: Network) -> None:
    _equal(layer.name, "kind", layer.kind, shape.kind)
    if isinstance(layer, Attention):
        _check_attention(layer, shape, network)
    elif shape.kind == "attn":
        raise NetworkError(f"{layer.name}: is a Gemm, but the model needs an Attention")
    else:
        _check_gemm(layer, shape)
