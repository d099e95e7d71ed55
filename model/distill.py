"""Knowledge distillation: an unmasked teacher and the loss that its student learns from.

Source: Hinton et al., "Distilling the knowledge in a neural network", 2015.
"""
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from model import checkpoint
from model.config import AnyModel, ConfigError, MaskingConfig
from model.spiking import SpikingNetwork

UNMASKED = MaskingConfig(sites=())


@dataclass(frozen=True, slots=True)
class Teacher:
    """A trained network, run without masks, and the digest of its file."""

    model: SpikingNetwork
    digest: str

    @classmethod
    def load(cls, path: str | Path, student: AnyModel) -> "Teacher":
        """The network of checkpoint `path`; ConfigError where `student` cannot learn from it, CheckpointError for a bad file."""
        model, _ = checkpoint.load(path)
        for key in ("image_size", "in_channels", "classes"):
            its, own = getattr(model.config, key), getattr(student, key)
            if its != own:
                raise ConfigError(f"{path}: the teacher has {key} = {its}, the configuration says {own}: take another teacher")
        model.masking = UNMASKED
        return cls(model.requires_grad_(False), hashlib.sha256(Path(path).read_bytes()).hexdigest())

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits float32 [B, classes] for normalised images [B, C, H, W]."""
        logits: Tensor = self.model(images)
        return logits.float()


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the softened classes, mean over the batch; logits [B, classes] of both."""
    wanted = functional.log_softmax(teacher / temperature, 1)
    given = functional.log_softmax(student / temperature, 1)
    return temperature**2 * functional.kl_div(given, wanted, reduction="batchmean", log_target=True)
