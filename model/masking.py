"""Random Spike Masking: one LFSR stream, addressed by (seed, image, row, column), in numpy.

Defined in docs/semantics.md, section 4. The stream is linear over GF(2), so it can be entered anywhere:
`jump_polynomial(k)` is x^k modulo the characteristic polynomial, and `jump(state, k)` the state k steps on.
Taps (32, 22, 2, 1): Xilinx XAPP052. Masking: Masked Spiking Transformer, ICCV 2023, section 3.3.
"""
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model.config import SITES, MaskingConfig, ModelConfig

WIDTH = 32
TAPS = (32, 22, 2, 1)
LEAP = 8
ROW_DRAWS = 4096
_WORD = (1 << WIDTH) - 1
# Recurrence b[k] = sum of b[k - tap], hence x^32 = sum of x^(32 - tap).
_REDUCTION = sum(1 << (WIDTH - tap) for tap in TAPS)


def step(state: int) -> int:
    """One shift of the LFSR."""
    bit = 0
    for tap in TAPS:
        bit ^= state >> (tap - 1)
    return (state << 1 | bit & 1) & _WORD


@lru_cache(maxsize=4096)
def jump_polynomial(steps: int) -> int:
    """x^steps modulo the LFSR's characteristic polynomial, bit i = coefficient of x^i."""
    result, power = 1, 2
    while steps:
        if steps & 1:
            result = _product(result, power)
        power = _product(power, power)
        steps >>= 1
    return result


def _product(a: int, b: int) -> int:
    total = 0
    while b:
        if b & 1:
            total ^= a
        b >>= 1
        a <<= 1
        if a >> WIDTH:
            a = a & _WORD ^ _REDUCTION
    return total


def apply_polynomial(state: int, polynomial: int) -> int:
    """Sum of step^i(state) over the set bits i of `polynomial`: how the hardware jumps, one shift a cycle."""
    total = 0
    for bit in range(WIDTH):
        if polynomial >> bit & 1:
            total ^= state
        state = step(state)
    return total


def jump(state: int, steps: int) -> int:
    """The state `steps` shifts after `state`."""
    return apply_polynomial(state, jump_polynomial(steps))


def start_state(seed: int, image: int) -> int:
    """State of an image before its first draw."""
    return (seed ^ image) & _WORD or 1


@lru_cache(maxsize=64)
def _basis_bytes(row: int, rows: int, columns: int) -> NDArray[np.uint8]:
    """Draws [32, rows, columns] of the 32 one-bit start states: every stream is an exclusive or of these."""
    out = np.empty((WIDTH, rows, columns), np.uint8)
    state = np.empty((WIDTH, rows), np.uint32)
    for bit in range(WIDTH):
        first = jump(1 << bit, LEAP * ROW_DRAWS * row)
        for r in range(rows):
            state[bit, r] = first
            first = _row_jump(first)
    for column in range(columns):
        for _ in range(LEAP):
            new = state >> np.uint32(31) ^ state >> np.uint32(21) ^ state >> np.uint32(1) ^ state
            state = state << np.uint32(1) | new & np.uint32(1)
        out[:, :, column] = state & np.uint32(255)
    return out


@lru_cache(maxsize=1)
def _row_tables() -> tuple[tuple[int, ...], ...]:
    """Images of every byte value at each byte place under a jump of one row."""
    basis = [jump(1 << bit, LEAP * ROW_DRAWS) for bit in range(WIDTH)]
    tables = []
    for place in range(4):
        table = [0] * 256
        for value in range(256):
            for bit in range(8):
                if value >> bit & 1:
                    table[value] ^= basis[8 * place + bit]
        tables.append(tuple(table))
    return tuple(tables)


def _row_jump(state: int) -> int:
    a, b, c, d = _row_tables()
    return a[state & 255] ^ b[state >> 8 & 255] ^ c[state >> 16 & 255] ^ d[state >> 24]


def draws(seed: int, images: NDArray[np.int64], row: int, rows: int, columns: int) -> NDArray[np.uint8]:
    """Draws uint8 [len(images), rows, columns] of rows `row` .. `row + rows - 1`."""
    if columns > ROW_DRAWS:
        raise ValueError(f"a mask row has {ROW_DRAWS} draws, not {columns}: raise ROW_DRAWS")
    basis = _basis_bytes(row, rows, columns)
    out = np.zeros((len(images), rows, columns), np.uint8)
    for index, image in enumerate(images):
        state = start_state(seed, int(image))
        for bit in range(WIDTH):
            if state >> bit & 1:
                out[index] ^= basis[bit]
    return out


@dataclass(frozen=True, slots=True)
class MaskRows:
    """First mask row of each site of one block, and how many rows it owns."""

    qkv: int
    scores: int
    fc1: int
    fc2: int


def mask_rows(model: ModelConfig) -> dict[str, MaskRows]:
    """Mask rows of every block, by block name `s{i}.b{j}`; ValueError if the stream is too short for them."""
    rows, table = 0, {}
    for stage, depth in enumerate(model.depths):
        tokens = model.side(stage) ** 2
        for block in range(depth):
            scores = rows + tokens
            fc1 = scores + tokens * model.heads[stage]
            table[f"s{stage}.b{block}"] = MaskRows(rows, scores, fc1, fc1 + tokens)
            rows = fc1 + 2 * tokens
    if rows * ROW_DRAWS * LEAP >= 1 << WIDTH:
        raise ValueError(f"{rows} mask rows of {ROW_DRAWS} draws exceed the period of a {WIDTH}-bit LFSR")
    return table


@dataclass(frozen=True, slots=True)
class SpikeMask:
    """The mask of a run: seed, and the ratio of each site in 1/256."""

    seed: int
    ratios: dict[str, int]

    @classmethod
    def of(cls, config: MaskingConfig) -> "SpikeMask":
        """Mask with one ratio at all of the configuration's sites."""
        return cls(config.seed, {site: config.ratio256 if site in config.sites else 0 for site in SITES})

    def keep(self, site: str, images: NDArray[np.int64], row: int, rows: int, columns: int,
             first: int = 0) -> NDArray[np.bool_] | None:
        """True where a spike is kept, [len(images), rows, columns], from column `first` on; None where none is."""
        ratio = self.ratios.get(site, 0)
        if not ratio:
            return None
        return draws(self.seed, images, row, rows, first + columns)[:, :, first:] >= ratio
