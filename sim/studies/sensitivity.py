"""Which layers bear masking: one site of one block is masked at a time."""
from tqdm import tqdm

from model.config import SITES
from model.masking import mask_rows
from sim.studies import chart
from sim.studies.block_mask import BlockMask
from sim.studies.measure import accuracy, cost, layer_costs, masking_of
from sim.studies.setting import Setting
from sim.studies.table import Table

RATIO = 0.75
COLUMN = "snn_integer_memory"


def study(setting: Setting) -> tuple[Table, str]:
    """Integer network, `exact`: accuracy lost and energy saved where each site of each block alone is masked by RATIO."""
    model, seed = setting.transformer, setting.config.masking.seed
    masking = masking_of(setting, SITES, RATIO)
    base = accuracy(setting, None)
    plain = cost(layer_costs(setting, masking_of(setting, (), 0.0)))
    rows: list[list[str | int | float | None]] = []
    for block, site in tqdm([(block, site) for block in mask_rows(model) for site in SITES], desc="sensitivity", unit="site"):
        mask = BlockMask.of_blocks(model, seed, {(block, site): masking.ratio256})
        share = accuracy(setting, mask)
        used = cost(layer_costs(setting, masking, mask))
        rows.append([f"{block}.{site}", share, base - share, 1 - used.energy_pj[COLUMN] / plain.energy_pj[COLUMN],
                     1 - used.sops / plain.sops])
    table = Table(f"{setting.config.name}: what masking one site of one block costs and saves",
                  ["site", "accuracy", "accuracy lost", "energy saved", "SOPs saved"], rows,
                  frozenset({"accuracy", "accuracy lost", "energy saved", "SOPs saved"}),
                  setting.notes(f"Integer network, `exact`, no retraining; ratio {RATIO} at that site alone; unmasked: "
                                f"{100 * base:.2f} %. Savings are of the whole network, energy modelled."))
    return table, chart.bars(table.title, [str(row[0]) for row in rows],
                             {name: [max(0.0, float(row[at] or 0)) for row in rows]
                              for name, at in (("accuracy lost", 2), ("energy saved", 3))})
