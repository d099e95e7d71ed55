"""A spike mask with a ratio of its own for each site of each block, its names checked against the network."""
from collections.abc import Mapping

from model.config import SITES, ModelConfig
from model.masking import SpikeMask, mask_rows

Ratios = Mapping[tuple[str, str], int]
"""(block such as "s0.b1", site) -> ratio in 1/256; what is not named is not masked."""


class BlockMask(SpikeMask):
    """`model.masking.SpikeMask` that only knows blocks."""

    @classmethod
    def of_blocks(cls, model: ModelConfig, seed: int, ratios: Ratios) -> "BlockMask":
        """Mask of `ratios`; ValueError for a block that `model` has not, an unknown site, or a ratio outside 0..255."""
        blocks = mask_rows(model)
        for (block, site), ratio in ratios.items():
            if block not in blocks or site not in SITES:
                raise ValueError(f"no site {site!r} of block {block!r} to mask; blocks: {', '.join(blocks)}; "
                                 f"sites: {', '.join(SITES)}")
            if not 0 <= ratio < 256:
                raise ValueError(f"the ratio of {block}.{site} must be 0 to 255 of 256, not {ratio}")
        return cls(seed, {f"{block}.{site}": ratio for (block, site), ratio in ratios.items()})
