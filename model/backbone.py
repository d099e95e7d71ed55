"""A convolutional backbone (VGG, ResNet) with BatchNorm and QCFS, run from the plan of its configuration.

Maps are [B, C, H, W]; the names of layers and activations are those of the plan, and "<layer>.act" for the neurons on the
residual stream.
"""
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import MaskingConfig
from model.conv_config import ConvConfig, ConvShape
from model.neuron import Engine, RecordingEngine, TrainEngine
from model.qcfs import QCFS
from model.spiking import SpikingNetwork


def _as_map(shape: torch.Size, keep: Tensor) -> Tensor:
    """A mask [B, tokens, C] as a map of `shape` [B, C, H, W]."""
    return keep.transpose(1, 2).reshape(shape)


def _fired(norm: nn.Module, act: QCFS, x: Tensor, engine: Engine) -> Tensor:
    """Output of `act` for `norm` of a map x [B, C, H, W]; in training in channels-last order, as rows of channels."""
    if not isinstance(engine, TrainEngine) or isinstance(norm, nn.Identity):
        return engine.fire(act, norm(x))
    y = x.permute(0, 2, 3, 1)
    return engine.normed(norm, (act,), y.flatten(0, 2)).view(y.shape).permute(0, 3, 1, 2)


class Subsample(nn.Module):
    """Every `stride`-th token, outputs beyond the channels being 0: a 1x1 convolution with the unit matrix [outputs, C, 1, 1]."""

    weight: Tensor
    bias = None

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.register_buffer("weight", torch.eye(outputs, channels)[:, :, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, outputs, H / stride, W / stride] of a map [B, C, H, W]."""
        return functional.conv2d(x, self.weight, stride=self.stride)


class ConvLayer(nn.Module):
    """Average pooling, convolution, BatchNorm and neuron; with a residual also the BatchNorm and neuron on the stream."""

    def __init__(self, shape: ConvShape, levels: int, stream: bool = True) -> None:
        """`stream`: whether a layer with a residual has the norm and neuron on the stream (a stem leaves them to its network)."""
        super().__init__()
        self.shape = shape
        self.conv = Subsample(shape.channels, shape.outputs, shape.stride) if shape.fixed else \
            nn.Conv2d(shape.channels, shape.outputs, shape.kernel, shape.stride, bias=False)
        self.norm = nn.Identity() if shape.fixed else nn.BatchNorm2d(shape.outputs)
        self.act = QCFS(levels)
        self.act.name = shape.name
        if stream and shape.residual and shape.hands_on:
            self.stream_norm = nn.BatchNorm2d(shape.outputs)
            self.stream_act = QCFS(levels)
            self.stream_act.name = f"{shape.name}.act"

    def fired(self, x: Tensor, black: Tensor | None, engine: Engine) -> Tensor:
        """Output [B, out, H', W'] of the neurons for a map [B, C, H, W] and `black` as in `sums`."""
        return _fired(self.norm, self.act, self.sums(x, black), engine)

    def sums(self, x: Tensor, black: Tensor | None) -> Tensor:
        """Sums [B, out, H', W'] of the convolution for a map [B, C, H, W]; `black` [C, 1, 1]: what stands outside (default 0)."""
        edge = (self.shape.padding,) * 4
        if self.shape.pool > 1:
            x = functional.avg_pool2d(x, self.shape.pool)
        x = functional.pad(x, edge) if black is None else functional.pad(x - black, edge) + black
        if self.shape.kernel == 1 and self.shape.stride > 1:
            # The same sums from every stride-th token: torch 2.13's gradient of a strided 1x1 convolution crashes on processors
            # with AVX2 alone where channels are few (oneDNN).
            return functional.conv2d(x[:, :, ::self.shape.stride, ::self.shape.stride], self.conv.weight)
        return self.conv(x)  # type: ignore[no-any-return]


class Backbone(SpikingNetwork):
    """VGG or ResNet of shape `config`, with the spike masks of `masking`."""

    config: ConvConfig

    def __init__(self, config: ConvConfig, masking: MaskingConfig) -> None:
        super().__init__(config, masking)
        plan = config.plan()
        self.layers = nn.ModuleList(ConvLayer(shape, config.levels) for shape in plan)
        self.head = nn.Linear(plan[-1].outputs, config.classes)
        self.add_normalisation()

    def run(self, images: Tensor, engine: Engine) -> Tensor:
        """See SpikingNetwork.run."""
        x, stream = images, images
        # Outside of the image all pixels are 0, before normalisation: what the integers see there.
        black: Tensor | None = (-self.mean / self.std)[:, None, None]
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, ConvLayer)
            fired = engine.fire(layer.act, layer.norm(layer.sums(x, black)))
            if layer.shape.residual:
                stream = fired if layer.shape.residual == "fresh" else stream + fired
            if not layer.shape.hands_on:
                continue
            x = engine.fire(layer.stream_act, layer.stream_norm(stream)) if layer.shape.residual else fired
            if index < last:
                x = engine.mask(layer.shape.name, x, layer.shape.tokens, partial(_as_map, x.shape))
            black = None
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]

    @torch.no_grad()
    def counts(self, images: Tensor, image_index: Tensor | None = None) -> dict[str, Tensor]:
        """See SpikingNetwork.counts: [B, tokens, C] at every activation."""
        engine = RecordingEngine(self._masks(len(images), image_index))
        self.run(images, engine)
        return {name: found.flatten(2).transpose(1, 2) for name, found in engine.counts.items()}
