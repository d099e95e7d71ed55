"""Augmentation of uint8 batches beyond crop and flip: RandAugment, random erasing, mixup and CutMix, without torchvision.

Sources: RandAugment, Cubuk et al., CVPR Workshops 2020; random erasing, Zhong et al., AAAI 2020; mixup, Zhang et al., ICLR
2018; CutMix, Yun et al., ICCV 2019. What is random is drawn for a whole batch from one generator and applied afterwards, so
that a process that holds a part of the batch does to it what a single process would.
"""
import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model.config import TrainConfig

GREY = 128
"""Fill of the pixels that a rotation, a shear or a shift brings in."""
OPERATIONS = ("identity", "autocontrast", "equalize", "rotate", "solarize", "color", "posterize", "contrast", "brightness",
              "sharpness", "shear_x", "shear_y", "translate_x", "translate_y")
"""The 14 operations of RandAugment, each as likely as any other."""
LARGEST = {"rotate": 30.0, "solarize": 256.0, "color": 0.9, "posterize": 4.0, "contrast": 0.9, "brightness": 0.9,
           "sharpness": 0.9, "shear_x": 0.3, "shear_y": 0.3, "translate_x": 0.45, "translate_y": 0.45}
"""Strength at magnitude 10: degrees; how far the threshold falls below 256; change of the factor 1; bits dropped; slope;
share of the side. Either sign is as likely, except for solarize and posterize."""
GREY_WEIGHTS = (0.299, 0.587, 0.114)


def _blend(base: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    return base + factor[:, None, None, None] * (images - base)


def _grey(images: Tensor) -> Tensor:
    """Luma [B, 1, H, W] of float images; images of another number of channels than 3: their mean."""
    weights = GREY_WEIGHTS if images.shape[1] == 3 else [1 / images.shape[1]] * images.shape[1]
    return (images * torch.tensor(weights, device=images.device)[:, None, None]).sum(1, keepdim=True)


def _smooth(images: Tensor) -> Tensor:
    """3x3 mean with a centre of weight 5 (sum 13), the border as it is."""
    out = images.clone()
    height, width = images.shape[2:]
    rows = images[:, :, :height - 2] + images[:, :, 1:height - 1] + images[:, :, 2:]
    total = rows[:, :, :, :width - 2] + rows[:, :, :, 1:width - 1] + rows[:, :, :, 2:]
    out[:, :, 1:-1, 1:-1] = (total + 4 * images[:, :, 1:-1, 1:-1]) / 13
    return out


def _equalize(images: Tensor) -> Tensor:
    """Each channel's histogram made flat: uint8 [B, C, H, W] -> the same; a channel of one value stays."""
    flat = images.flatten(2).flatten(0, 1).long()
    counts = torch.zeros((len(flat), 256), dtype=torch.int64, device=images.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    last = counts.gather(1, flat.max(1, keepdim=True).values)
    step = (counts.sum(1, keepdim=True) - last) // 255
    table = ((counts.cumsum(1) - counts + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    return table.gather(1, flat).view(images.shape).to(torch.uint8)


def _autocontrast(images: Tensor) -> Tensor:
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) * (255 / (high - low).clamp(min=1)), images)


def _affine(images: Tensor, name: str, amount: Tensor) -> Tensor:
    """Rotation, shear or shift of float images by `amount` [B], bilinear."""
    theta = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    if name == "rotate":
        angle = amount * (math.pi / 180)
        theta[:, 0, 0] = theta[:, 1, 1] = torch.cos(angle)
        theta[:, 1, 0] = torch.sin(angle)
        theta[:, 0, 1] = -theta[:, 1, 0]
    elif name == "shear_x":
        theta[:, 0, 1] = amount
    elif name == "shear_y":
        theta[:, 1, 0] = amount
    else:
        theta[:, int(name == "translate_y"), 2] = 2 * amount
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images - GREY, grid, align_corners=False) + GREY


def operate(name: str, images: Tensor, magnitude: float, sign: Tensor) -> Tensor:
    """Operation `name` of OPERATIONS on uint8 images [B, C, H, W], at `magnitude` 0 to 10, in the direction `sign` [B] (+-1)."""
    strength = LARGEST.get(name, 0.0) * magnitude / 10
    if name == "identity":
        return images
    if name == "equalize":
        return _equalize(images)
    if name == "solarize":
        return torch.where(images >= 256 - strength, 255 - images, images)
    if name == "posterize":
        return images & (0xFF << round(strength) & 0xFF)
    x, amount = images.float(), strength * sign
    if name == "autocontrast":
        x = _autocontrast(x)
    elif name == "brightness":
        x = x * (1 + amount)[:, None, None, None]
    elif name == "color":
        x = _blend(_grey(x), x, 1 + amount)
    elif name == "contrast":
        x = _blend(_grey(x).mean((2, 3), keepdim=True), x, 1 + amount)
    elif name == "sharpness":
        x = _blend(_smooth(x), x, 1 + amount)
    else:
        x = _affine(x, name, amount)
    return x.round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, slots=True)
class Draws:
    """What one batch is to undergo; tensors by image, `rows` picks some. Empty where an option is off."""

    operations: Tensor
    """Int64 [B, N], index into OPERATIONS."""
    signs: Tensor
    """Float [B, N], -1 or 1."""
    boxes: Tensor
    """Erased box int64 [B, 4]: top, left, bottom, right; empty boxes erase nothing."""
    fills: Tensor
    """Value of the erased pixels, uint8 [B, C]."""
    paths: Tensor
    """Uniform [B, branches] for drop path."""
    keep: float
    """Share of an image that stays its own in mixup or CutMix; 1: nothing is mixed."""
    box: tuple[int, int, int, int]
    """The part that CutMix takes from the other image; all 0: mixup."""

    def rows(self, part: slice, device: torch.device) -> "Draws":
        """The draws of some images, on `device`."""
        names = ("operations", "signs", "boxes", "fills", "paths")
        return dataclasses.replace(self, **{name: getattr(self, name)[part].to(device) for name in names})


def _erased(settings: TrainConfig, batch: int, side: int, random: torch.Generator) -> Tensor:
    """Boxes int64 [B, 4] of random erasing: 2 % to 33 % of the image, sides 0.3 to 3.3 of each other."""
    u = torch.rand((5, batch), generator=random)
    area = (0.02 + (1 / 3 - 0.02) * u[1]) * side * side
    aspect = torch.exp(math.log(0.3) + (math.log(3.3) - math.log(0.3)) * u[2])
    height, width = ((area * ratio).sqrt().round().clamp(1, side) for ratio in (aspect, 1 / aspect))
    top, left = (u[3] * (side - height + 1)).floor(), (u[4] * (side - width + 1)).floor()
    boxes = torch.stack((top, left, top + height, left + width), 1).long()
    return torch.where(u[0, :, None] < settings.erasing, boxes, 0)


def _mixed(settings: TrainConfig, side: int, random: torch.Generator) -> tuple[float, tuple[int, int, int, int]]:
    """Share kept and box of a batch (Draws.keep, Draws.box)."""
    nothing = (0, 0, 0, 0)
    if not (settings.mixup or settings.cutmix):
        return 1.0, nothing
    draw = np.random.default_rng(int(torch.randint(2**62, (1,), generator=random)))
    changed, cut, y, x = draw.random(4)
    if changed >= settings.mix_probability:
        return 1.0, nothing
    cutmix = bool(settings.cutmix) and (not settings.mixup or cut < settings.cutmix_share)
    alpha = settings.cutmix if cutmix else settings.mixup
    keep = float(draw.beta(alpha, alpha))
    if not cutmix:
        return keep, nothing
    half = round(side * math.sqrt(1 - keep)) / 2
    top, left = (max(0, round(side * at - half)) for at in (y, x))
    bottom, right = (min(side, round(side * at + half)) for at in (y, x))
    return 1 - (bottom - top) * (right - left) / side**2, (top, left, bottom, right)


def draw(settings: TrainConfig, batch: int, channels: int, side: int, branches: int, random: torch.Generator) -> Draws:
    """Draws of a batch for images of `channels` and `side`, and `branches` residual branches; what is off draws none."""
    many = settings.randaugment_ops
    operations = signs = boxes = fills = paths = torch.zeros((batch, 0))
    if many:
        operations = torch.randint(len(OPERATIONS), (batch, many), generator=random)
        signs = torch.randint(2, (batch, many), generator=random) * 2.0 - 1
    if settings.erasing:
        boxes = _erased(settings, batch, side, random)
        fills = torch.randint(256, (batch, channels), generator=random).to(torch.uint8)
    if settings.drop_path:
        paths = torch.rand((batch, branches), generator=random)
    return Draws(operations, signs, boxes, fills, paths, *_mixed(settings, side, random))


def change(images: Tensor, magnitude: float, draws: Draws) -> Tensor:
    """RandAugment, then random erasing: uint8 [B, C, H, W] -> the same."""
    for layer in range(draws.operations.shape[1]):
        images = images.clone()
        for index, name in enumerate(OPERATIONS):
            chosen = (draws.operations[:, layer] == index).nonzero()[:, 0]
            if len(chosen) and name != "identity":
                images[chosen] = operate(name, images[chosen], magnitude, draws.signs[chosen, layer])
    if draws.boxes.shape[1]:
        line = torch.arange(images.shape[-1], device=images.device)
        top, left, bottom, right = draws.boxes[:, :, None].unbind(1)
        inside = ((line >= top) & (line < bottom))[:, :, None] & ((line >= left) & (line < right))[:, None]
        images = torch.where(inside[:, None], draws.fills[:, :, None, None], images)
    return images


def mix(images: Tensor, labels: Tensor, classes: int, draws: Draws) -> tuple[Tensor, Tensor]:
    """Float images [B, C, H, W] and labels int64 [B], each mixed with those of the batch in reverse order.

    Labels come back as they are where nothing is mixed, else as shares float [B, classes].
    """
    if draws.keep == 1:
        return images, labels
    other, (top, left, bottom, right) = images.flip(0), draws.box
    if any(draws.box):
        images = images.clone()
        images[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    else:
        images = draws.keep * images + (1 - draws.keep) * other
    own = functional.one_hot(labels, classes).float()
    return images, draws.keep * own + (1 - draws.keep) * own.flip(0)


def paths(names: list[str], rate: float, draws: Draws) -> dict[str, Tensor]:
    """Factor [B] of each residual branch (`names` in network order, two to a block): 0, or 1 / (1 - its rate).

    Stochastic depth, Huang et al., ECCV 2016; rates rise linearly to `rate` over the blocks, as Swin's do.
    """
    if not draws.paths.shape[1]:
        return {}
    found = {}
    for index, name in enumerate(names):
        own = rate * (index // 2) / max(1, len(names) // 2 - 1)
        found[name] = (draws.paths[:, index] >= own).float() / (1 - own)
    return found
