"""A spike mask with a ratio of its own for each site of each block."""
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.config import SITES, ModelConfig
from model.masking import SpikeMask, mask_rows

Ratios = Mapping[tuple[str, str], int]
"""(block such as "s0.b1", site) -> ratio in 1/256; what is not named is not masked."""
ROWS_OF = {"q": "qkv", "k": "qkv", "scores": "scores", "fc1": "fc1", "fc2": "fc2"}


@dataclass(frozen=True, slots=True)
class BlockMask(SpikeMask):
    """Draws as `model.masking.SpikeMask`; the first mask row of a call tells which block asks."""

    table: dict[tuple[str, int], int]
    """(site, first row of its block) -> ratio; `ratios` holds the largest of each site."""

    @classmethod
    def of_blocks(cls, model: ModelConfig, seed: int, ratios: Ratios) -> "BlockMask":
        """Mask of `ratios`; ValueError for a block that `model` has not, an unknown site, or a ratio outside 0..255."""
        rows = mask_rows(model)
        table = {}
        for (block, site), ratio in ratios.items():
            if block not in rows or site not in SITES:
                raise ValueError(f"no site {site!r} of block {block!r} to mask; blocks: {', '.join(rows)}; "
                                 f"sites: {', '.join(SITES)}")
            if not 0 <= ratio < 256:
                raise ValueError(f"the ratio of {block}.{site} must be 0 to 255 of 256, not {ratio}")
            table[site, int(getattr(rows[block], ROWS_OF[site]))] = ratio
        return cls(seed, {site: max((ratio for (s, _), ratio in table.items() if s == site), default=0) for site in SITES}, table)

    def keep(self, site: str, images: NDArray[np.int64], row: int, rows: int, columns: int,
             first: int = 0) -> NDArray[np.bool_] | None:
        """See SpikeMask.keep."""
        ratio = self.table.get((site, row), 0)
        return SpikeMask(self.seed, {site: ratio}).keep(site, images, row, rows, columns, first)
