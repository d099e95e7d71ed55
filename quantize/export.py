"""From a trained network to the integer one (docs/semantics.md): `export(net, config)`.

Rounding happens here only. An integer threshold is exact: the weight grid follows from it, not the other way round.
"""
import dataclasses
import math

import numpy as np

from model.backbone import Backbone
from model.config import Config
from model.mst import MST
from model.spiking import SpikingNetwork
from quantize.check import check, has_integer_form, head_bits
from quantize.fold import Affine, ExportError, Floats, FoldedAttention, FoldedGemm, FoldedLayer, fold
from quantize.fold_conv import fold_backbone
from quantize.formats import BIAS_BITS, SCORE_SHIFT, STREAM_BITS, THRESHOLD_BITS, limits
from quantize.layers import Attention, Gemm, Layer, Network, Residual
from quantize.rounding import Moments, counts_after, plain, round_rows
from quantize.stream import HELD_ERROR, Plan, Scale, Step, norm_fire, plan_stage

THRESHOLD_MAX = limits(THRESHOLD_BITS, signed=False)[1]
SMALLEST_ENTRY = 8
"""Softmax numerator of a score of 0 at a head's strongest offset, at least: it is rounded by a sixteenth at most then."""
PIXEL_CORRELATION = 0.9
"""Expected between the pixels of a patch: what natural images show between neighbours."""


def _gemm(layer: FoldedGemm, scale_in: Floats, offset_in: Floats, moments: Moments, config: Config) -> Gemm:
    """Integer GEMM of `layer`, whose real input is scale_in * value + offset_in, both [in]; `moments`: its value."""
    matrix = layer.weight * scale_in
    bias = layer.bias + layer.weight @ offset_in
    levels, bits = config.model.levels, config.quantize.weight_bits
    low, high = limits(BIAS_BITS, signed=True)
    top = limits(bits, signed=True)[1]
    threshold = None
    if layer.theta is None:
        peak = np.abs(matrix).max()
        if peak == 0:
            raise ExportError(f"{layer.name}: all weights are 0, so every class scores the same: train the model")
        unit = min(top / peak, high / max(float(np.abs(bias).max()), 1e-30))
        weight, shift = np.rint(matrix * unit), np.rint(bias * unit)
    else:
        wanted = matrix / layer.theta[:, None]
        weight, real = round_rows(wanted, top, THRESHOLD_MAX, moments)
        threshold = real.astype(np.int64)
        bias = bias + layer.theta * ((wanted - weight / real[:, None]) @ moments.mean)
        # acc + bias + (T >> 1) >= k*T exactly when the real charge reaches the k-th spike, for exact weights.
        shift = np.floor(bias / layer.theta * real + real / 2) - (threshold >> 1)
    in_bits, signed = levels.bit_length(), False
    if layer.pixels:
        in_bits = config.model.in_bits
    elif layer.theta_in is None:
        in_bits, signed = config.quantize.stream_bits, True
    if layer.kind == "head":
        in_bits = head_bits(in_bits, layer.side**2)
    return Gemm(layer.name, layer.kind, layer.tokens, layer.side, weight.astype(np.int64),
                np.clip(shift, low, high).astype(np.int64), threshold, in_bits, signed, gather=layer.gather)


def _attention(layer: FoldedAttention, config: Config) -> Attention:
    """Score threshold and softmax ROMs; exp(theta * a + bias) is normalised per head to the ROM's width."""
    levels = config.model.levels
    unit = layer.theta_q * layer.theta_k / (math.sqrt(layer.head_size) * layer.theta_score)
    threshold = max(1, round((1 << SCORE_SHIFT) / unit))
    highest = levels * levels * layer.head_size << SCORE_SHIFT
    if threshold > THRESHOLD_MAX:
        if highest + (THRESHOLD_MAX >> 1) >= THRESHOLD_MAX:
            raise ExportError(f"{layer.name}: the score threshold {threshold} exceeds {THRESHOLD_MAX}: "
                              f"its learned threshold {layer.theta_score:.3g} is too large; initialise it lower")
        threshold = THRESHOLD_MAX
    kappa = layer.theta_v / layer.theta_out
    _refuse_sharp(layer, kappa, levels, config.quantize.rom_bits)
    exponent = layer.theta_score * np.arange(levels + 1) + layer.bias[:, :, None]
    top = limits(config.quantize.rom_bits, signed=False)[1]
    raw = np.exp(exponent - exponent.max((1, 2), keepdims=True)) * (top * min(1.0, kappa))
    num = np.rint(raw).astype(np.int64)
    den = np.clip(np.rint(raw / kappa), 0, top).astype(np.int64)
    own = (layer.window - 1) * 2 * layer.window
    den[:, own] = np.maximum(den[:, own], 1)
    return Attention(layer.name, layer.side, layer.heads, layer.head_size, layer.window, layer.shift, threshold,
                     num, den)


def _refuse_sharp(layer: FoldedAttention, kappa: float, levels: int, bits: int) -> None:
    """ExportError where the softmax ROM of `bits` bits leaves count 0 no SMALLEST_ENTRY steps at a head's strongest offset."""
    fall = layer.theta_score * levels
    entry = limits(bits, signed=False)[1] * min(1.0, kappa) * math.exp(-fall)
    if entry < SMALLEST_ENTRY:
        needed = bits + math.ceil(math.log2(SMALLEST_ENTRY / entry))
        remedy = f"set [quantize] rom_bits = {needed}" if needed <= 16 else \
            f"that needs rom_bits = {needed}, and 16 is the most: train with a smaller score threshold"
        raise ExportError(f"{layer.name}: a score of 0 and one of {levels} spikes differ by a factor of exp({fall:.3g}) in the "
                          f"softmax, of which rom_bits = {bits} keeps {entry:.2g} steps for the smaller ({SMALLEST_ENTRY} are "
                          f"needed): {remedy}")


def _stage_plans(layers: tuple[FoldedLayer, ...], config: Config) -> tuple[list[Plan], dict[str, tuple[int, int]]]:
    """Plan of every stage, and which stage and step each layer with a residual is."""
    plans: list[Plan] = []
    where: dict[str, tuple[int, int]] = {}
    names: list[str] = []
    steps: list[Step] = []
    ending: Affine | None = None
    for layer in layers:
        if not isinstance(layer, FoldedGemm):
            continue
        if steps and (layer.residual == "fresh" or layer.kind == "head"):
            leaving, bits = layer.source, config.quantize.stream_bits
            if layer.theta_in is not None:  # counts leave this stage, and its stream ends: nothing to requantise for
                leaving, bits = ending, STREAM_BITS
            assert leaving is not None
            plans.append(plan_stage(steps, leaving, config.model.levels, bits))
            _refuse_holds(plans[-1], names)
            steps, names = [], []
        if layer.residual:
            assert layer.theta is not None
            ending = layer.norm.affine if layer.norm is not None else None
            where[layer.name] = len(plans), len(steps)
            move = layer.norm.affine if layer.norm is not None and layer.norm.moves else None
            steps.append(Step(float(layer.theta[0]), move))
            names.append(layer.name)
    return plans, where


def _refuse_holds(plan: Plan, names: list[str]) -> None:
    """ExportError where a norm scale that was held up changes the stream by more than HELD_ERROR; `names`: layer of each step."""
    worst = max(plan.holds, key=lambda hold: hold.error, default=None)
    if worst is not None and worst.error > HELD_ERROR:
        count = sum(hold.error > HELD_ERROR for hold in plan.holds)
        raise ExportError(
            f"{names[worst.step]}: the norm after it scales channel {worst.channel} of the shortcut by {worst.wanted:.3g}, "
            f"and the integer stream can follow to {worst.used:.3g} only, {worst.error:.2f} spikes off "
            f"({count} channels of this stage): "
            "use fewer levels or blocks in a stage, or train with larger norm scales (no gamma near 0)")


def reports(net: SpikingNetwork, config: Config) -> list[str]:
    """What the export of `net` rounds beyond its plain formats, a line each: norm scales that were held up."""
    if isinstance(net, Backbone):
        plans, _ = _stage_plans(fold_backbone(net), config)
    else:
        assert isinstance(net, MST)
        plans, _ = _stage_plans(fold(net), config)
    found = []
    for stage, plan in enumerate(plans):
        if plan.holds:
            worst = max(plan.holds, key=lambda hold: hold.error)
            found.append(f"residual stage {stage}: {plan.held} channels with a norm scale held up, "
                         f"at most {worst.error:.3f} spikes off "
                         f"(channel {worst.channel}: {worst.wanted:.3g} became {worst.used:.3g})")
    return found


def export(net: SpikingNetwork, config: Config) -> Network:
    """The integer network of `net` under `config.quantize`. ExportError names what has no integer form.

    Deterministic: a function of the parameters and running statistics alone.
    """
    if net.config != config.model:
        raise ExportError(f"the checkpoint's model differs from [model] of {config.name}: "
                          "export with the configuration that it was trained with")
    if getattr(net.config, "stem", ()):
        has_integer_form(net.config)
    folded: tuple[FoldedLayer, ...]
    if isinstance(net, Backbone):
        folded = fold_backbone(net)
    else:
        assert isinstance(net, MST)
        folded = fold(net)
    plans, where = _stage_plans(folded, config)
    out: list[Layer] = []
    leaving = plans[0] if plans else None
    for layer in folded:
        if isinstance(layer, FoldedAttention):
            out.append(_attention(layer, config))
            continue
        inputs = layer.weight.shape[1]
        scale, offset = np.full(inputs, layer.theta_in or 1.0), np.zeros(inputs)
        if layer.theta_in is None:
            assert leaving is not None
            scale, offset = _planes(leaving, inputs)
        if layer.kind == "head":
            scale = scale / layer.side**2
        gemm = _gemm(layer, scale, offset, _moments(layer, scale, offset, config.model.levels), config)
        if layer.name in where:
            stage, step = where[layer.name]
            plan = leaving = plans[stage]
            gemm = dataclasses.replace(
                gemm, residual=Residual(plan.gains[step], step == 0),
                norm=None if layer.norm is None else norm_fire(layer.norm, plan.before[step], config.model.levels),
                requantise=None if layer.norm is not None or layer.kind == "conv" else plan.requantise)
        out.append(gemm)
    network = Network(config.model, tuple(out), config.quantize.rom_bits, {})
    check(network)
    return network


def _moments(layer: FoldedGemm, scale: Floats, offset: Floats, levels: int) -> Moments:
    """What to expect of the integer inputs of `layer`, whose real value is scale * integer + offset, both [in]."""
    source = layer.source
    if source is None:
        return plain(np.zeros(len(scale)), np.ones(len(scale)))
    if layer.pixels:
        return plain(source.mean, source.std, PIXEL_CORRELATION)
    if layer.theta_in is None:
        return plain((source.mean - offset) / scale, source.std / np.abs(scale))
    return counts_after(source, layer.theta_in, levels)


def _planes(plan: Plan, inputs: int) -> tuple[Floats, Floats]:
    """Scale and offset [in] of the planes that a stage hands on: real x = scale * plane + offset."""
    end: Scale = plan.after[-1]
    repeat = inputs // len(end.rho)
    return np.tile(end.rho * (1 << plan.requantise.shift), repeat), np.tile(end.offset, repeat)
