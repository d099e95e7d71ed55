"""Pictures as the authors' code gives them to its network: enlarged bilinearly, normalised with its values.

Their transform of CIFAR is torchvision's Resize, whose default is Pillow's bilinear filter on bytes;
ImageNet's is the evaluation view of Swin (`model.image_sets.ImageFolder`), which needs no resizing here.
"""
import torch
from torch import Tensor

from model.data import NORMALISATION
from model.dataset import Statistics
from model.reference.shape import ReferenceModelError

FRACTION = 22
"""Bits behind the point of Pillow's filter weights (its source, Resample.c: 32 - 8 - 2)."""


def normalisation(dataset: str) -> Statistics:
    """Mean and standard deviation that the authors' code uses for `dataset`: of CIFAR-10 for CIFAR-100 too.

    ReferenceModelError for a data set without published values.
    """
    if dataset not in NORMALISATION:
        raise ReferenceModelError(f"--dataset: unknown data set {dataset!r}; known: {', '.join(NORMALISATION)}")
    return NORMALISATION["cifar10" if dataset == "cifar100" else dataset]


def filter_weights(size: int, wanted: int) -> Tensor:
    """Bilinear weights float64 [wanted, size] in whole 2^-22, as Pillow rounds them: a triangle as wide as a source pixel, or
    as a target pixel where the picture is made smaller."""
    scale = size / wanted
    reach = max(scale, 1.0)
    centre = (torch.arange(wanted, dtype=torch.float64) + 0.5) * scale
    pixel = torch.arange(size, dtype=torch.float64)
    triangle = (1 - ((pixel - centre[:, None] + 0.5) / reach).abs()).clamp(min=0)
    return torch.floor(triangle / triangle.sum(1, keepdim=True) * 2**FRACTION + 0.5)


def resized(images: Tensor, side: int) -> Tensor:
    """uint8 [B, C, H, W] -> uint8 [B, C, side, side], as Pillow's bilinear resize: rows first, rounded to bytes, then columns.

    ReferenceModelError for pictures that are not square.
    """
    if images.shape[2] != images.shape[3]:
        raise ReferenceModelError(f"pictures of {images.shape[2]}x{images.shape[3]} pixels are not square")

    def rounded(sums: Tensor) -> Tensor:  # whole numbers below 2^53: exact
        return torch.floor((sums + 2 ** (FRACTION - 1)) / 2**FRACTION).clamp(0, 255)

    wide = images
    if images.shape[3] != side:
        wide = rounded(images.double() @ filter_weights(images.shape[3], side).T)
    if images.shape[2] != side:
        wide = rounded(filter_weights(images.shape[2], side) @ wide.double())
    return wide.to(torch.uint8)


def pixels(images: Tensor, dataset: str, channels: int, side: int) -> Tensor:
    """uint8 images [B, C, H, W] -> normalised float32 images [B, C, side, side] for a network of `channels`."""
    mean, std = (torch.tensor(values)[:, None, None] for values in normalisation(dataset))
    if len(mean) != channels:
        raise ReferenceModelError(f"--dataset {dataset} has {len(mean)} channels, the network takes {channels}")
    return (resized(images, side).float() / 255 - mean) / std
