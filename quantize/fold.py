"""Folding of a trained MST: BatchNorms, thresholds and pixel normalisation as float64 affine maps, layer by layer.

Nothing is rounded here; `quantize.export` turns the maps into integers. Needs torch only to read the modules.
"""
import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model.config import ModelConfig
from model.mst import MST
from model.qcfs import QCFS
from model.swin import Block, PatchEmbed, PatchMerge, Stage
from quantize.layers import Gather

Floats = NDArray[np.float64]


class ExportError(ValueError):
    """A trained network that has no integer form: the message names the module, the value and the remedy."""


@dataclass(frozen=True, slots=True)
class Affine:
    """A BatchNorm in evaluation: y = scale * x + shift, both float64 [C]; `mean`, `std` [C] of its x in training."""

    scale: Floats
    shift: Floats
    mean: Floats
    std: Floats


@dataclass(frozen=True, slots=True)
class FoldedNorm:
    """BatchNorm and neuron on the residual stream. `moves`: the shortcut is taken after the norm (norm2 of a block)."""

    affine: Affine
    theta: float
    moves: bool
    site: str


@dataclass(frozen=True, slots=True)
class FoldedGemm:
    """Real pre-activation weight @ x + bias [out] of real inputs x [in]; QCFS thresholds `theta` [out] (None: head).

    x = `theta_in` * count; for `embed` x is the raw pixel (theta_in 1), for `merge` and `head` the real stream
    (theta_in None), of which `head` takes the mean over tokens. `source`: what training statistics say of the input:
    its own mean and std (embed, merge, head), or the BatchNorm before the neuron that sends the counts; None: nothing.
    `residual`: '', 'fresh' or 'add'; `pixels`: the input is the image.
    """

    name: str
    kind: str
    tokens: int
    side: int
    weight: Floats
    bias: Floats
    theta: Floats | None
    theta_in: float | None
    norm: FoldedNorm | None = None
    source: Affine | None = None
    gather: Gather | None = None
    residual: str = ""
    pixels: bool = False


@dataclass(frozen=True, slots=True)
class FoldedAttention:
    """Windowed attention: thresholds of its five activations and the bias table [heads, (2*window-1)^2]."""

    name: str
    side: int
    heads: int
    head_size: int
    window: int
    shift: int
    theta_q: float
    theta_k: float
    theta_v: float
    theta_score: float
    theta_out: float
    bias: Floats


FoldedLayer = FoldedGemm | FoldedAttention


def array(name: str, value: torch.Tensor) -> Floats:
    """`value` as float64; ExportError where it is not finite."""
    out = value.detach().cpu().numpy().astype(np.float64)
    if not np.isfinite(out).all():
        raise ExportError(f"{name} holds {out[~np.isfinite(out)].flat[0]}: the training diverged; "
                          "take an earlier checkpoint")
    return out


def batch_norm(name: str, module: nn.Module) -> Affine:
    """The affine map of BatchNorm `module`; ExportError for any other norm or one without running statistics."""
    if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        raise ExportError(f"{name} is a {type(module).__name__}, which no threshold can absorb: "
                          'set norm and final_norm to "batch" under [model] and train again')
    if module.running_mean is None or module.running_var is None:
        raise ExportError(f"{name} keeps no running statistics: build it with track_running_stats=True")
    mean, var = array(f"{name}.running_mean", module.running_mean), array(f"{name}.running_var", module.running_var)
    std = np.sqrt(var + module.eps)
    scale = 1 / std if module.weight is None else array(f"{name}.weight", module.weight) / std
    shift = -mean * scale if module.bias is None else array(f"{name}.bias", module.bias) - mean * scale
    return Affine(scale, shift, mean, std)


def _linear(name: str, module: nn.Module, norm: nn.Module | None) -> tuple[Floats, Floats]:
    """Weight [out, in] and bias [out] of a linear layer with the BatchNorm `norm` (or None) after it."""
    if not isinstance(module, nn.Linear):
        raise ExportError(f"{name} is a {type(module).__name__}: only a Linear layer becomes a spike GEMM")
    weight = array(f"{name}.weight", module.weight)
    bias = np.zeros(len(weight)) if module.bias is None else array(f"{name}.bias", module.bias)
    if norm is None:
        return weight, bias
    affine = batch_norm(f"{name}'s norm", norm)
    return weight * affine.scale[:, None], bias * affine.scale + affine.shift


def theta_of(name: str, act: nn.Module, levels: int) -> float:
    """Threshold of the activation `act`; ExportError where no neuron of `levels` levels has it."""
    if not isinstance(act, QCFS):
        raise ExportError(f"{name} is a {type(act).__name__}: only a QCFS activation is a spiking neuron")
    if act.levels != levels:
        raise ExportError(f"{name} has {act.levels} levels and the model {levels}: use one number of levels")
    value = float(array(f"{name}.threshold", act.threshold))
    if not value > 0:
        raise ExportError(f"{name} has threshold {value}: thresholds must be positive; take an earlier checkpoint")
    return value


def _embed(mst: MST, config: ModelConfig, norm: FoldedNorm) -> FoldedGemm:
    assert isinstance(mst.embed, PatchEmbed)  # a stem has been refused
    weight, bias = _linear("embed.linear", mst.embed.linear, mst.embed.norm)
    mean, std = array("mean", mst.mean), array("std", mst.std)
    # The patch's channel order is (dy, dx, c): the image channel runs fastest.
    repeat = config.patch**2
    pixels = Affine(np.ones(weight.shape[1]), np.zeros(weight.shape[1]), np.tile(255 * mean, repeat),
                    np.tile(255 * std, repeat))
    bias = bias - weight @ np.tile(mean / std, repeat)
    weight = weight * np.tile(1 / (255 * std), repeat)
    theta = np.full(len(weight), theta_of("embed.act", mst.embed.act, config.levels))
    return FoldedGemm("embed", "embed", config.side(0) ** 2, config.side(0), weight, bias, theta, 1.0, norm,
                      pixels, residual="fresh", pixels=True)


def _source(name: str, norm: nn.Module | None, part: slice = slice(None)) -> Affine | None:
    if norm is None:
        return None
    found = batch_norm(name, norm)
    return Affine(found.scale[part], found.shift[part], found.mean[part], found.std[part])


def _block(name: str, block: Block, norm1: FoldedNorm, levels: int,
           after: FoldedNorm | None) -> tuple[FoldedLayer, ...]:
    """The five layers of one block, whose counts come from `norm1`; `after`: norm1 of the next block of the stage."""
    attn, mlp = block.attn, block.mlp

    def theta(path: str) -> float:
        return theta_of(f"{name}.{path}", block.get_submodule(path), levels)

    side, channels = attn.side, attn.heads * attn.head_size
    tokens = side * side
    weight, bias = _linear(f"{name}.attn.qkv", attn.qkv, attn.qkv_norm)
    thetas = [theta(f"attn.{part}_act") for part in "qkv"]
    qkv = FoldedGemm(f"{name}.qkv", "qkv", tokens, side, weight, bias, np.repeat(thetas, channels),
                     norm1.theta, source=norm1.affine)
    scores, out = theta("attn.score_act"), theta("attn.out_act")
    attention = FoldedAttention(f"{name}.attn", side, attn.heads, attn.head_size, attn.window, attn.shift,
                                thetas[0], thetas[1], thetas[2], scores, out,
                                array(f"{name}.attn.bias_table", attn.bias_table).T.copy())

    def gemm(kind: str, linear: nn.Module, norm: nn.Module | None, act: str, scale: float,
             source: Affine | None, follow: FoldedNorm | None) -> FoldedGemm:
        matrix, offset = _linear(f"{name}.{kind}", linear, norm)
        return FoldedGemm(f"{name}.{kind}", kind, tokens, side, matrix, offset,
                          np.full(len(matrix), theta(act)), scale, follow, source,
                          residual="" if kind == "fc1" else "add")

    norm2 = FoldedNorm(batch_norm(f"{name}.norm2", block.norm2), theta("act2"), True, "fc1")
    # The softmax averages v, so the mean of its output is that of v.
    values = _source(f"{name}.attn.qkv's norm", attn.qkv_norm, slice(2 * channels, None))
    proj = gemm("proj", attn.proj, attn.proj_norm, "attn.proj_act", out, values, norm2)
    fc1 = gemm("fc1", mlp.fc1, mlp.norm1, "mlp.act1", norm2.theta, norm2.affine, None)
    hidden = _source(f"{name}.fc1's norm", mlp.norm1)
    fc2 = gemm("fc2", mlp.fc2, mlp.norm2, "mlp.act2", theta("mlp.act1"), hidden, after)
    return qkv, attention, proj, fc1, fc2


def _merge(name: str, merge: PatchMerge, norm: FoldedNorm, levels: int) -> FoldedGemm:
    before = batch_norm(f"{name}.norm", merge.norm)
    weight, bias = _linear(f"{name}.linear", merge.linear, None)
    theta = np.full(len(weight), theta_of(f"{name}.act", merge.act, levels))
    return FoldedGemm(name, "merge", (merge.side // 2) ** 2, merge.side, weight * before.scale,
                      bias + weight @ before.shift, theta, None, norm, before, residual="fresh")


def fold(mst: MST) -> tuple[FoldedLayer, ...]:
    """Layers of `mst` in execution order, float64 (docs/semantics.md, section 3, before rounding).

    ExportError names what has no integer form: a norm that is not a BatchNorm, an activation that is not QCFS,
    a parameter that is not finite.
    """
    mst = copy.deepcopy(mst).double().cpu()
    config = mst.config
    levels = config.levels
    layers: list[FoldedLayer] = []

    def first_norm(stage: int, block: int) -> FoldedNorm:
        name = f"s{stage}.b{block}"
        module = mst.get_submodule(f"stages.{stage}.blocks.{block}")
        assert isinstance(module, Block)
        return FoldedNorm(batch_norm(f"{name}.norm1", module.norm1),
                          theta_of(f"{name}.act1", module.act1, levels), False, "")

    layers.append(_embed(mst, config, first_norm(0, 0)))
    for i, stage in enumerate(mst.stages):
        assert isinstance(stage, Stage)
        for j, block in enumerate(stage.blocks):
            assert isinstance(block, Block)
            after = first_norm(i, j + 1) if j + 1 < len(stage.blocks) else None
            layers += _block(f"s{i}.b{j}", block, first_norm(i, j), levels, after)
        if stage.merge is not None:
            layers.append(_merge(f"s{i}.merge", stage.merge, first_norm(i + 1, 0), levels))
    last = batch_norm("norm", mst.norm)
    weight, bias = _linear("head", mst.head, None)
    layers.append(FoldedGemm("head", "head", 1, config.side(len(config.depths) - 1), weight * last.scale,
                             bias + weight @ last.shift, None, None, None, last))
    return tuple(layers)
