"""Random state dicts of the authors' code for tests: key names as published, sizes small, activity as in a trained network."""
import torch
from torch import Tensor

NORM = ("weight", "bias", "running_mean", "running_var")


def random_state(seed: int = 0, *, image: int = 16, channels: int = 3, classes: int = 5, patch: int = 2, embedding: int = 8,
                 depths: tuple[int, ...] = (2, 1), heads: tuple[int, ...] = (2, 4), window: int = 4, ratio: float = 2.0,
                 mlp_norm: bool = True, qkv_bias: bool = True, patch_norm: bool = True,
                 position: bool = False, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """A state dict in the published names; every number is exact in float32, so that both dtypes hold the same network."""
    random = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return (low + (high - low) * torch.rand(shape, generator=random)).float().to(dtype)

    def linear(name: str, out: int, into: int, bias: bool = True, gain: float = 1.0) -> None:
        state[f"{name}.weight"] = (gain * torch.randn(out, into, generator=random) * (2 / into) ** 0.5).to(dtype)
        if bias:
            state[f"{name}.bias"] = uniform(-0.3, 0.5, out)

    def norm(name: str, width: int) -> None:
        for part, (low, high) in zip(NORM, ((0.6, 1.4), (-0.4, 0.8), (-0.5, 0.5), (0.3, 1.2)), strict=True):
            state[f"{name}.{part}"] = uniform(low, high, width)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def act(name: str, low: float = 0.8, high: float = 2.4) -> None:
        state[f"{name}.up"] = uniform(low, high, 1)

    state["patch_embed.proj.weight"] = (torch.randn(embedding, channels, patch, patch, generator=random)
                                        / (channels * patch * patch) ** 0.5).to(dtype)
    state["patch_embed.proj.bias"] = uniform(-0.2, 0.2, embedding)
    if patch_norm:
        norm("patch_embed.norm", embedding)
    act("patch_embed.proj_if")
    side, width, most = image // patch, embedding, window
    for i, depth in enumerate(depths):
        window = min(most, side)
        for j in range(depth):
            name = f"layers.{i}.blocks.{j}"
            norm(f"{name}.norm1", width)
            act(f"{name}.shortcut1_if")
            state[f"{name}.attn.relative_position_bias_table"] = uniform(-1.5, 1.5, (2 * window - 1) ** 2, heads[i])
            state[f"{name}.attn.relative_position_index"] = swin_index(window)
            shift = window // 2 if j % 2 and side > window else 0
            if shift:
                state[f"{name}.attn_mask"] = swin_mask(side, window, shift).to(dtype)
            linear(f"{name}.attn.qkv", 3 * width, width, qkv_bias)
            for part in ("q_if", "k_if", "v_if", "attn_if"):
                act(f"{name}.attn.{part}")
            act(f"{name}.attn.attn_v_if", 0.3, 0.6)
            linear(f"{name}.attn.proj", width, width, gain=2.0)
            act(f"{name}.attn.proj_if")
            norm(f"{name}.norm2", width)
            act(f"{name}.shortcut2_if")
            hidden = int(width * ratio)
            linear(f"{name}.mlp.fc1", hidden, width)
            linear(f"{name}.mlp.fc2", width, hidden)
            if mlp_norm:
                norm(f"{name}.mlp.norm1", hidden)
                norm(f"{name}.mlp.norm2", width)
            act(f"{name}.mlp.fc1_if")
            act(f"{name}.mlp.fc2_if")
        if i + 1 < len(depths):
            norm(f"layers.{i}.downsample.norm", 4 * width)
            linear(f"layers.{i}.downsample.reduction", 2 * width, 4 * width, bias=False)
            act(f"layers.{i}.downsample.reduction_if")
            side, width = side // 2, 2 * width
    state["norm.weight"], state["norm.bias"] = uniform(0.6, 1.4, width), uniform(-0.4, 0.4, width)
    linear("head", classes, width)
    if position:
        state["absolute_pos_embed"] = uniform(-0.5, 0.5, 1, (image // patch) ** 2, embedding)
    return state


def swin_index(window: int) -> Tensor:
    """`relative_position_index` as Swin stores it: int64 [w*w, w*w]."""
    place = [(y, x) for y in range(window) for x in range(window)]
    return torch.tensor([[(ay - by + window - 1) * (2 * window - 1) + ax - bx + window - 1 for by, bx in place]
                         for ay, ax in place])


def swin_mask(side: int, window: int, shift: int) -> Tensor:
    """`attn_mask` as Swin stores it: [windows, w*w, w*w], 0 or -100."""
    def region(y: int, x: int) -> tuple[int, int]:
        return (y >= side - window) + (y >= side - shift), (x >= side - window) + (x >= side - shift)
    out = []
    for top in range(0, side, window):
        for left in range(0, side, window):
            kinds = [region(top + y, left + x) for y in range(window) for x in range(window)]
            out.append([[0.0 if a == b else -100.0 for b in kinds] for a in kinds])
    return torch.tensor(out)


def random_images(seed: int, count: int, image: int = 16, channels: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    """Images of unit variance whose neighbours resemble each other, exact in float32."""
    random = torch.Generator().manual_seed(seed)
    small = torch.randn(count, channels, image // 2, image // 2, generator=random)
    fine = torch.randn(count, channels, image, image, generator=random)
    return (0.8 * small.repeat_interleave(2, 2).repeat_interleave(2, 3) + 0.6 * fine).to(dtype)
