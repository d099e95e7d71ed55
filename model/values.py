"""Values that a trained network cannot hold: numbers that are not finite, variances below 0."""
from collections.abc import Mapping

import torch
from torch import Tensor


def impossible(tensors: Mapping[str, Tensor]) -> str:
    """What is wrong with the first tensor that no training leaves behind, by name and value; "" where all are sound."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        bad = ~torch.isfinite(tensor)
        if bool(bad.any()):
            return f"{name} holds {float(tensor[bad][0])} ({int(bad.sum())} of {tensor.numel()} values are not finite)"
        if name.endswith("running_var") and bool((tensor < 0).any()):
            return f"{name} holds the variance {float(tensor.min()):.6g}, which is below 0"
    return ""
