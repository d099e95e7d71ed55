"""Accuracy, cycles and energy against the masking ratio, for attention only, MLP only, and both (MST, figure 5 and table 4)."""
from tqdm import tqdm

from model.config import SITE_SETS, ConfigError, ModelConfig
from model.masking import SpikeMask
from sim.studies import chart
from sim.studies.measure import ATTENTION, MLP, accuracy, cost, layer_costs, masking_of
from sim.studies.setting import COUNTED, Setting
from sim.studies.table import Table

RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9)
"""0.75 is the ratio of the paper's power figures."""
PLACES = {"attention": SITE_SETS["published-code"], "MLP": ("fc1", "fc2"), "both": SITE_SETS["paper"]}
CHANGES = ("energy", "energy of attention", "energy of MLPs", "SOPs of attention", "SOPs of MLPs")
COLUMN = "snn_integer_memory"
"""Column of `sim.energy.COLUMNS` that is drawn."""


def study(setting: Setting) -> tuple[Table, str]:
    """Integer network in `exact` mode at ratios 0 to 0.9 (rounded to 1/256) without retraining."""
    if not isinstance(setting.config.model, ModelConfig):
        raise ConfigError(f"{setting.path}: this study masks attention and MLPs; for a {setting.config.model.kind} take "
                          "the study `backbone`")
    rows: list[list[str | int | float | None]] = []
    plain = layer_costs(setting, masking_of(setting, (), 0.0))
    base, base_attention, base_mlp = cost(plain), cost(plain, ATTENTION), cost(plain, MLP)
    lines: dict[str, list[tuple[float, float]]] = {}
    todo = [(place, ratio) for place in PLACES for ratio in RATIOS]
    for place, ratio in tqdm(todo, desc="masking", unit="run"):
        masking = masking_of(setting, PLACES[place] if ratio else (), ratio)
        share = accuracy(setting, SpikeMask.of(masking))
        layers = layer_costs(setting, masking) if ratio else plain
        all_, attention, mlp = cost(layers), cost(layers, ATTENTION), cost(layers, MLP)
        used = all_.energy_pj[COLUMN] / base.energy_pj[COLUMN]
        rows.append([place, ratio, share, all_.cycles, all_.sops, all_.energy_pj[COLUMN] / 1e6, used - 1,
                     attention.energy_pj[COLUMN] / base_attention.energy_pj[COLUMN] - 1,
                     mlp.energy_pj[COLUMN] / base_mlp.energy_pj[COLUMN] - 1,
                     attention.sops / base_attention.sops - 1, mlp.sops / base_mlp.sops - 1])
        lines.setdefault(f"accuracy, {place}", []).append((ratio, share))
        lines.setdefault(f"energy of ratio 0, {place}", []).append((ratio, used))
    table = Table(f"{setting.config.name}: accuracy and energy against the masking ratio",
                  ["masked", "ratio", "accuracy", "cycles", "SOPs", "energy uJ", *CHANGES], rows,
                  frozenset({"accuracy", *CHANGES}),
                  setting.notes(f"Integer network, `exact`, T = L; cycles, SOPs and energy: means of {COUNTED} images, "
                                "energy modelled (integer additions and memory accesses), changes against ratio 0."))
    return table, chart.lines(table.title, "masking ratio", "share", lines)
