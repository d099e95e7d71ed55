"""The Masked Spiking Transformer: one description, run as QCFS network or as spiking network (`exact`, `stepwise`)."""
import torch
from torch import Tensor, nn

from model.config import MaskingConfig, ModelConfig
from model.neuron import Engine, RecordingEngine
from model.norm import new_norm, normalise
from model.qcfs import QCFS
from model.spiking import MODES as MODES
from model.spiking import SpikingNetwork
from model.swin import Block, ConvStem, PatchEmbed, Stage, mean_tokens

POINTS = {"act1": "act1", "attn.q_act": "q", "attn.k_act": "k", "attn.v_act": "v", "attn.score_act": "scores",
          "attn.out_act": "out", "attn.proj_act": "proj", "act2": "act2", "mlp.act1": "fc1", "mlp.act2": "fc2"}
"""Activation inside a block -> its verify point."""


class MST(SpikingNetwork):
    """Masked Spiking Transformer of shape `config`, with the spike masks of `masking`."""

    config: ModelConfig

    def __init__(self, config: ModelConfig, masking: MaskingConfig) -> None:
        super().__init__(config, masking)
        self.embed: PatchEmbed | ConvStem = ConvStem(config) if config.stem else PatchEmbed(config)
        self.stages = nn.ModuleList(Stage(config, stage) for stage in range(len(config.depths)))
        last = config.width(len(config.depths) - 1)
        self.norm = new_norm(config.final_norm, last)
        self.head = nn.Linear(last, config.classes)
        self.add_normalisation()
        self._name_activations()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _name_activations(self) -> None:
        if isinstance(self.embed, PatchEmbed):  # the layers of a stem have their names from its plan
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

    def run(self, images: Tensor, engine: Engine) -> Tensor:
        """Logits [B, classes] of normalised images [B, C, H, W] with neurons and masks of `engine`."""
        if isinstance(self.embed, ConvStem):
            x = self.embed(images, (-self.mean / self.std)[:, None, None], engine)
        else:
            x = self.embed(images, engine)
        for stage in self.stages:
            x = stage(x, engine)
        return self.head(mean_tokens(normalise(self.norm, x)))  # type: ignore[no-any-return]

    @torch.no_grad()
    def counts(self, images: Tensor, image_index: Tensor | None = None) -> dict[str, Tensor]:
        """Spike counts int64 at every activation, by verify point, as fired (before any mask).

        Tokens are in raster order, [B, N, C], also for q, k, v and out (channel = head * head size + channel in head);
        `scores` is [B, windows, heads, W*W queries, W*W keys].
        """
        engine = RecordingEngine(self._masks(len(images), image_index))
        stem = {shape.name for shape in self.config.stem_plan()}
        self.run(images, engine)
        counts = {name: found.flatten(2).transpose(1, 2) if name in stem  # maps; all else are rows of tokens
                  else found.unflatten(0, (len(images), -1)) if found.ndim == 2 else found
                  for name, found in engine.counts.items()}
        for i, stage in enumerate(self.stages):
            assert isinstance(stage, Stage)
            for j, block in enumerate(stage.blocks):
                assert isinstance(block, Block)
                for point in ("q", "k", "v"):
                    name = f"s{i}.b{j}.{point}"
                    counts[name] = block.attn.from_windows(counts[name])
                counts[f"s{i}.b{j}.out"] = block.attn.from_heads(counts[f"s{i}.b{j}.out"])
                scores, proj = f"s{i}.b{j}.scores", f"s{i}.b{j}.proj"
                counts[scores] = counts[scores].unflatten(0, (len(images), -1))
                counts[proj] = block.attn.from_windows(counts[proj])
        return counts
