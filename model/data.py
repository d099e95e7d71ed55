"""Image data sets as uint8 tensors, fitted to a network and augmented."""
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.config import Config
from model.dataset import Statistics
from model.datasets import DATASETS, DataError, enlargement, folder_part, margin, read, read_for, statistics

NORMALISATION = {name: entry.statistics for name, entry in DATASETS.items() if entry.statistics is not None}
"""Published mean and standard deviation of pixel / 255, per channel (CIFAR-10: the values of the published MST)."""


@dataclass(frozen=True, slots=True)
class Images:
    """`images` uint8 [N, C, H, W] and `labels` int64 [N]; `class_names` of one's own pictures, else empty."""

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...] = ()


def digest(data: Images) -> str:
    """Hex SHA-256 of pictures and labels: another one stands for other data."""
    found = hashlib.sha256(repr([list(data.images.shape), list(data.labels.shape)]).encode())
    for tensor in (data.images, data.labels):
        found.update(tensor.cpu().contiguous().numpy().data.cast("B"))
    return found.hexdigest()


def load(dataset: str, train: bool, root: str | Path | None = None) -> Images:
    """Read the training or the test part of `dataset` under `root`; DataError where it is missing or damaged."""
    images, labels = read(dataset, train, root)
    return Images(torch.from_numpy(images), torch.from_numpy(labels))


def load_for(config: Config, train: bool, root: str | Path | None = None) -> Images:
    """Read the training or test part of `config`'s data set, in the representation of its network; DataError as `load`."""
    images, labels = read_for(config, train, root)
    part = folder_part(config, train, root) if config.train.dataset == "folder" else None
    return Images(torch.from_numpy(images), torch.from_numpy(labels), part.classes if part else ())


def normalisation(dataset: str, images: Tensor) -> Statistics:
    """Mean and standard deviation of pixel / 255 per channel: the published ones, else those of `images` [N, C, H, W]."""
    return statistics(dataset, images.numpy())


def fit(images: Tensor, channels: int, side: int) -> Tensor:
    """uint8 images [N, C, H, W] at the network's `side`: enlarged where it is a multiple of theirs (32 -> 224), else zero-padded
    (28 -> 32); DataError where they cannot fit."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != channels:
        raise DataError(f"images must be uint8 [N, {channels}, H, W], not {images.dtype} {list(images.shape)}")
    images = enlarged(images, side)
    edge = margin(images.shape[2], images.shape[3], side)
    return torch.nn.functional.pad(images, (edge, edge, edge, edge)) if edge else images


def enlarged(images: Tensor, side: int) -> Tensor:
    """Images [N, C, H, W], each pixel made a square where `side` is a multiple of H."""
    times = enlargement(images.shape[2], side)
    return images.repeat_interleave(times, 2).repeat_interleave(times, 3) if times > 1 else images


class Augment:
    """Random crop from a frame padded by reflection, then random flip, on batches of uint8 images."""

    def __init__(self, images: Tensor, pad: int = 4, flip: bool = True) -> None:
        """images: uint8 [N, C, H, W], all of the training set; it is padded once. `flip`: mirror every other one."""
        self.side = images.shape[-1]
        if pad >= min(images.shape[-2:]):
            raise DataError(f"[train] crop_pad must be below the {min(images.shape[-2:])} pixels of a picture's side, not {pad}: "
                            "lower it")
        self.pad, self.share = pad, 0.5 if flip else 0.0
        padded = torch.nn.functional.pad(images.float(), (pad, pad, pad, pad), mode="reflect") if pad else images
        self.frames = padded.to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def draw(self, batch: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Corner int64 [B, 2] and flip bool [B] of a batch."""
        corner = torch.randint(2 * self.pad + 1, (2, batch, 1), generator=random)
        flip = torch.rand((batch, 1), generator=random) < self.share
        return corner[:, :, 0].T, flip[:, 0]

    def apply(self, index: Tensor, corner: Tensor, flip: Tensor) -> Tensor:
        """Images `index` (int64 [B]) -> uint8 [B, C, H, W], cut at `corner` and flipped, on the device of the images."""
        index, corner, flip = (tensor.to(self.frames.device) for tensor in (index, corner, flip))
        line = torch.arange(self.side, device=index.device)
        rows = corner[:, :1] + line
        columns = corner[:, 1:] + torch.where(flip[:, None], self.side - 1 - line, line)
        return self.frames[index[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def __call__(self, index: Tensor, random: torch.Generator) -> Tensor:
        """Images `index` (int64 [B]) -> uint8 [B, C, H, W], shifted by up to `pad` pixels and flipped at random."""
        return self.apply(index, *self.draw(len(index), random))
