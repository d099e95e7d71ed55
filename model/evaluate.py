"""Accuracy of a trained network in its firing modes on the test set, as one JSON object."""
from collections.abc import Sequence

import torch
from tqdm import tqdm

from model.data import Images
from model.mst import MODES, MST

STEPS = (4, 8, 16, 32, 64)
"""Time steps at which `stepwise` is read out."""


class EvaluationError(ValueError):
    """Modes, steps or images that cannot be evaluated."""


def evaluate(model: MST, data: Images, modes: Sequence[str] = MODES, steps: Sequence[int] = STEPS,
             batch: int = 250) -> dict[str, object]:
    """Accuracies of `model` on `data` (shares of 1).

    Keys: images; qcfs (float32); exact and exact_agreement (float64; the share of images whose class equals that
    of the QCFS network in float64, and the largest difference of a logit); stepwise ({steps: accuracy}, float32).
    """
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes:
        raise EvaluationError(f"unknown mode {unknown[0] if unknown else ''!r}; known: {', '.join(MODES)}")
    if not steps or min(steps) < 1:
        raise EvaluationError(f"steps must be positive, not {list(steps)}")
    if not len(data.labels):
        raise EvaluationError("there are no images to evaluate")
    steps = sorted(set(steps))
    right = {"qcfs": 0, "exact": 0, "agree": 0}
    late = torch.zeros(len(steps), dtype=torch.int64)
    apart = 0.0
    model = model.eval().float()
    precise = MST(model.config, model.masking).double().eval()
    precise.load_state_dict(model.state_dict())
    for start in tqdm(range(0, len(data.labels), batch), desc="evaluate", mininterval=10):
        images, labels = data.images[start:start + batch], data.labels[start:start + batch]
        index = torch.arange(start, start + len(labels))
        if "qcfs" in modes:
            logits = model.logits(model.normalise(images), image_index=index)
            right["qcfs"] += int((logits.argmax(1) == labels).sum())
        if "exact" in modes:
            pixels = precise.normalise(images)
            logits = precise.logits(pixels, "exact", image_index=index)
            wanted = precise.logits(pixels, "qcfs", image_index=index)
            right["exact"] += int((logits.argmax(1) == labels).sum())
            right["agree"] += int((logits.argmax(1) == wanted.argmax(1)).sum())
            apart = max(apart, float((logits - wanted).abs().max()))
        if "stepwise" in modes:
            sums = model.logits(model.normalise(images), "stepwise", steps[-1], index)
            late += (sums[torch.tensor(steps) - 1].argmax(2) == labels).sum(1)
    count = len(data.labels)
    result: dict[str, object] = {"images": count}
    if "qcfs" in modes:
        result["qcfs"] = right["qcfs"] / count
    if "exact" in modes:
        result |= {"exact": right["exact"] / count, "exact_agreement": right["agree"] / count,
                   "exact_largest_logit_difference": apart}
    if "stepwise" in modes:
        result["stepwise"] = {str(step): int(hits) / count for step, hits in zip(steps, late, strict=True)}
    return result
