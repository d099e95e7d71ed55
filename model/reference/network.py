"""The authors' network, rebuilt from what it computes: QCFS network and step-by-step spiking conversion.

Source: Wang et al., "Masked Spiking Transformer", ICCV 2023, and its published implementation, as described in
docs/reference.md. Modules are named as the state dict's keys. Thresholds decide, so that a rounding error can become a
spike: the order of the floating-point operations is part of the contract, and comments say where it matters.
"""
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from model.attention import partition, relative_index, unpartition, window_mask
from model.reference.shape import LEVELS, ReferenceModelError, Shape, checked, shape_of, without_prefix

MODES = ("qcfs", "stepwise")


class If(nn.Module):
    """One `if`: QCFS with L levels, or, where `spiking`, an integrate-and-fire neuron with soft reset.

    `up` [1] is the value of a full activation and of a spike; the potential `v` is in units of it, and starts at 1/2.
    """

    up: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.full((1,), 2.0))
        self.levels = levels
        self.spiking = False
        self.v: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x: float, any shape -> the same shape."""
        if not self.spiking:
            # x / up * L equals x * L / up bit for bit where L is a power of two.
            return torch.clamp(torch.floor(x / self.up * self.levels + 0.5) / self.levels, 0, 1) * self.up
        up = self.up.item()
        v = (0.5 if self.v is None else self.v) + x / up
        spike = (v >= 1).to(x.dtype)
        self.v = v - spike
        return spike * up


def batch_norm(channels: int) -> nn.BatchNorm1d:
    """BatchNorm over channels, eps 1e-5; works on [B, C, N]."""
    return nn.BatchNorm1d(channels)


def over_channels(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """`norm` on tokens [B, N, C]. On [B, C, N] and back, as published: another layout may take another kernel."""
    return norm(x.transpose(1, 2).contiguous()).transpose(1, 2).contiguous()  # type: ignore[no-any-return]


class SpikeMask:
    """Random Spike Masking as published: keep where uniform > ratio, drawn anew at every call, no rescaling.

    Draws come from torch in the published order (q, k, scores), so that one seed gives the masks of the authors' code.
    At ratio 0 nothing is drawn unless `always`: the published code draws there too, and loses the one spike in 2^24
    whose draw is exactly 0.
    """

    def __init__(self, ratio: float, always: bool = False) -> None:
        if not 0 <= ratio < 1:
            raise ReferenceModelError(f"mask_ratio must be in [0, 1), not {ratio}")
        self.ratio = ratio
        self.draws = always or ratio > 0

    def __call__(self, x: Tensor) -> Tensor:
        """x with each entry set to 0 with probability `ratio`."""
        return x * (torch.rand(x.shape, device=x.device) > self.ratio) if self.draws else x


class Attention(nn.Module):
    """Multi-head attention inside windows; every operand and result passes an `if`."""

    index: Tensor
    region: Tensor | None

    def __init__(self, shape: Shape, stage: int, block: int, levels: int, mask: SpikeMask, scale: float | None) -> None:
        super().__init__()
        channels, window, shift = shape.width(stage), shape.windows[stage], shape.shift(stage, block)
        self.heads, self.head = shape.heads[stage], channels // shape.heads[stage]
        self.mask = mask
        self.scale = self.head**-0.5 if scale is None else scale
        self.qkv = nn.Linear(channels, 3 * channels, bias=shape.qkv_bias)
        self.q_if, self.k_if, self.v_if = If(levels), If(levels), If(levels)
        self.attn_if, self.attn_v_if = If(levels), If(levels)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, self.heads))
        self.proj = nn.Linear(channels, channels)
        self.proj_if = If(levels)
        self.register_buffer("index", relative_index(window), persistent=False)
        self.register_buffer("region", window_mask(shape.side(stage), window, shift) if shift else None, persistent=False)

    def bias(self) -> Tensor:
        """Relative position bias [heads, n, n]."""
        return self.relative_position_bias_table[self.index].permute(2, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Windows [B * windows, n, C] -> the same shape."""
        count, n, channels = x.shape
        q, k, v = self.qkv(x).reshape(count, n, 3, self.heads, self.head).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.mask(self.q_if(q)), self.mask(self.k_if(k))
        # The product is scaled, not q: the rounding of the sum differs. head ** -0.5 as a factor, as Swin code does.
        score = self.mask(self.attn_if((q @ k.transpose(-2, -1)) * self.scale))
        v = self.v_if(v)
        score = score + self.bias()
        if self.region is not None:
            score = (score.view(-1, *self.region.shape[:1], self.heads, n, n) + self.region[:, None]).view(count, -1, n, n)
        out = (torch.softmax(score, -1) @ v).transpose(1, 2).reshape(count, n, channels)
        return self.proj_if(self.proj(self.attn_v_if(out)))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers, each with an optional BatchNorm (the ImageNet variant) and an `if`."""

    def __init__(self, channels: int, hidden: int, levels: int, norm: bool) -> None:
        super().__init__()
        self.fc1, self.fc1_if = nn.Linear(channels, hidden), If(levels)
        self.fc2, self.fc2_if = nn.Linear(hidden, channels), If(levels)
        self.norm1 = batch_norm(hidden) if norm else None
        self.norm2 = batch_norm(channels) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, C] -> the same shape."""
        x = self.fc1(x)
        x = self.fc1_if(x if self.norm1 is None else over_channels(self.norm1, x))
        x = self.fc2(x)
        return self.fc2_if(x if self.norm2 is None else over_channels(self.norm2, x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One transformer block. The shortcut of the MLP is taken after the second norm."""

    def __init__(self, shape: Shape, stage: int, block: int, levels: int, mask: SpikeMask, scale: float | None) -> None:
        super().__init__()
        channels = shape.width(stage)
        self.side, self.window, self.shift = shape.side(stage), shape.windows[stage], shape.shift(stage, block)
        self.norm1, self.shortcut1_if = batch_norm(channels), If(levels)
        self.attn = Attention(shape, stage, block, levels, mask, scale)
        self.norm2, self.shortcut2_if = batch_norm(channels), If(levels)
        self.mlp = Mlp(channels, shape.hidden[stage], levels, shape.mlp_norm)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, C] in raster order -> the same shape."""
        y = self.shortcut1_if(over_channels(self.norm1, x))
        y = self.attn(partition(y, self.side, self.window, self.shift))
        x = x + unpartition(y, self.side, self.window, self.shift)
        x = over_channels(self.norm2, x)
        return x + self.mlp(self.shortcut2_if(x))  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """Patch merging: 2x2 tokens -> one of twice the width."""

    def __init__(self, shape: Shape, stage: int, levels: int) -> None:
        super().__init__()
        self.side, channels = shape.side(stage), shape.width(stage)
        self.norm = batch_norm(4 * channels)
        self.reduction, self.reduction_if = nn.Linear(4 * channels, 2 * channels, bias=False), If(levels)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, C] -> [B, N/4, 2C]; phases (row, column) in the order (0,0), (1,0), (0,1), (1,1)."""
        batch, _, channels = x.shape
        half = self.side // 2
        x = x.view(batch, half, 2, half, 2, channels).permute(0, 1, 3, 4, 2, 5).reshape(batch, half * half, 4 * channels)
        return self.reduction_if(self.reduction(over_channels(self.norm, x)))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Blocks at one resolution and, except in the last stage, the merging that leaves it."""

    def __init__(self, shape: Shape, stage: int, levels: int, mask: SpikeMask, scale: float | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(shape, stage, block, levels, mask, scale) for block in range(shape.depths[stage]))
        self.downsample = Downsample(shape, stage, levels) if stage + 1 < len(shape.depths) else None

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of this stage -> tokens of the next one (of this one, in the last stage)."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    """Convolution on non-overlapping patches, BatchNorm over channels (where the network has one there), `if`."""

    def __init__(self, shape: Shape, levels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(shape.in_channels, shape.embedding, shape.patch, shape.patch)
        self.norm, self.proj_if = batch_norm(shape.embedding) if shape.patch_norm else None, If(levels)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> tokens [B, N, embedding]."""
        x = self.proj(images).flatten(2).transpose(1, 2)
        return self.proj_if(x if self.norm is None else over_channels(self.norm, x))  # type: ignore[no-any-return]


class Reference(nn.Module):
    """The authors' network of one `shape`; always in evaluation mode (running statistics, no drop path).

    `levels` is L of the QCFS network; `mask_ratio` masks spikes of q, k and scores, at every call anew, and at ratio 0
    too where `always_draw`, as published (`SpikeMask`). `qk_scale` is the factor of the scores (None: head^-1/2).
    """

    absolute_pos_embed: Tensor | None

    def __init__(self, shape: Shape, levels: int = LEVELS, mask_ratio: float = 0.0, qk_scale: float | None = None,
                 always_draw: bool = False) -> None:
        super().__init__()
        if type(levels) is not int or levels < 1:
            raise ReferenceModelError(f"levels must be a whole number of at least 1, not {levels!r}")
        if qk_scale is not None and not (isinstance(qk_scale, int | float) and math.isfinite(qk_scale) and qk_scale):
            raise ReferenceModelError(f"qk_scale must be a finite number other than 0, not {qk_scale!r}")
        self.shape, self.levels, mask = shape, levels, SpikeMask(mask_ratio, always_draw)
        self.mask_ratio, self.qk_scale = mask_ratio, qk_scale
        self.patch_embed = PatchEmbed(shape, levels)
        self.register_parameter("absolute_pos_embed", nn.Parameter(torch.zeros(1, shape.side(0)**2, shape.embedding))
                                if shape.position else None)
        self.layers = nn.ModuleList(Layer(shape, stage, levels, mask, qk_scale) for stage in range(len(shape.depths)))
        channels = shape.width(len(shape.depths) - 1)
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, shape.classes)
        self.requires_grad_(False).eval()

    @property
    def parameters_count(self) -> int:
        """Learned numbers: weights, biases, bias tables, thresholds."""
        return sum(p.numel() for p in self.parameters())

    def train(self, mode: bool = True) -> "Reference":
        """ReferenceModelError for `mode` true: this network is for inference."""
        if mode:
            raise ReferenceModelError("the reference network only infers: train model.mst.MST instead")
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """One pass, of one time step where the neurons spike: images [B, C, H, W] -> logits [B, classes]."""
        x = self.patch_embed(images)
        if self.absolute_pos_embed is not None:
            x = x + self.absolute_pos_embed
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))  # type: ignore[no-any-return]

    def _reset(self, spiking: bool) -> None:
        for module in self.modules():
            if isinstance(module, If):
                module.spiking, module.v = spiking, None

    def _in_dtype_of(self, images: Tensor) -> Callable[[Tensor], Tensor]:
        """`forward` in the wider of the network's and the images' dtypes: float64 images are not rounded to float32."""
        own = self.head.weight.dtype
        dtype = torch.promote_types(own, images.dtype)
        if dtype == own:
            return lambda x: self(x.to(own))  # type: ignore[no-any-return]
        tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor
                   for name, tensor in (*self.named_parameters(), *self.named_buffers())}
        return lambda x: torch.func.functional_call(self, tensors, (x,))  # type: ignore[no-any-return]

    @torch.no_grad()
    def logits(self, images: Tensor, mode: str = "qcfs", steps: int | None = None) -> Tensor:
        """Logits of normalised images [B, C, H, W], in the wider of the network's and the images' dtypes.

        `qcfs`: [B, classes]. `stepwise`: running sums over `steps` time steps, [steps, B, classes]; each call starts from
        potentials of 1/2, and every step feeds the same images. ReferenceModelError for an unknown mode, bad steps or images.
        """
        if mode not in MODES:
            raise ReferenceModelError(f"unknown mode {mode!r}; known: {', '.join(MODES)}")
        size = (self.shape.in_channels, self.shape.image_size, self.shape.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != size or not len(images):
            raise ReferenceModelError(f"images have shape {list(images.shape)}, not [B, {', '.join(map(str, size))}]")
        if not images.is_floating_point():
            raise ReferenceModelError(f"images are {images.dtype}, not floating-point: normalise them first")
        if not images.isfinite().all():
            raise ReferenceModelError("images hold values that are not finite")
        run = self._in_dtype_of(images)
        images = images.to(self.head.weight.device)
        if mode == "qcfs":
            self._reset(spiking=False)
            return run(images)
        if type(steps) is not int or steps < 1:
            raise ReferenceModelError(f"stepwise needs steps=T of at least 1, not {steps!r}")
        self._reset(spiking=True)
        try:
            sums: list[Tensor] = []
            for _ in range(steps):
                now = run(images)
                sums.append(sums[-1] + now if sums else now)
            return torch.stack(sums)
        finally:
            self._reset(spiking=False)


def from_state_dict(state_dict: Mapping[str, Tensor], image_size: int, classes: int | None = None, *,
                    levels: int = LEVELS, mask_ratio: float = 0.0, qk_scale: float | None = None,
                    always_draw: bool = False) -> Reference:
    """The network of a state dict of the authors' code (a checkpoint's `model`), in its dtype (float32 at least).

    All sizes come from the tensors' shapes; `classes`, where given, must agree. `levels` and what follows it are those of
    `Reference`. Prefixes such as `module.` and the
    buffers that Swin code stores are accepted. ReferenceModelError: one line that names the key that is missing or unknown.
    """
    state = without_prefix(state_dict)
    shape = shape_of(state, image_size, classes)
    tensors = checked(state, shape)
    model = Reference(shape, levels, mask_ratio, qk_scale, always_draw)
    wide = tensors["head.weight"].dtype == torch.float64
    model.to(torch.float64 if wide else torch.float32)
    own = model.state_dict()
    model.load_state_dict({key: tensors.get(key, value) for key, value in own.items()})
    return model
