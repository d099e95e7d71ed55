"""Accuracy against the number of time steps, in both firing modes (MST, figure 4)."""
import torch
from torch import Tensor
from tqdm import tqdm

from model.neuron import ExactEngine, fire_exact
from model.qcfs import QCFS
from sim.golden.network import run
from sim.golden.stepwise import run_stepwise
from sim.studies import chart
from sim.studies.setting import Setting
from sim.studies.table import Table

STEPS = (1, 2, 4, 8, 16, 32, 64)
BATCH = 100


class ShortEngine(ExactEngine):
    """`exact` neurons that are given only `steps` time steps to fire in: at most `steps` of their up to L spikes."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def fire(self, act: QCFS, x: Tensor) -> Tensor:
        """See Engine.fire."""
        threshold = act.threshold.detach()
        return threshold * fire_exact(x, threshold, min(self.steps, act.levels))


@torch.no_grad()
def study(setting: Setting) -> tuple[Table, str]:
    """Float weights: QCFS, `exact` with T = 1 to L steps to fire in, `stepwise` up to T = 64; and the integers in both."""
    model = setting.model.eval()
    levels = setting.config.model.levels
    short = range(1, levels + 1)
    right = {("qcfs", None): 0} | {("exact", t): 0 for t in short} | {("stepwise", t): 0 for t in STEPS}
    pixels = torch.from_numpy(setting.images).permute(0, 3, 1, 2)
    for start in tqdm(range(0, len(pixels), BATCH), desc="steps", unit="batch"):
        images = model.normalise(pixels[start:start + BATCH])
        labels = torch.from_numpy(setting.labels[start:start + BATCH])
        right["qcfs", None] += int((model.logits(images).argmax(1) == labels).sum())
        for t in short:
            right["exact", t] += int((model.run(images, ShortEngine(t)).argmax(1) == labels).sum())
        sums = model.logits(images, "stepwise", STEPS[-1])
        for t in STEPS:
            right["stepwise", t] += int((sums[t - 1].argmax(1) == labels).sum())
    whole = run(setting.network, setting.images, keep=False).classes
    right["integers, exact", levels] = int((whole == setting.labels).sum())
    stepped = run_stepwise(setting.network, setting.images, STEPS[-1]).classes
    right |= {("integers, stepwise", t): int((stepped[t - 1] == setting.labels).sum()) for t in STEPS}
    count = len(pixels)
    rows: list[list[str | int | float | None]] = [[mode, t, hits / count] for (mode, t), hits in right.items()]
    table = Table(f"{setting.config.name}: accuracy against time steps", ["mode", "T", "accuracy"], rows, frozenset({"accuracy"}),
                  setting.notes("Float32, and integers where it says so; unmasked. `exact`: a neuron integrates all its input, "
                                f"then has T steps to fire in (T = L = {levels} equals QCFS); `stepwise`: every step runs the "
                                "whole network."))
    lines = {mode: [(float(t), hits / count) for (name, t), hits in right.items() if name == mode and t is not None]
             for mode in ("exact", "stepwise", "integers, stepwise")}
    lines["QCFS network"] = [(1.0, right["qcfs", None] / count), (float(STEPS[-1]), right["qcfs", None] / count)]
    return table, chart.lines(table.title, "time steps T", "accuracy", lines, log=True)
