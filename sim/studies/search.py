"""Masking ratios of their own for each site of each block, searched under an energy budget (the paper names it as future work).

Each site is masked alone at each ratio, once: what it costs in accuracy, on held-out training images, and what it saves. From
there a greedy walk raises, step by step, the site that costs least for what it saves, until the whole network's energy is within
the budget. Test images only tell how it ended.
"""
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from model import datasets, holdout
from model.config import SITE_SETS, SITES, ConfigError
from model.masking import SpikeMask, mask_rows
from sim.studies import chart
from sim.studies.block_mask import BlockMask, Ratios
from sim.studies.measure import accuracy, cost, layer_costs, masking_of
from sim.studies.setting import Setting
from sim.studies.table import Table

BUDGETS = (0.95, 0.9, 0.85, 0.8)
"""Shares of the unmasked network's energy."""
NOTCHES = (0, 64, 128, 192, 240)
"""Ratios that the search tries, in 1/256."""
UNIFORM = range(8, 256, 8)
COLUMN = "snn_integer_memory"
Site = tuple[str, str]


def energy_of(setting: Setting, mask: SpikeMask | None) -> float:
    """pJ of an image under `mask`."""
    masking = masking_of(setting, SITES if mask else (), 0.5 if mask else 0.0)
    return cost(layer_costs(setting, masking, mask)).energy_pj[COLUMN]


def cheapest(loss: Mapping[tuple[Site, int], float], saving: Mapping[tuple[Site, int], float],
             at: Mapping[Site, int]) -> Site | None:
    """The site to raise by one notch: least accuracy lost for the energy saved. None where no step saves anything."""
    best: tuple[float, Site] | None = None
    for site, notch in at.items():
        if notch + 1 == len(NOTCHES):
            continue
        here, there = (site, NOTCHES[notch]), (site, NOTCHES[notch + 1])
        gained = saving[there] - saving[here]
        if gained <= 0:
            continue
        price = max(0.0, loss[there] - loss[here]) / gained
        if best is None or price < best[0]:
            best = price, site
    return None if best is None else best[1]


def study(setting: Setting, held: Setting) -> tuple[Table, str]:
    """Searched ratios against one ratio at all of the paper's sites, at equal budgets; `held`: images to search with."""
    model, seed = setting.transformer, setting.config.masking.seed
    sites: list[Site] = [(block, site) for block in mask_rows(model) for site in SITES]
    base, plain = accuracy(held, None), energy_of(held, None)
    loss: dict[tuple[Site, int], float] = {(site, 0): 0.0 for site in sites}
    saving: dict[tuple[Site, int], float] = {(site, 0): 0.0 for site in sites}
    for site, ratio in tqdm([(site, ratio) for site in sites for ratio in NOTCHES[1:]], desc="search", unit="site"):
        mask = BlockMask.of_blocks(model, seed, {site: ratio})
        loss[site, ratio], saving[site, ratio] = base - accuracy(held, mask), 1 - energy_of(held, mask) / plain
    rows: list[list[str | int | float | None]] = [["-", 1.0, "none", 1.0, accuracy(setting, None), ""]]
    lines: dict[str, list[tuple[float, float]]] = {"searched": [], "one ratio": []}
    at = dict.fromkeys(sites, 0)
    for budget in BUDGETS:
        ratios: Ratios = {}
        while True:
            ratios = {site: NOTCHES[notch] for site, notch in at.items() if notch}
            used = energy_of(held, BlockMask.of_blocks(model, seed, ratios) if ratios else None) / plain
            step = None if used <= budget else cheapest(loss, saving, at)
            if step is None:
                break
            at[step] += 1
        found = accuracy(setting, BlockMask.of_blocks(model, seed, ratios) if ratios else None)
        rows.append(["searched", budget, "search" if used <= budget else "search, budget not reached", used, found,
                     " ".join(f"{block}.{site}={ratio / 256:g}" for (block, site), ratio in ratios.items())])
        lines["searched"].append((used, found))
        uniform = _uniform(held, budget * plain)
        if uniform is not None:
            ratio, pj = uniform
            share = accuracy(setting, SpikeMask(seed, dict.fromkeys(SITE_SETS["paper"], ratio)))
            rows.append(["one ratio", budget, f"{ratio / 256:g} everywhere", pj / plain, share, ""])
            lines["one ratio"].append((pj / plain, share))
    table = Table(f"{setting.config.name}: masking ratios searched under an energy budget",
                  ["ratios", "budget", "how", "energy", "accuracy", "per site"], rows,
                  frozenset({"budget", "energy", "accuracy"}),
                  setting.notes(f"Integer network, `exact`, no retraining. Searched on {held.source}; accuracies on the "
                                "test images. Energy: share of the unmasked network's, modelled."))
    return table, chart.lines(table.title, "energy of ratio 0", "accuracy",
                              {name: sorted(found) for name, found in lines.items() if found})


def _uniform(held: Setting, limit: float) -> tuple[int, float] | None:
    """The smallest ratio in 1/256, the same at all of the paper's sites, that keeps within `limit` pJ; and its pJ."""
    for ratio in UNIFORM:
        pj = energy_of(held, SpikeMask(held.config.masking.seed, dict.fromkeys(SITE_SETS["paper"], ratio)))
        if pj <= limit:
            return ratio, pj
    return None


def held_out(setting: Setting, count: int, data: Path | None) -> Setting:
    """`setting` with `count` of the training images that training set aside, stratified where it did so; ConfigError where it
    set aside fewer, or others than `[train] split` says."""
    train = setting.config.train
    if not 1 <= count <= train.holdout:
        raise ConfigError(f"--held-out must be 1 to {train.holdout} ([train] holdout), not {count}")
    holdout.expect_rule(setting.checkpoint, train.split)
    pictures, labels = datasets.read_for(setting.config, True, data)
    aside = holdout.split(labels, train.holdout, train.split)[1]
    if count < train.holdout:
        aside = aside[holdout.split(labels[aside], count, train.split)[1]]
    images = datasets.fitted(pictures[aside], setting.config.model.in_channels, setting.config.model.image_size)
    return dataclasses.replace(setting, images=images, labels=labels[aside],
                               source=f"{count} {train.dataset} training images, held out of training ([train] split = "
                                      f"{train.split!r})")
