"""Weights of a new training run from a network that was trained before: `[train] start`."""
import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from model import checkpoint
from model.config import AnyModel, ConfigError
from model.neuron import Engine
from model.spiking import SpikingNetwork

OWN = ("mean", "std")
"""What a network has from its images, not from training: the normalisation of pixels."""
KEPT = "keeps_normalisation"
"""Set in the info of a checkpoint that was trained with other values than the data set's here: they come with its weights."""


def begin(model: SpikingNetwork, path: str | Path, images: Tensor) -> None:
    """Gives `model` the weights of checkpoint `path`; ConfigError where the shapes differ, CheckpointError for a bad file.

    Where the checkpoint has a LayerNorm before the head and `model` a BatchNorm, that one starts as what comes nearest: for
    normalised `images` [B, C, H, W] each channel has the mean and the deviation that the LayerNorm gave it.
    """
    source, info = checkpoint.load(path)
    new_norm = _expect(path, source.config, model.config)
    own = () if info.get(KEPT) is True else OWN
    if not own:
        images = source.to(images.device).normalise((images * model.std.view(-1, 1, 1) + model.mean.view(-1, 1, 1)) * 255)
    state = {name: tensor for name, tensor in source.state_dict().items()
             if name not in own and not (new_norm and name.startswith("norm."))}
    state |= {name: tensor for name, tensor in model.state_dict().items() if name not in state}
    model.load_state_dict(state)
    if new_norm:
        _match(source.to(images.device), model, images)


def _expect(path: str | Path, theirs: AnyModel, own: AnyModel) -> bool:
    """Whether only the norm before the head differs, a LayerNorm there; ConfigError for any other difference."""
    new_norm = False
    for key in (entry.name for entry in dataclasses.fields(own)):
        found, wanted = getattr(theirs, key, None), getattr(own, key)
        if (key, found, wanted) == ("final_norm", "layer", "batch"):
            new_norm = True
        elif found != wanted:
            raise ConfigError(f"{path}: [train] start has {key} = {found}, the configuration says {wanted}: make them the same")
    return new_norm


@torch.no_grad()
def _match(source: SpikingNetwork, model: SpikingNetwork, images: Tensor) -> None:
    before, after = source.get_submodule("norm"), model.get_submodule("norm")
    assert isinstance(before, nn.LayerNorm) and isinstance(after, nn.BatchNorm1d)
    seen: list[tuple[Tensor, Tensor]] = []
    hook = before.register_forward_hook(lambda _, given, made: seen.append((given[0], made)))
    source.run(images, Engine(None))
    hook.remove()
    ((given, made),) = seen
    for target, value in ((after.running_mean, given.mean(0)), (after.running_var, given.var(0)),
                          (after.weight, made.std(0)), (after.bias, made.mean(0))):
        assert target is not None
        target.copy_(value)
