"""Accuracy of a trained network in its firing modes on the test set, as one JSON object."""
from collections.abc import Sequence

import torch
from torch import distributed as dist
from tqdm import tqdm

from model.data import Images
from model.factory import network
from model.spiking import MODES, SpikingNetwork

STEPS = (4, 8, 16, 32, 64)
"""Time steps at which `stepwise` is read out."""


class EvaluationError(ValueError):
    """Modes, steps or images that cannot be evaluated."""


def evaluate(model: SpikingNetwork, data: Images, modes: Sequence[str] = MODES, steps: Sequence[int] = STEPS,
             batch: int = 125, compiled: bool = False) -> dict[str, object]:
    """Accuracies of `model` on `data` (shares of 1); under torchrun the processes share the images.

    Keys: images; qcfs (float32); exact and exact_agreement (float64; the share of images whose class equals that
    of the QCFS network in float64, and the largest difference of a logit); stepwise ({steps: accuracy}, float32).
    `compiled` compiles the stepwise network, unless masked: it is worth its start where it sees many images.
    """
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes:
        raise EvaluationError(f"unknown mode {unknown[0] if unknown else ''!r}; known: {', '.join(MODES)}")
    if not steps or min(steps) < 1:
        raise EvaluationError(f"steps must be positive, not {list(steps)}")
    if not len(data.labels):
        raise EvaluationError("there are no images to evaluate")
    steps = sorted(set(steps))
    rank, share = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    right = torch.zeros(3 + len(steps), dtype=torch.int64)  # qcfs, exact, agreement, stepwise at each of `steps`
    apart = torch.zeros((), dtype=torch.float64)
    model = model.eval().float()
    precise = network(model.config, model.masking).double().eval()
    precise.load_state_dict(model.state_dict())
    stepping = network(model.config, model.masking).eval()
    stepping.load_state_dict(model.state_dict())
    if compiled and not model.masking.active:  # masks are drawn within, which torch.compile cannot follow
        stepping.run = torch.compile(stepping.run)  # type: ignore[method-assign]
    starts = range(rank * batch, len(data.labels), share * batch)
    for start in tqdm(starts, desc="evaluate", mininterval=10, disable=rank > 0):
        images, labels = data.images[start:start + batch], data.labels[start:start + batch]
        index = torch.arange(start, start + len(labels))
        if "qcfs" in modes:
            logits = model.logits(model.normalise(images), image_index=index)
            right[0] += (logits.argmax(1) == labels).sum()
        if "exact" in modes:
            pixels = precise.normalise(images)
            logits = precise.logits(pixels, "exact", image_index=index)
            wanted = precise.logits(pixels, "qcfs", image_index=index)
            right[1] += (logits.argmax(1) == labels).sum()
            right[2] += (logits.argmax(1) == wanted.argmax(1)).sum()
            apart = torch.maximum(apart, (logits - wanted).abs().max())
        if "stepwise" in modes:
            sums = stepping.logits(model.normalise(images), "stepwise", steps[-1], index)
            right[3:] += (sums[torch.tensor(steps) - 1].argmax(2) == labels).sum(1)
    if share > 1:
        dist.all_reduce(right)
        dist.all_reduce(apart, dist.ReduceOp.MAX)
    count = len(data.labels)
    shares = [int(hits) / count for hits in right]
    result: dict[str, object] = {"images": count}
    if "qcfs" in modes:
        result["qcfs"] = shares[0]
    if "exact" in modes:
        result |= {"exact": shares[1], "exact_agreement": shares[2], "exact_largest_logit_difference": float(apart)}
    if "stepwise" in modes:
        result["stepwise"] = {str(step): hits for step, hits in zip(steps, shares[3:], strict=True)}
    return result
