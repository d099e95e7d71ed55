"""The authors' network as one of ours, with the same weights: the first step of its way to the machine.

The two compute alike, block for block (docs/reference.md, section 1), but for L: theirs is 16, ours 2^b - 1. A threshold keeps
the value of a full activation, `up`, so what changes is the grid between 0 and `up`. The LayerNorm before the head stays here,
as `final_norm = "layer"`; a training that starts from this network puts a BatchNorm in its place (`model.start`).
"""
import dataclasses
import json

import torch
from torch import Tensor

from model.config import ConfigError, MaskingConfig, ModelConfig
from model.mst import MST
from model.reference.files import options
from model.reference.network import Reference
from model.reference.shape import ReferenceModelError, Shape

ACTIVATIONS = {"shortcut1_if": "act1", "attn.q_if": "attn.q_act", "attn.k_if": "attn.k_act", "attn.v_if": "attn.v_act",
               "attn.attn_if": "attn.score_act", "attn.attn_v_if": "attn.out_act", "attn.proj_if": "attn.proj_act",
               "shortcut2_if": "act2", "mlp.fc1_if": "mlp.act1", "mlp.fc2_if": "mlp.act2"}
"""An `if` of their block -> the activation of ours."""


def config_of(shape: Shape, levels: int) -> ModelConfig:
    """Our configuration of `shape` with L = `levels` and their LayerNorm; ReferenceModelError where `[model]` cannot say it."""
    ratio = shape.hidden[0] / shape.width(0)
    try:
        config = ModelConfig(shape.image_size, shape.in_channels, shape.classes, shape.patch, shape.embedding, shape.depths,
                             shape.heads, max(shape.windows), ratio, levels, shape.mlp_norm, final_norm="layer")
    except ConfigError as error:
        raise ReferenceModelError(f"this shape has no form as {error}") from None
    for stage in range(len(shape.depths)):
        for what, ours, theirs in (("window", config.window_of(stage), shape.windows[stage]),
                                   ("hidden channels", config.hidden(stage), shape.hidden[stage])):
            if ours != theirs:
                raise ReferenceModelError(f"stage {stage} has {what} {theirs}, where [model] has one window and one mlp_ratio "
                                          f"for all stages and would give {ours}: such a network stays in floats")
    return config


def adopted(reference: Reference, levels: int) -> MST:
    """Our network with the weights of `reference`, in its dtype, L = `levels`, evaluation mode; ReferenceModelError.

    A factor of the scores other than head^-1/2 goes into q: its weights and threshold are multiplied by the quotient.
    """
    shape = reference.shape
    for why in options(reference):
        raise ReferenceModelError(f"no network of ours: {why}")
    if reference.qk_scale is not None and reference.qk_scale < 0:
        raise ReferenceModelError(f"MODEL.MST.QK_SCALE = {reference.qk_scale:g}: q would need a negative threshold")
    model = MST(config_of(shape, levels), MaskingConfig(sites=())).to(reference.head.weight.dtype)
    theirs = reference.state_dict()
    state: dict[str, Tensor] = {}

    def take(source: str, target: str) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            if f"{source}.{part}" in theirs:
                state[f"{target}.{part}"] = theirs[f"{source}.{part}"]

    def fires(source: str, target: str, factor: float = 1.0) -> None:
        up = theirs[f"{source}.up"] * factor
        if not (up > 0).all():
            raise ReferenceModelError(f"{source}.up is {up.item():g}: a neuron of ours needs a positive threshold")
        state[f"{target}.log_threshold"] = (up / levels).log().reshape(())

    # their kernel is [out, C, dy, dx], our patch (dy, dx, c)
    state["embed.linear.weight"] = theirs["patch_embed.proj.weight"].permute(0, 2, 3, 1).flatten(1)
    state["embed.linear.bias"] = theirs["patch_embed.proj.bias"]
    take("patch_embed.norm", "embed.norm")
    fires("patch_embed.proj_if", "embed.act")
    for stage, depth in enumerate(shape.depths):
        for block in range(depth):
            source, target = f"layers.{stage}.blocks.{block}", f"stages.{stage}.blocks.{block}"
            for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2", "mlp.norm1", "mlp.norm2"):
                take(f"{source}.{name}", f"{target}.{name}")
            if not shape.qkv_bias:
                state[f"{target}.attn.qkv.bias"] = torch.zeros(3 * shape.width(stage))
            state[f"{target}.attn.bias_table"] = theirs[f"{source}.attn.relative_position_bias_table"]
            width = shape.width(stage)
            factor = 1.0 if reference.qk_scale is None else reference.qk_scale * (width // shape.heads[stage]) ** 0.5
            for part in ("weight", "bias"):
                both = state[f"{target}.attn.qkv.{part}"]
                state[f"{target}.attn.qkv.{part}"] = torch.cat((both[:width] * factor, both[width:]))
            for name, ours in ACTIVATIONS.items():
                fires(f"{source}.{name}", f"{target}.{ours}", factor if name == "attn.q_if" else 1.0)
        if stage + 1 < len(shape.depths):
            take(f"layers.{stage}.downsample.norm", f"stages.{stage}.merge.norm")
            take(f"layers.{stage}.downsample.reduction", f"stages.{stage}.merge.linear")
            fires(f"layers.{stage}.downsample.reduction_if", f"stages.{stage}.merge.act")
    take("norm", "norm")
    take("head", "head")
    own = model.state_dict()
    kept = {name for name in own if name in ("mean", "std") or name.endswith("num_batches_tracked")}
    assert state.keys() == own.keys() - kept, sorted(state.keys() ^ (own.keys() - kept))
    model.load_state_dict(state | {name: own[name] for name in kept})
    return model.eval()


CONFIG = """\
# {source}, on its way to the machine: `python -m model train --config {path}` goes on from its weights
# with a BatchNorm before the head and {levels} levels, and learns from it as its teacher; then `python -m quantize export`.

[model]
{model}

[masking]
sites = "published-code"
ratio = {ratio}

[train]
dataset = {dataset}
epochs = 10
warmup_epochs = 1
rate = 2e-4
start = {start}
teacher = {start}

[machine]                  # what is left out is fitted
{machine}
planes = {planes}
"""
"""The configuration that `python -m model adopt` writes."""
ON_CHIP = 1 << 20
"""Weights of a network whose machine keeps them on chip: int8, 1 MiB of block RAM."""
SMALL = """\
lanes = 64
fire_lanes = 8"""
LARGE = """\
lanes = 256
fire_lanes = 32
attention_rows = 4
memory_bits = 512          # {weights:,} weights are too many for a chip: they come from external memory over AXI4
memory_burst = 16          # beats
memory_outstanding = 16    # bursts under way"""
"""The machine of a network with more weights, as that of configs/swin-t.toml."""


def config_text(config: ModelConfig, *, source: str, path: str, dataset: str, start: str, ratio: float = 0.0,
                weights: int = 0) -> str:
    """A configuration file that trains on from checkpoint `start`, a network of `config`, with a BatchNorm before the head.

    `ratio`: share of spikes to mask, a multiple of 1/256. `weights`: how many the network has; more than ON_CHIP get a machine
    that streams them from external memory.
    """
    found = dataclasses.asdict(dataclasses.replace(config, final_norm="batch"))
    defaults = {entry.name: entry.default for entry in dataclasses.fields(config)}
    lines = [f"{key} = {_toml(value)}" for key, value in found.items() if value != defaults[key]]
    return CONFIG.format(source=source, path=path, dataset=json.dumps(dataset), start=json.dumps(start), levels=config.levels,
                         ratio=ratio, planes=config.planes,
                         machine=LARGE.format(weights=weights) if weights > ON_CHIP else SMALL, model="\n".join(lines))


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
