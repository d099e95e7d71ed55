"""Image data sets as uint8 tensors, fitted to a network and augmented."""
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.config import Config
from model.dataset import Statistics
from model.datasets import DataError, margin, read, read_for, statistics


@dataclass(frozen=True, slots=True)
class Images:
    """`images` uint8 [N, C, H, W] and `labels` int64 [N]."""

    images: Tensor
    labels: Tensor


def load(dataset: str, train: bool, root: str | Path | None = None) -> Images:
    """Read the training or the test part of `dataset` under `root`; DataError where it is missing or damaged."""
    images, labels = read(dataset, train, root)
    return Images(torch.from_numpy(images), torch.from_numpy(labels))


def load_for(config: Config, train: bool, root: str | Path | None = None) -> Images:
    """Read the training or test part of `config`'s data set, in the representation of its network; DataError as `load`."""
    images, labels = read_for(config, train, root)
    return Images(torch.from_numpy(images), torch.from_numpy(labels))


def normalisation(dataset: str, images: Tensor) -> Statistics:
    """Mean and standard deviation of pixel / 255 per channel: the published ones, else those of `images` [N, C, H, W]."""
    return statistics(dataset, images.numpy())


def fit(images: Tensor, channels: int, side: int) -> Tensor:
    """Check uint8 images [N, C, H, W] against the network; zero-pads to `side` (28 -> 32), DataError otherwise."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != channels:
        raise DataError(f"images must be uint8 [N, {channels}, H, W], not {images.dtype} {list(images.shape)}")
    edge = margin(images.shape[2], images.shape[3], side)
    return torch.nn.functional.pad(images, (edge, edge, edge, edge)) if edge else images


class Augment:
    """Random crop from a frame padded by reflection, then random flip, on batches of uint8 images."""

    def __init__(self, images: Tensor, pad: int = 4, flip: bool = True) -> None:
        """images: uint8 [N, C, H, W], all of the training set; it is padded once. `flip`: mirror every other one."""
        self.side, self.flip = images.shape[-1], flip
        self.pad = pad
        padded = torch.nn.functional.pad(images.float(), (pad, pad, pad, pad), mode="reflect") if pad else images
        self.frames = padded.to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def __call__(self, index: Tensor, random: torch.Generator) -> Tensor:
        """Images `index` (int64 [B]) -> uint8 [B, C, H, W], shifted by up to `pad` pixels and flipped at random."""
        batch = len(index)
        corner = torch.randint(2 * self.pad + 1, (2, batch, 1), generator=random)
        flip = torch.rand((batch, 1), generator=random) < (0.5 if self.flip else 0.0)
        line = torch.arange(self.side)
        rows = corner[0] + line
        columns = corner[1] + torch.where(flip, self.side - 1 - line, line)
        where = index[:, None, None]
        return self.frames[where, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
