"""What a state dict of the authors' code says of its network: every size comes from the tensors' shapes."""
import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from model.attention import relative_index, window_mask
from model.config import table_entries
from model.limits import MOST_ENTRIES, MOST_PIXELS
from model.values import impossible

LEVELS = 16
"""L of the published network."""
POSITION = "absolute_pos_embed"
"""The value that is added to each token where MODEL.MST.APE is on."""
DERIVED = ("relative_position_index", "attn_mask")
"""Buffers that Swin code stores although they follow from the shape: compared, then left out."""
_BLOCK = re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.")
_NORM = ("weight", "bias", "running_mean", "running_var")


class ReferenceModelError(ValueError):
    """A state dict, file or argument that the reference network cannot use: one line, with the key or value and the remedy."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Shape of a reference network."""

    image_size: int = field(metadata={"doc": "side of the square input image, pixels"})
    in_channels: int = field(metadata={"doc": "image channels"})
    classes: int = field(metadata={"doc": "number of classes"})
    patch: int = field(metadata={"doc": "side of a patch"})
    embedding: int = field(metadata={"doc": "channels of the first stage; each later stage doubles them"})
    depths: tuple[int, ...] = field(metadata={"doc": "blocks in each stage"})
    heads: tuple[int, ...] = field(metadata={"doc": "attention heads in each stage"})
    windows: tuple[int, ...] = field(metadata={"doc": "side of a window in each stage, tokens"})
    hidden: tuple[int, ...] = field(metadata={"doc": "hidden channels of the MLPs in each stage"})
    mlp_norm: bool = field(metadata={"doc": "BatchNorm after both MLP layers (the ImageNet variant)"})
    qkv_bias: bool = field(metadata={"doc": "the q/k/v layers have a bias"})
    patch_norm: bool = field(default=True, metadata={"doc": "BatchNorm after the patch embedding (MODEL.MST.PATCH_NORM)"})
    position: bool = field(default=False, metadata={"doc": "a learned value is added to each token (MODEL.MST.APE)"})

    def side(self, stage: int) -> int:
        """Tokens along one side of the map in `stage`."""
        return self.image_size // self.patch // 2**stage

    def width(self, stage: int) -> int:
        """Channels of `stage`."""
        return self.embedding * 2**stage

    def shift(self, stage: int, block: int) -> int:
        """Cyclic shift of `block`: half a window in odd blocks, none where one window covers the map."""
        return self.windows[stage] // 2 if block % 2 and self.side(stage) > self.windows[stage] else 0

    def __str__(self) -> str:
        ratios = [self.hidden[i] / self.width(i) for i in range(len(self.depths))]
        ratio = "-".join(f"{r:g}" for r in (ratios if len(set(ratios)) > 1 else ratios[:1]))
        listed = {name: "-".join(map(str, getattr(self, name))) for name in ("depths", "heads", "windows")}
        return (f"image {self.image_size}x{self.image_size}x{self.in_channels}, patch {self.patch}, embedding {self.embedding}, "
                f"depths {listed['depths']}, heads {listed['heads']}, windows {listed['windows']}, MLP ratio {ratio}, "
                f"MLP norms {'yes' if self.mlp_norm else 'no'}, qkv bias {'yes' if self.qkv_bias else 'no'}, "
                f"{self.classes} classes{'' if self.patch_norm else ', no norm after the patch embedding'}"
                f"{', absolute position embedding' if self.position else ''}")


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the prefix that wrappers such as DistributedDataParallel put before every key (`module.`) removed."""
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ReferenceModelError(f"state dict: {str(key)[:60]!r} is a {type(value).__name__}, not a tensor: "
                                 "give the `model` entry of the checkpoint")
    first = next((key for key in state if key.endswith("patch_embed.proj.weight")), None)
    if first is None:
        raise ReferenceModelError("state dict: lacks patch_embed.proj.weight: not a network of the authors' code"
                             + (f" (its first key is {next(iter(state))!r})" if state else " (it is empty)"))
    prefix = first.removesuffix("patch_embed.proj.weight")
    other = next((key for key in state if not key.startswith(prefix)), None)
    if other is not None:
        raise ReferenceModelError(f"state dict: {other!r} lacks the prefix {prefix!r} of the other keys: remove it from all")
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _needed(state: Mapping[str, Tensor], key: str, dimensions: int) -> Tensor:
    if key not in state:
        raise ReferenceModelError(f"state dict: lacks {key}: not a whole network of the authors' code")
    if state[key].ndim != dimensions or not state[key].numel():
        raise ReferenceModelError(f"state dict: {key} has shape {list(state[key].shape)}, not {dimensions} dimensions")
    return state[key]


def _depths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    found: dict[int, set[int]] = {}
    for key in state:
        match = _BLOCK.match(key)
        if match:
            if max(len(match[1]), len(match[2])) > 4:
                raise ReferenceModelError(f"state dict: unknown {key[:80]}: not of the authors' network")
            found.setdefault(int(match[1]), set()).add(int(match[2]))
    for stage in range(max(found, default=0) + 1):
        blocks = found.get(stage, set())
        missing = next((block for block in range(max(blocks, default=0) + 1) if block not in blocks), None)
        if missing is not None:
            raise ReferenceModelError(f"state dict: lacks layers.{stage}.blocks.{missing}.norm1.weight: "
                                 "not a whole network of the authors' code")
    return tuple(len(found[stage]) for stage in range(len(found)))


def _window(key: str, table: Tensor) -> int:
    side = math.isqrt(len(table))
    if side * side != len(table) or side % 2 == 0:
        raise ReferenceModelError(f"state dict: {key} has {len(table)} rows, not (2w-1)^2 for a square window of side w")
    return (side + 1) // 2


def shape_of(state: Mapping[str, Tensor], image_size: int, classes: int | None = None) -> Shape:
    """Shape of the network of `state` (keys without prefix) for images of `image_size` pixels.

    ReferenceModelError where a tensor that fixes a size is missing, or sizes contradict each other, `image_size` or `classes`.
    """
    kernel = _needed(state, "patch_embed.proj.weight", 4)
    embedding, channels, patch, across = kernel.shape
    if patch != across:
        raise ReferenceModelError(f"state dict: patch_embed.proj.weight has a {patch}x{across} kernel, not a square one")
    found = len(_needed(state, "head.weight", 2))
    if classes is not None and classes != found:
        raise ReferenceModelError(f"classes = {classes}, but head.weight has {found} rows: give classes={found}")
    if type(image_size) is not int or not patch <= image_size <= MOST_PIXELS or image_size % patch:
        raise ReferenceModelError(f"image_size = {image_size!r} is not a multiple of the patch of {patch} pixels "
                                  f"up to {MOST_PIXELS}")
    depths = _depths(state)
    heads, windows, hidden = [], [], []
    for stage in range(len(depths)):
        block = f"layers.{stage}.blocks.0"
        name = f"{block}.attn.relative_position_bias_table"
        table = _needed(state, name, 2)
        heads.append(table.shape[1])
        windows.append(_window(name, table))
        hidden.append(len(_needed(state, f"{block}.mlp.fc1.weight", 2)))
    shape = Shape(image_size, channels, found, patch, embedding, depths, tuple(heads), tuple(windows), tuple(hidden),
                  "layers.0.blocks.0.mlp.norm1.weight" in state, "layers.0.blocks.0.attn.qkv.bias" in state,
                  any(key.startswith("patch_embed.norm.") for key in state), POSITION in state)
    for stage in range(len(depths)):
        side, window = shape.side(stage), shape.windows[stage]
        if stage and shape.side(stage - 1) % 2:
            raise ReferenceModelError(f"image_size = {image_size}: stage {stage - 1} has {shape.side(stage - 1)} tokens a side, "
                                 "which patch merging cannot halve: give the size that the network was trained for")
        if not heads[stage] or not hidden[stage]:
            raise ReferenceModelError(f"state dict: stage {stage} has {heads[stage]} heads and {hidden[stage]} hidden channels")
        if side < window or side % window or (window < max(windows) and side != window):
            raise ReferenceModelError(f"image_size = {image_size}: windows of side {window} (bias table of stage {stage}) do "
                                      f"not fit its map of side {side}: give the size that the network was trained for")
        if shape.width(stage) % shape.heads[stage]:
            raise ReferenceModelError(f"state dict: {shape.heads[stage]} heads (bias table of stage {stage}) do not divide "
                                 f"its {shape.width(stage)} channels")
    entries = table_entries(depths, [shape.side(stage) for stage in range(len(depths))], windows)
    if entries > MOST_ENTRIES:
        raise ReferenceModelError(f"image_size = {image_size}: windows of {windows} give tables of {entries} positions, "
                                  f"more than {MOST_ENTRIES}: give the size that the network was trained for")
    return shape


def wanted(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Every key that a network of `shape` needs, with the tensor's shape (the counters of BatchNorm are optional)."""
    keys: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int, bias: bool = True) -> None:
        keys[f"{name}.weight"] = (out, into)
        if bias:
            keys[f"{name}.bias"] = (out,)

    def norm(name: str, channels: int) -> None:
        keys.update({f"{name}.{part}": (channels,) for part in _NORM})

    keys["patch_embed.proj.weight"] = (shape.embedding, shape.in_channels, shape.patch, shape.patch)
    keys["patch_embed.proj.bias"] = (shape.embedding,)
    if shape.patch_norm:
        norm("patch_embed.norm", shape.embedding)
    if shape.position:
        keys[POSITION] = (1, shape.side(0)**2, shape.embedding)
    keys["patch_embed.proj_if.up"] = (1,)
    for stage, depth in enumerate(shape.depths):
        width, hidden = shape.width(stage), shape.hidden[stage]
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            norm(f"{name}.norm1", width)
            linear(f"{name}.attn.qkv", 3 * width, width, shape.qkv_bias)
            linear(f"{name}.attn.proj", width, width)
            keys[f"{name}.attn.relative_position_bias_table"] = ((2 * shape.windows[stage] - 1) ** 2, shape.heads[stage])
            norm(f"{name}.norm2", width)
            linear(f"{name}.mlp.fc1", hidden, width)
            linear(f"{name}.mlp.fc2", width, hidden)
            if shape.mlp_norm:
                norm(f"{name}.mlp.norm1", hidden)
                norm(f"{name}.mlp.norm2", width)
            for act in ("shortcut1_if", "attn.q_if", "attn.k_if", "attn.v_if", "attn.attn_if", "attn.attn_v_if",
                        "attn.proj_if", "shortcut2_if", "mlp.fc1_if", "mlp.fc2_if"):
                keys[f"{name}.{act}.up"] = (1,)
        if stage + 1 < len(shape.depths):
            name = f"layers.{stage}.downsample"
            norm(f"{name}.norm", 4 * width)
            linear(f"{name}.reduction", 2 * width, 4 * width, bias=False)
            keys[f"{name}.reduction_if.up"] = (1,)
    last = shape.width(len(shape.depths) - 1)
    keys["norm.weight"] = keys["norm.bias"] = (last,)
    linear("head", shape.classes, last)
    return keys


def checked(state: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """The tensors of `state` that a network of `shape` needs; ReferenceModelError names what is missing, unknown or misshapen.

    Accepted besides: `num_batches_tracked`, and DERIVED buffers that hold what the shape gives. An `up` may be a scalar.
    """
    keys = wanted(shape)
    missing = [key for key in keys if key not in state]
    if missing:
        raise ReferenceModelError(f"state dict: lacks {_listed(missing)}: not a whole network of the authors' code")
    extra = [key for key in state if key not in keys]
    unknown = [key for key in extra if not (key.endswith(DERIVED) and _BLOCK.match(key) or
                                            key.endswith(".num_batches_tracked") and
                                            key.removesuffix("num_batches_tracked") + "running_mean" in keys)]
    if unknown:
        raise ReferenceModelError(f"state dict: unknown {_listed(unknown)}: not of the authors' network; remove what "
                                  "has no part in it")
    for key in extra:
        if key.endswith(DERIVED):
            _check_derived(key, state[key], shape)
    found = {}
    for key, size in keys.items():
        tensor = state[key].reshape(size) if key.endswith(".up") and state[key].numel() == 1 else state[key]
        if tuple(tensor.shape) != size:
            raise ReferenceModelError(f"state dict: {key} has shape {list(tensor.shape)}, not {list(size)}")
        if not tensor.is_floating_point():
            raise ReferenceModelError(f"state dict: {key} is {tensor.dtype}, not of floats")
        if not bool(tensor.isfinite().all()):
            raise ReferenceModelError(f"state dict: {key} holds a value that is not finite: take an earlier checkpoint")
        if wrong := impossible({key: tensor}):
            raise ReferenceModelError(f"state dict: {wrong}: take an earlier checkpoint")
        if key.endswith(".up") and not float(tensor):
            raise ReferenceModelError(f"state dict: {key} is 0, and activations are divided by it: take an earlier checkpoint")
        found[key] = tensor
    return found


def _check_derived(key: str, tensor: Tensor, shape: Shape) -> None:
    match = _BLOCK.match(key)
    assert match is not None
    stage, block = int(match[1]), int(match[2])
    if stage >= len(shape.depths) or block >= shape.depths[stage]:
        raise ReferenceModelError(f"state dict: unknown {key}")
    window, side, shift = shape.windows[stage], shape.side(stage), shape.shift(stage, block)
    if key.endswith("relative_position_index"):
        good = tuple(tensor.shape) == (window**2, window**2) and bool((tensor == relative_index(window)).all())
    else:
        known = window_mask(side, window, shift)
        good = bool(shift) and tensor.shape == known.shape and bool((tensor == known).all())
    if not good:
        raise ReferenceModelError(f"state dict: {key} of shape {list(tensor.shape)} is not that of windows of side {window} on a "
                                  f"map of side {side} (image_size = {shape.image_size}): give the size that it was trained for")


def _listed(keys: list[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more keys"


def guess_image_size(state: Mapping[str, Tensor]) -> int | None:
    """Image size (pixels) that the stored region masks imply, None where there is none."""
    for key, value in state.items():
        match = _BLOCK.match(key)
        if match and key.endswith("attn_mask") and value.ndim == 3:
            side = math.isqrt(value.shape[0] * value.shape[1])
            kernel = state.get("patch_embed.proj.weight")
            return None if kernel is None else side * 2 ** int(match[1]) * kernel.shape[-1]
    return None


def as_dict(shape: Shape) -> dict[str, object]:
    """`shape` as JSON-ready data."""
    return dataclasses.asdict(shape)
