"""The network that a configuration describes: training, checkpoints and evaluation build through here."""
from model.backbone import Backbone
from model.config import AnyModel, Config, MaskingConfig, ModelConfig
from model.mst import MST
from model.spiking import SpikingNetwork


def build(config: Config) -> SpikingNetwork:
    """An untrained network of `config.model` with the masks of `config.masking`."""
    return network(config.model, config.masking)


def network(model: AnyModel, masking: MaskingConfig) -> SpikingNetwork:
    """An untrained network of shape `model`, initialised by torch's generator."""
    return MST(model, masking) if isinstance(model, ModelConfig) else Backbone(model, masking)
