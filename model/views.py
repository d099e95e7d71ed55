"""A teacher's logits on a fixed set of augmented views, kept in a file: distillation without a second forward pass.

View v of training image i is a crop and a mirroring that follow from (seed, v, i) alone, so a student draws the number of a
view and gets the picture and the teacher's logits that belong together.
"""
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model import checkpoint

FORMAT = "mst-teacher-views"


def view_draws(seed: int, view: int, images: int, pad: int, flip: bool = True) -> tuple[Tensor, Tensor]:
    """Corner int64 [N, 2] (0 .. 2 * pad) and mirroring bool [N] of view number `view` of each training image."""
    random = torch.Generator().manual_seed(seed * 1_000_003 + view)
    corner = torch.randint(2 * pad + 1, (images, 2), generator=random)
    mirrored = torch.rand(images, generator=random) < 0.5
    return corner, mirrored & flip


@dataclass(frozen=True, slots=True)
class Views:
    """`logits` float16 [views, N, classes] on the views of `seed` and `pad`; `teacher`: the digest of the teacher's file."""

    logits: Tensor
    seed: int
    pad: int
    teacher: str

    def save(self, path: Path) -> None:
        """Write the file, atomically."""
        checkpoint.write(path, {"logits": self.logits}, FORMAT, {"seed": self.seed, "pad": self.pad, "teacher": self.teacher})

    @classmethod
    def load(cls, path: Path) -> "Views":
        """Read what `save` wrote; CheckpointError for another file."""
        tensors, info = checkpoint.read(path, FORMAT)
        logits = tensors.get("logits")
        if logits is None or logits.ndim != 3 or logits.dtype != torch.float16:
            raise checkpoint.CheckpointError(f"{path}: holds no logits float16 [views, images, classes]")
        return cls(logits, int(info["seed"]), int(info["pad"]), str(info["teacher"]))
