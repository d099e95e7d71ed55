"""Random Spike Masking: one LFSR stream, addressed by (seed, image, row, column), in numpy.

Defined in docs/semantics.md, section 4; the stream itself is in `model.lfsr`. Masking: Masked Spiking
Transformer, ICCV 2023, section 3.3.
"""
import dataclasses
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model.config import CONV_SITE, SITES, AnyModel, MaskingConfig, ModelConfig
from model.lfsr import LEAP, ROW_DRAWS, STEP_SEED, TAPS, WIDTH, WORD, jump, start_state

TABLE_BYTES = 1 << 20
"""Largest table of draws that is kept for the next images; longer runs of draws are grown from their corner each time."""
_SIDE = WIDTH
"""Rows and columns of a corner: as many as the recurrence looks back."""


@lru_cache(maxsize=256)
def corner_bytes(row: int) -> NDArray[np.uint8]:
    """Draws [32, 32 rows, 32 columns] of the 32 one-bit start states: every stream is an exclusive or of these."""
    bits = np.arange(WIDTH, dtype=np.uint32)
    next_row = np.array([jump(1 << bit, LEAP * ROW_DRAWS) for bit in range(WIDTH)], np.uint32)
    state = np.empty((WIDTH, _SIDE), np.uint32)
    state[:, 0] = [jump(1 << bit, LEAP * ROW_DRAWS * row) for bit in range(WIDTH)]
    for r in range(1, _SIDE):
        state[:, r] = np.bitwise_xor.reduce((state[:, r - 1, None] >> bits & 1) * next_row, axis=1)
    out = np.empty((WIDTH, _SIDE, _SIDE), np.uint8)
    for column in range(_SIDE):
        for _ in range(LEAP):
            new = state >> np.uint32(31) ^ state >> np.uint32(21) ^ state >> np.uint32(1) ^ state
            state = state << np.uint32(1) | new & np.uint32(1)
        out[:, :, column] = state & np.uint32(255)
    return out


def _extend(found: NDArray[np.uint8]) -> None:
    """Fill found [images, lines, ...] from its first 32 lines on, along axis 1.

    Squaring is linear over GF(2), so a stream that obeys b[k] = sum of b[k - tap] obeys it at every power of two of the
    distance: draws are 2^3 bits apart, rows 2^15; and m = 2^i lines at once follow from those m * tap before.
    """
    lines = found.shape[1]
    at = WIDTH
    while at < lines:
        many = 1 << (at // WIDTH).bit_length() - 1
        part = found[:, at:at + many]
        size = part.shape[1]
        sources = [found[:, at - tap * many:at - tap * many + size] for tap in TAPS]
        np.bitwise_xor(sources[0], sources[1], out=part)
        for source in sources[2:]:
            part ^= source
        at += many


def _grown(corner: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Draws [N, rows, columns] of the streams whose first 32 rows and columns are `corner`."""
    out = np.empty((len(corner), max(rows, _SIDE), max(columns, _SIDE)), np.uint8)
    out[:, :_SIDE, :_SIDE] = corner
    _extend(out[:, :_SIDE].swapaxes(1, 2))
    _extend(out)
    return out[:, :rows, :columns]


@lru_cache(maxsize=64)
def _basis_bytes(row: int, rows: int, columns: int) -> NDArray[np.uint8]:
    """Draws [32, rows, columns] of the 32 one-bit start states: kept where it is small, at most 64 * TABLE_BYTES in all."""
    return np.ascontiguousarray(_grown(corner_bytes(row), rows, columns))


def draws(seed: int, images: NDArray[np.int64], row: int, rows: int, columns: int) -> NDArray[np.uint8]:
    """Draws uint8 [len(images), rows, columns] of rows `row` .. `row + rows - 1`; ValueError beyond a row's 4096 draws."""
    if columns > ROW_DRAWS:
        raise ValueError(f"a mask row has {ROW_DRAWS} draws, not {columns}: raise ROW_DRAWS")
    small = WIDTH * rows * columns <= TABLE_BYTES
    basis = _basis_bytes(row, rows, columns) if small else corner_bytes(row)
    out = np.zeros((len(images), *basis.shape[1:]), np.uint8)
    for index, image in enumerate(images):
        state = start_state(seed, int(image))
        for bit in range(WIDTH):
            if state >> bit & 1:
                out[index] ^= basis[bit]
    return out if small else _grown(out, rows, columns)


@dataclass(frozen=True, slots=True)
class MaskRows:
    """First mask row of each site of one block, and how many rows it owns."""

    qkv: int
    scores: int
    fc1: int
    fc2: int


def mask_rows(model: AnyModel) -> dict[str, MaskRows]:
    """Mask rows of every block, by block name `s{i}.b{j}`; ValueError if the stream is too short for them.

    Empty for a convolutional backbone: see `conv_rows`.
    """
    rows = 0
    table: dict[str, MaskRows] = {}
    if not isinstance(model, ModelConfig):
        return table
    for stage, depth in enumerate(model.depths):
        tokens = model.side(stage) ** 2
        for block in range(depth):
            scores = rows + tokens
            fc1 = scores + tokens * model.heads[stage]
            table[f"s{stage}.b{block}"] = MaskRows(rows, scores, fc1, fc1 + tokens)
            rows = fc1 + 2 * tokens
    _check_rows(rows)
    return table


def conv_rows(model: AnyModel) -> dict[str, int]:
    """First mask row of the counts that each layer of a VGG or ResNet hands to the next convolution, by the layer's name.

    A row is an output token of that layer, a column its channel. ValueError if the stream is too short.
    """
    rows = 0
    table: dict[str, int] = {}
    for shape in () if isinstance(model, ModelConfig) else model.plan()[:-1]:
        table[shape.name] = rows
        rows += shape.tokens
    _check_rows(rows)
    return table


def _check_rows(rows: int) -> None:
    if rows * ROW_DRAWS * LEAP >= 1 << WIDTH:
        most = ((1 << WIDTH) - 1) // (ROW_DRAWS * LEAP)
        raise ValueError(f"{rows} mask rows of {ROW_DRAWS} draws exceed the period of a {WIDTH}-bit LFSR, which has {most} "
                         "(a row for each token of each layer and head): lower [model] image_size, depths or heads, or raise "
                         "patch")


@dataclass(frozen=True, slots=True)
class SpikeMask:
    """The mask of a run: seed, and the ratios in 1/256, by site ("q") or by block and site ("s0.b1.q"), which goes first."""

    seed: int
    ratios: dict[str, int]

    @classmethod
    def of(cls, config: MaskingConfig) -> "SpikeMask":
        """Mask with the ratios of the configuration."""
        own = {name: int(ratio * 256) for name, ratio in config.ratios if "." in name}
        return cls(config.seed, {site: config.ratio256_of(site) for site in (*SITES, CONV_SITE)} | own)

    def ratio_of(self, site: str, block: str = "") -> int:
        """Ratio of `site` in `block` in 1/256; ValueError where blocks differ and none is named."""
        if not block and any("." in name for name in self.ratios):
            raise ValueError(f"the mask ratio of {site!r} depends on the block: name one")
        return self.ratios.get(f"{block}.{site}", self.ratios.get(site, 0))

    def at_step(self, step: int) -> "SpikeMask":
        """The mask of time step `step` in `stepwise` mode: the same ratios, other draws; step 0 is the mask itself."""
        return dataclasses.replace(self, seed=self.seed ^ (step * STEP_SEED & WORD))

    def keep(self, site: str, images: NDArray[np.int64], row: int, rows: int, columns: int,
             first: int = 0, block: str = "") -> NDArray[np.bool_] | None:
        """True where a spike is kept, [len(images), rows, columns], from column `first` on; None where none is masked."""
        ratio = self.ratio_of(site, block)
        if not ratio:
            return None
        return draws(self.seed, images, row, rows, first + columns)[:, :, first:] >= ratio
