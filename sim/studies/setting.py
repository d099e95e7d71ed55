"""What all studies share: the trained network, its integers, and labelled test images."""
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model import config as configuration
from model import datasets
from model.config import Config, ConfigError, ModelConfig
from quantize import network as network_file
from quantize.layers import Network, NetworkError
from sim import images as image_files

if TYPE_CHECKING:
    from model.spiking import SpikingNetwork

COUNTED = 16
"""Images whose operations are counted: energy and cycles are their means."""


@dataclass(frozen=True)
class Setting:
    """A trained network and test images uint8 [B, H, W, C] with labels int64 [B]."""

    path: Path
    config: Config
    network: Network
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    source: str
    checkpoint: Path
    command: str

    @cached_property
    def model(self) -> "SpikingNetwork":
        """The float network (needs torch), checked against the configuration."""
        from model import checkpoint

        found, _ = checkpoint.load(self.checkpoint)
        checkpoint.expect(self.checkpoint, found, self.config.model)
        return found

    @property
    def transformer(self) -> ModelConfig:
        """The shape, of a study that only a transformer has; ConfigError for another backbone."""
        if not isinstance(self.config.model, ModelConfig):
            raise ConfigError(f"{self.path}: this study looks at a transformer's blocks: give the configuration of an MST, "
                              f"not of a {self.config.model.kind}")
        return self.config.model

    def notes(self, *more: str) -> list[str]:
        """The lines that every table carries: size, data, and the command."""
        return [f"Measured: {self.config.name}, {self.network.parameters:,} integer parameters, L = {self.config.model.levels}; "
                f"{self.source}. {' '.join(more)}".rstrip(), "", f"Made by `{self.command}`."]


def open_setting(path: Path, *, images: int, sample: bool, data: Path | None, network: Path | None, checkpoint: Path | None,
                 command: str) -> Setting:
    """Read everything for a study of configuration `path`.

    `images`: how many test images (0: all); `sample`: from the committed sample instead of the data set in `data` (default
    MST_DATA). ConfigError, NetworkError or ValueError in one line.
    """
    config = configuration.load(path)
    file = network or config.network
    found = network_file.load(file)
    if found.model != config.model:
        raise NetworkError(f"{file}: its model differs from [model] of {path}: run make quantize CONFIG={path}")
    if sample:
        pictures, labels = image_files.of(config, images or 64)
        source = f"first {len(labels)} images of the {config.train.dataset} test set (the committed sample)"
    else:
        raw, labels = datasets.read_for(config, False, data)
        if not 0 <= images <= len(labels):
            raise ConfigError(f"--images must be 0 (all) to {len(labels)}, not {images}")
        count = images or len(labels)
        pictures = datasets.fitted(raw[:count], config.model.in_channels, config.model.image_size)
        labels = labels[:count].astype(np.int64)
        source = f"first {count} of the {len(raw)} {config.train.dataset} test images"
    trained = checkpoint or config.network.with_suffix(".safetensors")
    return Setting(path, config, found, pictures, labels, source, trained, command)
