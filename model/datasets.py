"""The data sets by name, as numpy arrays, without torch: where each lies, who publishes it, and how it is read.

`read` gives pictures and labels of a set's training or test part; `check` says whether a folder is whole. docs/datasets.md.
"""
import os
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model import event_sets, image_sets
from model.config import Config
from model.dataset import Arrays, DataError, DataSet, Representation, Statistics, expect_labels, subfolders
from model.pictures import PictureFolder

__all__ = ["DATASETS", "Arrays", "DataError", "Representation", "data_root", "fitted", "folder_of", "folder_part", "margin",
           "read", "representation", "statistics"]

ORCHARD = ("G. Orchard, A. Jayawant, G. Cohen, N. Thakor, Converting static image datasets to spiking neuromorphic datasets "
           "using saccades, Front. Neurosci. 9:437, 2015")
KRIZHEVSKY = "A. Krizhevsky, Learning multiple layers of features from tiny images, 2009"


def _events(name: str, folders: tuple[str, ...], source: str, citation: str, classes: tuple[str, ...] | None,
            counts: tuple[int, int], mirrors: bool = True) -> DataSet:
    def names(folder: Path) -> tuple[str, ...]:
        return tuple(subfolders(folder)) if classes is None else classes

    return DataSet(folders, source, citation, partial(event_sets.read, name), names, counts, events=True, mirrors=mirrors,
                   class_count=0 if classes is None else len(classes))


DATASETS: dict[str, DataSet] = {
    "cifar10": DataSet(
        ("cifar-10-batches-py",), f"cifar-10-python.tar.gz from {image_sets.CIFAR_SOURCE}",
        f"CIFAR-10 ({KRIZHEVSKY})", image_sets.cifar10, lambda folder: image_sets.CIFAR10_CLASSES, (50000, 10000),
        ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)), class_count=10),  # the values of the published MST
    "cifar100": DataSet(
        ("cifar-100-python",), f"cifar-100-python.tar.gz from {image_sets.CIFAR_SOURCE}",
        f"CIFAR-100 ({KRIZHEVSKY})", image_sets.cifar100, image_sets.cifar100_classes, (50000, 10000),
        ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)), class_count=100),
    "fashion_mnist": DataSet(
        ("fashion-mnist", "FashionMNIST/raw"), image_sets.FASHION_SOURCE,
        "Fashion-MNIST (H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747, 2017)", image_sets.fashion_mnist,
        lambda folder: image_sets.FASHION_CLASSES, (60000, 10000), ((0.2860,), (0.3530,)), class_count=10),
    "imagenet": DataSet(
        ("imagenet", "ILSVRC2012"), "train/<class>/*.JPEG and val/<class>/*.JPEG of ILSVRC 2012 from https://image-net.org",
        "ImageNet (J. Deng et al., CVPR 2009)", image_sets.IMAGENET.read, image_sets.IMAGENET.classes, (1281167, 50000),
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), class_count=1000),
    "folder": DataSet(
        (".",), "train/<class>/* and test/<class>/*, pictures of your own (PNG, JPEG, BMP or WebP),",
        "Pictures of the user's own", image_sets.FOLDER.read, image_sets.FOLDER.classes, (0, 0), holds=image_sets.FOLDER.parts),
    "nmnist": _events(
        "nmnist", ("N-MNIST", "NMNIST", "nmnist"), "Train.zip and Test.zip from https://www.garrickorchard.com/datasets/n-mnist",
        f"N-MNIST ({ORCHARD}; CC BY-SA 4.0)", event_sets.DIGITS, (60000, 10000), mirrors=False),
    "nmnist_small": _events(
        "nmnist_small", ("nmnist_small",),
        "the 1,000 + 100 .bs2 recordings with train1K.txt and test100.txt (NMNISTsmall of https://github.com/bamsumit/slayerPytorch)",
        f"N-MNIST, 1,000 + 100 recordings ({ORCHARD}; CC BY-SA 4.0)", event_sets.DIGITS, (1000, 100), mirrors=False),
    "ncaltech101": _events(
        "ncaltech101", ("N-Caltech101/Caltech101", "Caltech101", "N-Caltech101"),
        "Caltech101.zip from https://www.garrickorchard.com/datasets/n-caltech101",
        f"N-Caltech101 ({ORCHARD})", None, (0, 0)),
    "ncars": _events(
        "ncars", ("Prophesee_Dataset_n_cars", "N-Cars", "ncars"),
        "Prophesee_Dataset_n_cars.zip from https://www.prophesee.ai/dataset-n-cars",
        "N-Cars (A. Sironi et al., HATS, CVPR 2018)", event_sets.NCARS, (15422, 8607)),
    "cifar10dvs": _events(
        "cifar10dvs", ("CIFAR10DVS", "CIFAR10-DVS", "cifar10dvs"),
        "the ten class archives from https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671",
        "CIFAR10-DVS (H. Li et al., Front. Neurosci. 11:309, 2017)", image_sets.CIFAR10_CLASSES, (9000, 1000)),
}
"""Every data set, by its name in configurations. `counts` of 0: the publishers name no split and no count is checked."""


def known(dataset: str) -> DataSet:
    """The data set of that name; DataError names the known ones."""
    if dataset not in DATASETS:
        raise DataError(f"unknown dataset {dataset!r}; known: {', '.join(DATASETS)}")
    return DATASETS[dataset]


def folder_part(config: Config, train: bool, root: str | Path | None = None) -> PictureFolder | None:
    """The training or test part of a set in folders, not decoded; None for other sets. DataError as `read`, and where one's
    own folders are not as many as the network's classes."""
    name = config.train.dataset
    if name not in image_sets.FOLDER_SETS:
        return None
    part = image_sets.FOLDER_SETS[name].part(folder_of(name, root), train)
    if name == "folder" and len(part.classes) != config.model.classes:
        raise DataError(f"{part.folder}: has {len(part.classes)} class folders, but [model] classes is {config.model.classes}: "
                        f"set it to {len(part.classes)}")
    representation(config)
    return part


def data_root(given: str | Path | None = None) -> Path:
    """Folder of the data sets: `given`, else the variable MST_DATA, else `data`."""
    return Path(given or os.environ.get("MST_DATA") or "data")


def folder_of(dataset: str, root: str | Path | None = None) -> Path:
    """Where `dataset` lies under `root`; DataError says what to get, from where, and how to point to it."""
    entry = known(dataset)
    for name in entry.folders:
        folder = data_root(root) / name
        if folder.is_dir() and (not entry.holds or any((folder / part).is_dir() for part in entry.holds)):
            return data_root(root) / name
    missing = data_root(root) / entry.folders[0] / (entry.holds or ("",))[0]
    raise DataError(f"{missing}: no such folder: unpack {entry.source} there, "
                    "or point to its parent with --data or MST_DATA")


def representation(config: Config) -> Representation:
    """What the network of `config` takes; DataError where its channels are not those of its event frames."""
    e = config.events
    view = Representation(config.model.image_size, config.model.in_bits, e.frames, e.by, e.polarity, e.fit,
                          config.model.in_channels)
    if config.train.dataset in image_sets.FOLDER_SETS and view.colours not in (1, 3):
        raise DataError(f"{config.train.dataset}: pictures have 1 channel (gray) or 3, but [model] in_channels is "
                        f"{view.colours}: set it to 1 or 3")
    if known(config.train.dataset).events and config.model.in_channels != view.channels:
        raise DataError(f"[events] {e.frames} frames, polarity {e.polarity!r} give {view.channels} channels, but [model] "
                        f"in_channels is {config.model.in_channels}: set it to {view.channels}")
    return view


def read(dataset: str, train: bool, root: str | Path | None = None, view: Representation | None = None,
         count: int = 0) -> Arrays:
    """The training or the test part of `dataset` under `root`: images uint8 [N, C, H, W], labels int64 [N].

    `view`: the representation of sets whose pictures have no size of their own (ImageNet, event recordings). `count`: at
    most so many, the first ones, or evenly spread ones where the part is ordered by class. DataError where it is missing
    or damaged.
    """
    images, labels = known(dataset).read(folder_of(dataset, root), train, view, count)
    return (images[:count], labels[:count]) if count else (images, labels)


def read_for(config: Config, train: bool, root: str | Path | None = None) -> Arrays:
    """The training or test part of `config`'s data set as its network takes it, not yet padded; see `read`.

    DataError also for labels that the network has no class for.
    """
    folder_part(config, train, root)
    images, labels = read(config.train.dataset, train, root, representation(config))
    expect_labels(labels, config.model.classes, config.train.dataset)
    return images, labels


def statistics(dataset: str, images: NDArray[np.uint8]) -> Statistics:
    """Mean and standard deviation of pixel / 255 per channel: published ones, else those of `images` [N, C, H, W]."""
    entry = known(dataset)
    if entry.statistics is not None:
        return entry.statistics
    pixels = np.moveaxis(images, 1, 0).reshape(images.shape[1], -1)
    return of_counts(np.stack([np.bincount(channel, minlength=256) for channel in pixels]))  # exact, whatever the size


def of_counts(counts: NDArray[np.int64]) -> Statistics:
    """Mean and standard deviation of pixel / 255 per channel, from how often each value occurs: int64 [C, 256]."""
    values, pixels = np.arange(256) / 255, int(counts[0].sum())
    means = [float(total @ values) / pixels for total in counts]
    spread = [float(total @ (values - mean) ** 2) / pixels for total, mean in zip(counts, means, strict=True)]
    return tuple(means), tuple(max(value, 1e-6) ** 0.5 for value in spread)


def margin(height: int, width: int, side: int) -> int:
    """Zero pixels to add on each edge of an image so that it is `side` wide (28 -> 32); DataError when it cannot fit."""
    if height != width or height > side or (side - height) % 2:
        raise DataError(f"images of {height}x{width} do not fit a network of image_size {side}")
    return (side - height) // 2


def enlargement(height: int, side: int) -> int:
    """Side of the square that each pixel becomes where `side` is a multiple of an image's `height` (32 -> 224: 7), else 1."""
    return side // height if height and side % height == 0 else 1


def unpadded(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Images uint8 [N, H, W, C] without the zeros that `fitted` put around them for a larger network; others as they are.

    So the committed sample of a data set, padded for a network of 32x32 pixels, serves one of 28x28 too.
    """
    edge = (images.shape[1] - side) // 2
    if edge < 1 or images.shape[1:3] != (side + 2 * edge, side + 2 * edge):
        return images
    inner = images[:, edge:-edge, edge:-edge]
    return np.ascontiguousarray(inner) if images.sum(dtype=np.int64) == inner.sum(dtype=np.int64) else images


def fitted(images: NDArray[np.uint8], channels: int, side: int) -> NDArray[np.uint8]:
    """Images [N, C, H, W] as a machine takes them: uint8 [N, side, side, C]; DataError when they cannot fit.

    They are enlarged where `side` is a multiple of theirs, else zero-padded.
    """
    if images.shape[1] != channels:
        raise DataError(f"images of {images.shape[1]} channels do not fit a network of {channels}")
    times = enlargement(images.shape[2], side)
    images = images.repeat(times, axis=2).repeat(times, axis=3) if times > 1 else images
    edge = margin(images.shape[2], images.shape[3], side)
    return np.pad(images.transpose(0, 2, 3, 1), ((0, 0), (edge, edge), (edge, edge), (0, 0)))
