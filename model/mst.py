"""The Masked Spiking Transformer: one description, run as QCFS network or as spiking network (`exact`, `stepwise`)."""
import torch
from torch import Tensor, nn

from model.config import MaskingConfig, ModelConfig
from model.neuron import Engine, ExactEngine, LfsrMasks, Masks, RecordingEngine, StepwiseEngine
from model.norm import new_norm, normalise
from model.qcfs import QCFS
from model.swin import Block, PatchEmbed, Stage, mean_tokens

MODES = ("qcfs", "exact", "stepwise")
POINTS = {"act1": "act1", "attn.q_act": "q", "attn.k_act": "k", "attn.v_act": "v", "attn.score_act": "scores",
          "attn.out_act": "out", "attn.proj_act": "proj", "act2": "act2", "mlp.act1": "fc1", "mlp.act2": "fc2"}
"""Activation inside a block -> its verify point."""


class MST(nn.Module):
    """Masked Spiking Transformer of shape `config`, with the spike masks of `masking`."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, masking: MaskingConfig) -> None:
        super().__init__()
        self.config, self.masking = config, masking
        self.embed = PatchEmbed(config)
        self.stages = nn.ModuleList(Stage(config, stage) for stage in range(len(config.depths)))
        last = config.width(len(config.depths) - 1)
        self.norm = new_norm(config.final_norm, last)
        self.head = nn.Linear(last, config.classes)
        self.register_buffer("mean", torch.full((config.in_channels,), 0.5))
        self.register_buffer("std", torch.full((config.in_channels,), 0.25))
        self._name_activations()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _name_activations(self) -> None:
        self.embed.act.name = "embed"
        for i, stage in enumerate(self.stages):
            assert isinstance(stage, Stage)
            for j, block in enumerate(stage.blocks):
                assert isinstance(block, Block)
                for path, point in POINTS.items():
                    act = block.get_submodule(path)
                    assert isinstance(act, QCFS)
                    act.name = f"s{i}.b{j}.{point}"
            if stage.merge is not None:
                stage.merge.act.name = f"s{i}.merge"

    def activations(self) -> dict[str, QCFS]:
        """Every activation by the name of its verify point, in network order."""
        return {m.name: m for m in self.modules() if isinstance(m, QCFS)}

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images [B, C, H, W] -> (pixel / 255 - mean) / std in the dtype of the weights."""
        scale, offset = 1 / (255 * self.std), self.mean / self.std
        return images.to(self.mean.dtype) * scale[:, None, None] - offset[:, None, None]

    def run(self, images: Tensor, engine: Engine) -> Tensor:
        """Logits [B, classes] of normalised images [B, C, H, W] with neurons and masks of `engine`."""
        x = self.embed(images, engine)
        for stage in self.stages:
            x = stage(x, engine)
        return self.head(mean_tokens(normalise(self.norm, x)))  # type: ignore[no-any-return]

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

    @torch.no_grad()
    def counts(self, images: Tensor, image_index: Tensor | None = None) -> dict[str, Tensor]:
        """Spike counts int64 at every activation, by verify point, as fired (before any mask).

        Tokens are in raster order, [B, N, C], also for q, k, v and out (channel = head * head size + channel in head);
        `scores` is [B, windows, heads, W*W queries, W*W keys].
        """
        engine = RecordingEngine(self._masks(len(images), image_index))
        self.run(images, engine)
        counts = engine.counts
        for i, stage in enumerate(self.stages):
            assert isinstance(stage, Stage)
            for j, block in enumerate(stage.blocks):
                assert isinstance(block, Block)
                for point in ("q", "k", "v", "out"):
                    name = f"s{i}.b{j}.{point}"
                    counts[name] = block.attn.from_heads(counts[name])
                scores, proj = f"s{i}.b{j}.scores", f"s{i}.b{j}.proj"
                counts[scores] = counts[scores].unflatten(0, (len(images), -1))
                counts[proj] = block.attn.from_windows(counts[proj])
        return counts
