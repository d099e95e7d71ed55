"""BatchNorm against LayerNorm: what conversion to a spiking network costs each (MST, section 3.1, with figure 3)."""
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from model import checkpoint, datasets
from model import config as configuration
from model.config import ConfigError
from sim.studies import chart
from sim.studies.steps import BATCH, STEPS
from sim.studies.table import Table


@dataclass(frozen=True, slots=True)
class Measured:
    """Correct images of one network: QCFS, `exact` at T = L, and `stepwise` by T; and how often `exact` equals QCFS."""

    qcfs: int
    exact: int
    equal: int
    stepwise: dict[int, int]


@torch.no_grad()
def measure(path: Path, images: Tensor, labels: Tensor) -> Measured:
    """Of the checkpoint at `path` on images uint8 [B, C, H, W]."""
    model, _ = checkpoint.load(path)
    qcfs = exact = equal = 0
    stepwise = dict.fromkeys(STEPS, 0)
    for start in tqdm(range(0, len(labels), BATCH), desc=path.stem, unit="batch"):
        pixels, wanted = model.normalise(images[start:start + BATCH]), labels[start:start + BATCH]
        plain, whole = (model.logits(pixels, mode).argmax(1) for mode in ("qcfs", "exact"))
        qcfs, exact = qcfs + int((plain == wanted).sum()), exact + int((whole == wanted).sum())
        equal += int((plain == whole).sum())
        sums = model.logits(pixels, "stepwise", STEPS[-1])
        for step in STEPS:
            stepwise[step] += int((sums[step - 1].argmax(1) == wanted).sum())
    return Measured(qcfs, exact, equal, stepwise)


def study(batch: Path, layer: Path, images: int, data: Path | None, command: str) -> tuple[Table, str, str]:
    """Table, figure and the first configuration's name of two networks that differ in their norms alone.

    ConfigError where they differ in more, or `images` are too many; CheckpointError without trained networks.
    """
    configs = [configuration.load(path) for path in (batch, layer)]
    kinds = [(getattr(config.model, "norm", ""), getattr(config.model, "final_norm", "")) for config in configs]
    if kinds != [("batch", "batch"), ("layer", "layer")]:
        raise ConfigError(f"--config must have norm and final_norm = \"batch\" and --against \"layer\", not {kinds}")
    first, second = configs
    shapes = [[value for name in config.model.__dataclass_fields__ if name not in ("norm", "final_norm")
               for value in [getattr(config.model, name)]] for config in configs]
    if shapes[0] != shapes[1] or first.train.dataset != second.train.dataset:
        raise ConfigError(f"{batch} and {layer} differ in more than their norms")
    raw, labels = datasets.read_for(first, False, data)
    if not 0 <= images <= len(labels):
        raise ConfigError(f"--images must be 0 (all) to {len(labels)}, not {images}")
    count = images or len(labels)
    pixels = torch.from_numpy(datasets.fitted(raw[:count], first.model.in_channels, first.model.image_size)).permute(0, 3, 1, 2)
    rows: list[list[str | int | float | None]] = []
    lines: dict[str, list[tuple[float, float]]] = {}
    for config, name in ((first, "BatchNorm"), (second, "LayerNorm")):
        found = measure(checkpoint.of(config), pixels, torch.from_numpy(labels[:count]))
        qcfs = found.qcfs / count
        rows += [[name, "qcfs", None, qcfs, 0.0, None], [name, "exact", first.model.levels, found.exact / count,
                                                         found.exact / count - qcfs, found.equal / count]]
        rows += [[name, "stepwise", step, hits / count, hits / count - qcfs, None] for step, hits in found.stepwise.items()]
        lines[f"{name}, stepwise"] = [(float(step), hits / count) for step, hits in found.stepwise.items()]
        lines[f"{name}, QCFS"] = [(1.0, qcfs), (float(STEPS[-1]), qcfs)]
    shares = ("accuracy", "against QCFS", "same class as QCFS")
    table = Table("BatchNorm against LayerNorm in conversion", ["norm", "mode", "T", *shares], rows, frozenset(shares), [
        f"Measured: {first.name} and {second.name}, equal but for their norms, first {count} {first.train.dataset} test images, "
        "float32, unmasked. Only the BatchNorm network has an integer form: a LayerNorm divides by each token's own deviation, "
        "which no fixed threshold absorbs.", "", f"Made by `{command}`."])
    return table, chart.lines(table.title, "time steps T", "accuracy", lines, log=True), first.name
