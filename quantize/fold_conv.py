"""Folding of a trained VGG or ResNet: convolution, BatchNorm, pooling and pixel normalisation as one matrix a layer.

A convolution is a GEMM over gathered tokens: input `(kx*K + ky)*C + c` of an output token is channel c of tap (kx, ky).
"""
import copy

import numpy as np

from model.backbone import Backbone, ConvLayer
from model.config import CONV_SITE
from quantize.fold import Affine, ExportError, FoldedGemm, FoldedNorm, array, batch_norm, theta_of
from quantize.layers import Gather


def _tiled(affine: Affine, taps: int) -> Affine:
    """The map of every tap of a channel-wise `affine`."""
    return Affine(*(np.tile(getattr(affine, part), taps) for part in ("scale", "shift", "mean", "std")))


def fold_backbone(backbone: Backbone) -> tuple[FoldedGemm, ...]:
    """Layers of `backbone` in execution order, float64; ExportError as `quantize.fold.fold`."""
    net = copy.deepcopy(backbone).double().cpu()
    levels = net.config.levels
    mean, std = array("mean", net.mean), array("std", net.std)
    # Raw pixels: what comes before the first convolution, normalised to (pixel/255 - mean) / std.
    source, theta_in = Affine(np.ones_like(mean), np.zeros_like(mean), 255 * mean, 255 * std), 1.0
    out: list[FoldedGemm] = []
    for layer in net.layers:
        assert isinstance(layer, ConvLayer)
        shape = layer.shape
        kernel = array(f"{shape.name}.conv.weight", layer.conv.weight).transpose(0, 3, 2, 1)
        if layer.conv.bias is not None:
            raise ExportError(f"{shape.name}.conv has a bias, which its BatchNorm makes idle: build it with bias=False")
        # Average pooling: every tap stands for pool x pool tokens of the map before it.
        kernel = kernel.repeat(shape.pool, axis=1).repeat(shape.pool, axis=2) / shape.pool**2
        weight = kernel.reshape(shape.outputs, -1)
        one, none = np.ones(shape.outputs), np.zeros(shape.outputs)
        norm = Affine(one, none, none, one) if shape.fixed else batch_norm(f"{shape.name}.norm", layer.norm)
        taps = weight.shape[1] // shape.channels
        bias = norm.shift.copy()
        weight = weight * norm.scale[:, None]
        if not out:
            bias -= weight @ np.tile(mean / std, taps)
            weight = weight * np.tile(1 / (255 * std), taps)
        theta = theta_of(f"{shape.name}.act", layer.act, levels)
        follow = None
        if shape.residual and shape.hands_on:
            follow = FoldedNorm(batch_norm(f"{shape.name}.stream_norm", layer.stream_norm),
                                theta_of(f"{shape.name}.stream_act", layer.stream_act, levels), False,
                                "" if shape == net.config.plan()[-1] else CONV_SITE)
        unpooled = shape.unpooled
        out.append(FoldedGemm(shape.name, "conv", shape.tokens, shape.side, weight, bias, np.full(shape.outputs, theta), theta_in,
                              follow, _tiled(source, taps), Gather(unpooled.kernel, unpooled.stride, unpooled.padding),
                              shape.residual, not out))
        if shape.hands_on:
            source, theta_in = (norm, theta) if follow is None else (follow.affine, follow.theta)
    out.append(FoldedGemm("head", "head", 1, net.config.plan()[-1].out_side, array("head.weight", net.head.weight),
                          array("head.bias", net.head.bias), None, theta_in, None, source))
    return tuple(out)
