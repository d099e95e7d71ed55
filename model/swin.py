"""Swin blocks with norms and spiking activations: patch embedding, MLP, block, patch merging, stage.

Tokens are [B, N, C] in raster order; norms work on [B*N, C].
"""
import torch
from torch import Tensor, nn

from model.attention import WindowAttention
from model.backbone import ConvLayer
from model.config import ModelConfig
from model.neuron import Engine
from model.norm import new_norm, normalise
from model.qcfs import QCFS


def patches(images: Tensor, patch: int) -> Tensor:
    """Images [B, C, H, W] -> [B, tokens, patch*patch*C]: raster order of patches, channel order (dy, dx, c)."""
    batch, channels, height, width = images.shape
    x = images.view(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


class PatchEmbed(nn.Module):
    """Linear layer on non-overlapping patches, norm, activation."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.linear = nn.Linear(config.patch**2 * config.in_channels, config.embedding)
        self.norm = new_norm(config.norm, config.embedding)
        self.act = QCFS(config.levels)

    def forward(self, images: Tensor, engine: Engine) -> Tensor:
        """Images [B, C, H, W] -> tokens [B, N, embedding]."""
        x = patches(images, self.patch)
        return engine.normed(self.norm, (self.act,), self.linear(x.flatten(0, 1))).unflatten(0, x.shape[:2])


class ConvStem(nn.Module):
    """3x3 convolutions, each with BatchNorm and activation, in place of the patch embedding (`[model] stem`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvLayer(shape, config.levels, stream=False) for shape in config.stem_plan())

    @property
    def act(self) -> QCFS:
        """The activation of the last convolution: the neurons that start the residual stream."""
        last = self.layers[-1]
        assert isinstance(last, ConvLayer)
        return last.act

    def forward(self, images: Tensor, black: Tensor, engine: Engine) -> Tensor:
        """Images [B, C, H, W] -> tokens [B, N, embedding]; `black` [C, 1, 1]: the value of a pixel 0, which stands outside."""
        x, outside = images.contiguous(memory_format=torch.channels_last), black
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, ConvLayer)
            x = layer.fired(x, None if index else outside, engine)
        return x.flatten(2).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear layers, each with an optional norm (`norm`: its kind, "" for none) and an activation."""

    def __init__(self, channels: int, hidden: int, levels: int, norm: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.norm1: nn.Module | None = new_norm(norm, hidden) if norm else None
        self.act1 = QCFS(levels)
        self.fc2 = nn.Linear(hidden, channels)
        self.norm2: nn.Module | None = new_norm(norm, channels) if norm else None
        self.act2 = QCFS(levels)

    def forward(self, x: Tensor, engine: Engine) -> Tensor:
        """Tokens [B, N, C] -> [B, N, C]."""
        rows = x.flatten(0, 1)
        h = engine.normed(self.norm1, (self.act1,), self.fc1(rows)).unflatten(0, x.shape[:2])
        h = engine.mask(self.act1.name, h, h.shape[1]).flatten(0, 1)
        return engine.normed(self.norm2, (self.act2,), self.fc2(h)).unflatten(0, x.shape[:2])


class Block(nn.Module):
    """One transformer block; the MLP's shortcut starts after its norm, as in the reference."""

    def __init__(self, config: ModelConfig, stage: int, block: int) -> None:
        super().__init__()
        channels, levels = config.width(stage), config.levels
        self.norm1 = new_norm(config.norm, channels)
        self.act1 = QCFS(levels)
        self.attn = WindowAttention(channels, config.heads[stage], config.side(stage), config.window_of(stage),
                                    config.shift_of(stage, block), levels, config.norm if config.qkv_norm else "",
                                    turn=block / 4)
        self.norm2 = new_norm(config.norm, channels)
        self.act2 = QCFS(levels)
        self.mlp = Mlp(channels, config.hidden(stage), levels, config.norm if config.mlp_norm else "")

    def forward(self, x: Tensor, engine: Engine) -> Tensor:
        """Tokens [B, N, C] -> [B, N, C]."""
        shape = x.shape[:2]
        y = engine.normed(self.norm1, (self.act1,), x.flatten(0, 1)).unflatten(0, shape)
        x = x + engine.branch(self.act1.name, self.attn(y, engine))
        h, x = (rows.unflatten(0, shape) for rows in engine.normed_both(self.norm2, self.act2, x.flatten(0, 1)))
        h = engine.mask(self.act2.name, h, x.shape[1])
        return x + engine.branch(self.act2.name, self.mlp(h, engine))  # type: ignore[no-any-return]


class PatchMerge(nn.Module):
    """Four neighbouring tokens -> one of twice the width: concatenate, norm, linear without bias, activation."""

    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        self.side = config.side(stage)
        channels = config.width(stage)
        self.norm = new_norm(config.norm, 4 * channels)
        self.linear = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.act = QCFS(config.levels)

    def forward(self, x: Tensor, engine: Engine) -> Tensor:
        """Tokens [B, N, C] -> [B, N/4, 2C]; phases (row, column) in the order (0,0), (1,0), (0,1), (1,1)."""
        batch, _, channels = x.shape
        half = self.side // 2
        x = x.view(batch, half, 2, half, 2, channels).permute(0, 1, 3, 4, 2, 5).reshape(batch, half * half, -1)
        return engine.fire(self.act, self.linear(normalise(self.norm, x)))


class Stage(nn.Module):
    """Blocks at one resolution and, except in the last stage, the merge that leaves it."""

    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, stage, block) for block in range(config.depths[stage]))
        self.merge = PatchMerge(config, stage) if stage + 1 < len(config.depths) else None

    def forward(self, x: Tensor, engine: Engine) -> Tensor:
        """Tokens [B, N, C] of this stage -> tokens of the next one (or of this one, in the last stage)."""
        for block in self.blocks:
            x = block(x, engine)
        return x if self.merge is None else self.merge(x, engine)


def mean_tokens(x: Tensor) -> Tensor:
    """Mean over tokens: [B, N, C] -> [B, C]."""
    return torch.mean(x, 1)
