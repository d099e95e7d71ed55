"""Training on pictures that do not fit memory: decoded batch by batch by worker processes, ahead of the training.

The order is the trainer's, drawn from (seed, epoch), and the crops are those of pictures in memory, so a streamed run and one in
memory are the same run. Memory: the names of the files, the held-out pictures, and WAITING batches a worker.
"""
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from model.config import Config
from model.data import Augment, Images, load_for
from model.dataset import DataError, Statistics
from model.datasets import folder_part, of_counts
from model.pictures import PictureFolder

WAITING = 2
"""Decoded batches that wait, for each worker."""
STATISTICS_IMAGES = 10_000
"""Mean and standard deviation of one's own pictures are measured on so many of them, evenly spread, where there are more."""
CHUNK = 64
Batch = tuple[Tensor, Tensor] | str


@dataclass(frozen=True, slots=True)
class StreamedPictures:
    """Pictures of `part`, to be decoded at `side` with `channels` by `workers` processes (0: the training's own)."""

    part: PictureFolder
    side: int
    channels: int
    workers: int

    @property
    def labels(self) -> Tensor:
        """Int64 [N]."""
        return torch.from_numpy(self.part.labels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class folders."""
        return self.part.classes

    @property
    def size(self) -> int:
        """Bytes of all pictures, decoded."""
        return len(self.part) * self.channels * self.side**2

    def batches(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """For each row of `order` (int64 [n, b]): the row, and its pictures uint8 [b, C, side, side]. DataError for a bad one."""
        # A generator of its own: else the loader draws its workers' seed from torch's, and the run is another one.
        loader: DataLoader[Batch] = DataLoader(
            _Decoded(self), batch_size=None, sampler=_Rows(order), num_workers=self.workers, generator=torch.Generator(),
            prefetch_factor=WAITING if self.workers else None)
        for found in loader:
            if isinstance(found, str):
                raise DataError(found)
            yield found

    def chosen(self, indices: Tensor) -> Tensor:
        """The pictures at `indices` (int64 [n]), uint8 [n, C, side, side]."""
        return torch.from_numpy(self.part.images(indices.numpy(), self.side, self.channels))

    def statistics(self, indices: Tensor) -> Statistics:
        """Mean and standard deviation of pixel / 255 per channel of the pictures at `indices`; see STATISTICS_IMAGES."""
        if len(indices) > STATISTICS_IMAGES:
            indices = indices[torch.from_numpy(np.linspace(0, len(indices) - 1, STATISTICS_IMAGES).astype(np.int64))]
        counts = np.zeros((self.channels, 256), np.int64)
        for rows in (indices[:len(indices) // CHUNK * CHUNK].view(-1, CHUNK), indices[len(indices) // CHUNK * CHUNK:][None]):
            for _, pictures in self.batches(rows) if rows.numel() else ():
                for channel in range(self.channels):
                    counts[channel] += np.bincount(pictures[:, channel].flatten().numpy(), minlength=256)
        return of_counts(counts)


class _Decoded(Dataset[Batch]):
    def __init__(self, pictures: StreamedPictures) -> None:
        self.pictures = pictures

    def __getitem__(self, index: list[int]) -> Batch:
        row = torch.tensor(index, dtype=torch.int64)
        try:
            return row, self.pictures.chosen(row)
        except DataError as error:  # told, not raised: the loader would wrap it in a traceback of the worker
            return str(error)


class _Rows(Sampler[list[int]]):
    def __init__(self, order: Tensor) -> None:
        self.order = order

    def __iter__(self) -> Iterator[list[int]]:
        return (row.tolist() for row in self.order)

    def __len__(self) -> int:
        return len(self.order)


class StreamedAugment(Augment):
    """What `Augment` does, on pictures of a stream: `begin` says what an epoch will ask for, `apply` must ask for just that."""

    def __init__(self, pictures: StreamedPictures, train: Tensor, pad: int, flip: bool, device: torch.device) -> None:
        """`train`: indices int64 [N] of the training pictures among those of `pictures`."""
        self.pictures, self.train, self.pad, self.flip, self.device = pictures, train, pad, flip, device
        self.side, self.share = pictures.side, 0.5 if flip else 0.0
        self.waiting: Iterator[tuple[Tensor, Tensor]] = iter(())

    def begin(self, order: Tensor) -> None:
        """Start an epoch over the batches `order` (int64 [n, b], numbers of training pictures)."""
        self.waiting = self.pictures.batches(self.train[order])

    def apply(self, index: Tensor, corner: Tensor, flip: Tensor) -> Tensor:
        """See Augment.apply; `index` must be the next row of the epoch's order."""
        row, images = next(self.waiting)
        if not torch.equal(row, self.train[index.cpu()]):
            raise RuntimeError("the stream was asked for another batch than the one announced")
        return Augment(images.to(self.device), self.pad, self.flip).apply(torch.arange(len(row)), corner, flip)


def training_pictures(config: Config, root: str | None, memory: float, workers: int) -> Images | StreamedPictures:
    """The training images of `config`'s data set: those of a set in folders as a stream where they are, decoded, more than
    `memory` GiB. ValueError for a negative number of workers, DataError as `load_for`."""
    if workers < 0 or not memory >= 0:
        raise ValueError(f"--workers and --memory must be at least 0, not {workers} and {memory:g}")
    part = folder_part(config, True, root)
    if part is not None:
        streamed = StreamedPictures(part, config.model.image_size, config.model.in_channels, workers)
        if streamed.size > memory * 2**30:
            return streamed
    return load_for(config, True, root)
