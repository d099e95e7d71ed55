"""VGG and ResNet: accuracy in both firing modes, cycles and energy against the masking ratio at the convolutions' inputs."""
import torch
from tqdm import tqdm

from model.config import CONV_SITE, ConfigError, ModelConfig
from model.factory import network
from model.masking import SpikeMask
from sim.studies import chart
from sim.studies.measure import accuracy, cost, layer_costs, masking_of
from sim.studies.setting import COUNTED, Setting
from sim.studies.table import Table

RATIOS = tuple(tenth / 10 for tenth in range(10))
STEPS = (8, 16, 32)
"""Time steps at which `stepwise` is read out."""
BATCH = 125
COLUMN = "snn_integer_memory"
"""Column of `sim.energy.COLUMNS` that is shown."""


@torch.no_grad()
def study(setting: Setting) -> tuple[Table, str]:
    """Ratios 0 to 0.9 (rounded to 1/256) without retraining; ConfigError for an MST, which has the study `masking`."""
    if isinstance(setting.config.model, ModelConfig):
        raise ConfigError(f"{setting.path}: the study of backbones is for a VGG or ResNet; for an MST take the study `masking`")
    pixels = torch.from_numpy(setting.images).permute(0, 3, 1, 2)
    labels = torch.from_numpy(setting.labels)
    rows: list[list[str | int | float | None]] = []
    lines: dict[str, list[tuple[float, float]]] = {}
    energy = 0.0
    for ratio in tqdm(RATIOS, desc="backbone", unit="ratio"):
        masking = masking_of(setting, (CONV_SITE,), ratio)
        model = network(setting.config.model, masking).eval()
        model.load_state_dict(setting.model.state_dict())
        right = [0] * (1 + len(STEPS))
        for start in range(0, len(pixels), BATCH):
            images, wanted = model.normalise(pixels[start:start + BATCH]), labels[start:start + BATCH]
            numbers = torch.arange(start, start + len(images))
            sums = model.logits(images, "stepwise", STEPS[-1], numbers)
            found = [model.logits(images, "exact", image_index=numbers), *(sums[step - 1] for step in STEPS)]
            right = [hits + int((logits.argmax(1) == wanted).sum()) for hits, logits in zip(right, found, strict=True)]
        shares = [accuracy(setting, SpikeMask.of(masking)), *(hits / len(pixels) for hits in right)]
        used = cost(layer_costs(setting, masking))
        energy = energy or used.energy_pj[COLUMN]
        rows.append([ratio, *shares, used.cycles, used.sops, used.energy_pj[COLUMN] / 1e6])
        for name, share in zip(("integers, exact", "exact", *(f"stepwise, T = {step}" for step in STEPS)), shares, strict=True):
            lines.setdefault(name, []).append((ratio, share))
        lines.setdefault("energy of ratio 0", []).append((ratio, used.energy_pj[COLUMN] / energy))
    columns = ["integers, exact", "exact", *(f"stepwise, T = {step}" for step in STEPS)]
    table = Table(f"{setting.config.name}: accuracy and energy against the masking ratio",
                  ["ratio", *columns, "cycles", "SOPs", "energy uJ"], rows, frozenset(columns),
                  setting.notes(f"Masked: what every convolution but the first reads. T = L = {setting.config.model.levels} in "
                                f"`exact`; `stepwise` in float32. Cycles, SOPs and energy: means of {COUNTED} images on the "
                                "integers, energy modelled (integer additions and memory accesses)."))
    return table, chart.lines(table.title, "masking ratio", "share", lines)
