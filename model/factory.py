"""The network that a configuration describes: training, checkpoints and evaluation build through here."""
from model.config import Config, MaskingConfig, ModelConfig
from model.mst import MST


def build(config: Config) -> MST:
    """An untrained network of `config.model` with the masks of `config.masking`."""
    return network(config.model, config.masking)


def network(model: ModelConfig, masking: MaskingConfig) -> MST:
    """An untrained network of shape `model`, initialised by torch's generator."""
    return MST(model, masking)
