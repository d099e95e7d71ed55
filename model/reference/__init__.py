"""The authors' network: `from_state_dict` and `load` give a model whose logits agree with their implementation's.

`network` holds the modules, `shape` what a state dict says of its network, `pickled` reads a checkpoint without
running anything of it, `files` imports one. docs/reference.md says how to use them.
"""
from model.reference.files import import_checkpoint, load
from model.reference.network import Reference, from_state_dict
from model.reference.shape import ReferenceModelError

__all__ = ["Reference", "ReferenceModelError", "from_state_dict", "import_checkpoint", "load"]
