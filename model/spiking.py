"""What every spiking network here does, whatever its body: one description, run as QCFS network or in a firing mode."""
import torch
from torch import Tensor, nn

from model.config import AnyModel, MaskingConfig
from model.neuron import Engine, ExactEngine, LfsrMasks, Masks, StepwiseEngine
from model.qcfs import QCFS

MODES = ("qcfs", "exact", "stepwise")


class SpikingNetwork(nn.Module):
    """A network of shape `config` with the spike masks of `masking`; `run` and `counts` are its body's."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: AnyModel, masking: MaskingConfig) -> None:
        super().__init__()
        self.config, self.masking = config, masking

    def add_normalisation(self) -> None:
        """The buffers mean and std [C] of a pixel / 255."""
        self.register_buffer("mean", torch.full((self.config.in_channels,), 0.5))
        self.register_buffer("std", torch.full((self.config.in_channels,), 0.25))

    def activations(self) -> dict[str, QCFS]:
        """Every activation by the name of its verify point, in network order."""
        return {m.name: m for m in self.modules() if isinstance(m, QCFS)}

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images [B, C, H, W] -> (pixel / 255 - mean) / std in the dtype of the weights."""
        scale, offset = 1 / (255 * self.std), self.mean / self.std
        return images.to(self.mean.dtype) * scale[:, None, None] - offset[:, None, None]

    def run(self, images: Tensor, engine: Engine) -> Tensor:
        """Logits [B, classes] of normalised images [B, C, H, W] with neurons and masks of `engine`."""
        raise NotImplementedError

    def counts(self, images: Tensor, image_index: Tensor | None = None) -> dict[str, Tensor]:
        """Spike counts int64 at every activation, by verify point, as fired (before any mask), tokens in raster order."""
        raise NotImplementedError

    def forward(self, images: Tensor, image_index: Tensor | None = None) -> Tensor:
        """Logits [B, classes] of the QCFS network for normalised images [B, C, H, W].

        With a mask ratio above 0, image i of the batch is masked as image `image_index[i]` (int64 [B]; default 0, 1,
        ...) of docs/semantics.md; in training without `image_index`, as images drawn at random.
        """
        return self.run(images, Engine(self._masks(len(images), image_index)))

    def _masks(self, batch: int, image_index: Tensor | None, step: int = 0) -> Masks | None:
        if not self.masking.active:
            return None
        index = image_index
        if index is None:
            index = torch.randint(2**32, (batch,)) if self.training else torch.arange(batch)
        return LfsrMasks(self.masking, self.config, index.to(self.mean.device), step)

    @torch.no_grad()
    def logits(self, images: Tensor, mode: str = "qcfs", steps: int = 0, image_index: Tensor | None = None) -> Tensor:
        """Logits of normalised images [B, C, H, W] in one of MODES.

        `qcfs` and `exact` (T = L): [B, classes]. `stepwise`: running sums over `steps` time steps,
        [steps, B, classes]. ValueError for an unknown mode or too few steps.
        """
        if mode not in MODES:
            raise ValueError(f"unknown mode {mode!r}; known: {', '.join(MODES)}")
        if mode != "stepwise":
            masks = self._masks(len(images), image_index)
            return self.run(images, Engine(masks) if mode == "qcfs" else ExactEngine(masks))
        if steps < 1:
            raise ValueError(f"stepwise needs steps of at least 1, not {steps}")
        engine = StepwiseEngine()
        sums: list[Tensor] = []
        for step in range(steps):
            engine.masks = self._masks(len(images), image_index, step)
            now = self.run(images, engine)
            sums.append(now + sums[-1] if sums else now)
        return torch.stack(sums)
