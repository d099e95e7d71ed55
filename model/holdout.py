"""Which training images are held out: never trained on, they watch accuracy and choose masking ratios. No torch."""
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from model.errors import ConfigError

SPLITS = ("stratified", "last")
Indices = NDArray[np.int64]


def shares(labels: Indices, count: int) -> Indices:
    """How many of `count` images each label gives up, int64 [largest label + 1]; ValueError where `count` is too large.

    In proportion to the label's images, by the largest remainder (of equal ones the lower label), but never its last image.
    """
    totals = np.bincount(labels) if len(labels) else np.zeros(0, np.int64)
    room = np.maximum(totals - 1, 0)
    if count > room.sum():
        raise ValueError(f"{count} of {len(labels)} images cannot be held out: "
                         f"each of the {(totals > 0).sum()} classes keeps one")
    exact = totals * count
    taken = np.minimum(exact // max(1, len(labels)), room)
    remainder = exact - taken * len(labels)
    while taken.sum() < count:
        best = int(np.argmax(np.where(taken < room, remainder, np.iinfo(np.int64).min)))
        taken[best] += 1
        remainder[best] -= len(labels)
    return taken.astype(np.int64)


def split(labels: Indices, count: int, rule: str = "stratified") -> tuple[Indices, Indices]:
    """Indices of the images to train on and of the `count` held out, both int64 and rising. ValueError as `shares`.

    "stratified": the last images of each class, as many as `shares` says. "last": the last `count`, which of a set in class
    order are whole classes; it is what networks were trained with before there was a choice.
    """
    labels = np.asarray(labels, np.int64)
    if rule == "last":
        return np.arange(len(labels) - count), np.arange(len(labels) - count, len(labels))
    held = np.zeros(len(labels), bool)
    for label, taken in enumerate(shares(labels, count)):
        if taken:
            held[np.flatnonzero(labels == label)[-taken:]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def expect_rule(checkpoint: Path, rule: str) -> None:
    """ConfigError where the network in `checkpoint`, if there is one, was trained with another `[train] split` than `rule`."""
    if not checkpoint.is_file():
        return
    try:
        with safe_open(checkpoint, framework="np") as file:
            found = json.loads((file.metadata() or {}).get("info", "{}")).get("split", "last")
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{checkpoint}: cannot be read ({' '.join(str(error).split())[:100]}): train again") from None
    if found != rule:
        raise ConfigError(f"{checkpoint}: was trained with [train] split = {found!r}, the configuration says {rule!r}: set it to "
                          f"{found!r}, or train again; images that it was trained on are not held out")
