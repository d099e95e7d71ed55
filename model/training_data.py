"""What a training run takes from a data set: the images to train on, those held out, and the statistics of the former."""
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.config import Config
from model.data import Augment, Images, enlarged, fit, normalisation
from model.dataset import Statistics, expect_labels
from model.datasets import DATASETS, enlargement
from model.holdout import split
from model.stream import StreamedAugment, StreamedPictures


class TrainingError(ValueError):
    """A run that cannot go on; the message is one line and says what to change."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """`augment` cuts batches of the training images, `labels` int64 [N]; `held`: the images held out; `statistics`: mean and
    standard deviation of pixel / 255; `first` uint8 [B, C, side, side]: images that set the thresholds of a new network."""

    augment: Augment
    labels: Tensor
    held: Images
    statistics: Statistics
    first: Tensor


def parts(config: Config, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Indices int64 of the training and of the held-out images; TrainingError where none is left, DataError for labels that
    the network has no class for."""
    settings = config.train
    if len(labels) - settings.holdout < 1:
        raise TrainingError(f"[train] holdout = {settings.holdout} leaves none of {len(labels)} images to train on: lower it")
    expect_labels(labels.numpy(), config.model.classes, settings.dataset)
    try:
        train, held = split(labels.numpy(), settings.holdout, settings.split)
    except ValueError as error:
        raise TrainingError(f"[train] holdout = {settings.holdout}: {error}: lower it") from None
    return torch.from_numpy(train), torch.from_numpy(held)


def spread(labels: Tensor, count: int) -> Tensor:
    """The first `count` indices of `labels`, or evenly spread ones where the images lie class by class."""
    count = min(count, len(labels))
    by_class = bool((labels[1:] >= labels[:-1]).all())
    return torch.from_numpy(np.linspace(0, len(labels) - 1, count).astype(np.int64)) if by_class else torch.arange(count)


def training_set(config: Config, data: Images | StreamedPictures, device: torch.device) -> TrainingSet:
    """What a run of `config` takes from `data`; DataError, TrainingError."""
    return in_memory(config, data, device) if isinstance(data, Images) else streamed(config, data, device)


def streamed(config: Config, data: StreamedPictures, device: torch.device) -> TrainingSet:
    """The training set of pictures that are decoded when they are needed; those held out are kept. DataError, TrainingError."""
    settings, entry = config.train, DATASETS[config.train.dataset]
    train, held = parts(config, data.labels)
    labels = data.labels[train]
    kept = Images(data.chosen(held).to(device), data.labels[held].to(device))
    first = data.chosen(train[spread(labels, settings.batch)]).to(device)
    if first.min() == first.max():
        raise TrainingError(f"every pixel of {len(first)} training images is {int(first.flatten()[0])}: "
                            "there is nothing to learn")
    augment = StreamedAugment(data, train, settings.crop_pad, entry.mirrors, device)
    return TrainingSet(augment, labels.to(device), kept, entry.statistics or data.statistics(train), first)


def in_memory(config: Config, data: Images, device: torch.device) -> TrainingSet:
    """The training set of `data` (uint8 [N, C, H, W]), kept whole on `device`. DataError, TrainingError."""
    settings, labels = config.train, data.labels
    # What is only enlarged for the network is kept small: 50,000 images of 224x224 are 7 GB.
    side = config.model.image_size // enlargement(data.images.shape[-1], config.model.image_size)
    pixels = fit(data.images, config.model.in_channels, side)
    train, held = parts(config, labels)
    taken = pixels[train]
    if taken.min() == taken.max():
        raise TrainingError(f"every pixel of the training images is {int(taken[0, 0, 0, 0])}: there is nothing to learn; "
                            "of recordings, `python -m model data --config` shows what [events] fit leaves in the frames")
    kept = Images(pixels[held].to(device), labels[held].to(device))
    first = enlarged(taken[spread(labels[train], settings.batch)].to(device), config.model.image_size)
    augment = Augment(taken.to(device), settings.crop_pad, DATASETS[settings.dataset].mirrors)
    return TrainingSet(augment, labels[train].to(device), kept, normalisation(settings.dataset, taken), first)
