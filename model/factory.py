"""The one place where a configuration becomes a network: training, checkpoints and evaluation build through it."""
from model.config import MaskingConfig, ModelConfig
from model.mst import MST


def build(config: ModelConfig, masking: MaskingConfig) -> MST:
    """Untrained network of shape `config` with the spike masks of `masking`, initialised by torch's generator."""
    return MST(config, masking)
