"""The spike mask of `model.masking` in torch: the same draws, bit for bit, for a whole batch at once, on any device.

A draw is linear in the start state over GF(2) (docs/semantics.md, section 4): a corner of 32 x 32 draws comes from eight
tables, one for each nibble of the state, and all others grow from it by the LFSR's recurrence. No multiplication, no state.
"""
from functools import lru_cache

import torch
from torch import Tensor

from model.lfsr import ROW_DRAWS, TAPS, WIDTH
from model.masking import corner_bytes

NIBBLE = 4


def start_states(seed: int, images: Tensor) -> Tensor:
    """State int64 [B] of each image (int64 [B]) before its first draw."""
    states = (images ^ seed) & (1 << WIDTH) - 1
    return torch.where(states == 0, torch.ones_like(states), states)


def _tables(basis: Tensor) -> Tensor:
    """Basis uint8 [32, ...], one for each bit of a state -> [8, 16, ...]: the exclusive or for each value of each nibble."""
    table = torch.zeros((WIDTH // NIBBLE, 1 << NIBBLE, *basis.shape[1:]), dtype=torch.uint8, device=basis.device)
    for bit in range(NIBBLE):
        one = 1 << bit
        table[:, one:2 * one] = table[:, :one] ^ basis[bit::NIBBLE, None]
    return table


@lru_cache(maxsize=512)
def _corner(row: int, device: torch.device) -> Tensor:
    return _tables(torch.from_numpy(corner_bytes(row)).to(device))


def _sum(table: Tensor, states: Tensor) -> Tensor:
    """Exclusive or [B, ...] of the tables' entries for each state int64 [B]."""
    out = table[0][states & 15]
    for nibble in range(1, len(table)):
        out ^= table[nibble][states >> NIBBLE * nibble & 15]
    return out


def _extend(found: Tensor, axis: int) -> None:
    """`model.masking`'s growth along `axis` of `found`, whose first 32 lines are known."""
    found, at = found.movedim(axis, 0), WIDTH
    while at < len(found):
        many = 1 << (at // WIDTH).bit_length() - 1
        part = found[at:at + many]
        for index, tap in enumerate(TAPS):
            source = found[at - tap * many:at - tap * many + len(part)]
            if index:
                part ^= source
            else:
                part.copy_(source)
        at += many


def draws(seed: int, images: Tensor, row: int, rows: int, columns: int) -> Tensor:
    """Draws uint8 [B, rows, columns] of rows `row` .. `row + rows - 1` for images int64 [B], on the device of `images`.

    ValueError beyond a row's 4096 draws.
    """
    if columns > ROW_DRAWS:
        raise ValueError(f"a mask row has {ROW_DRAWS} draws, not {columns}: raise ROW_DRAWS")
    states = start_states(seed, images)
    out = torch.empty((len(images), max(rows, WIDTH), max(columns, WIDTH)), dtype=torch.uint8, device=images.device)
    out[:, :WIDTH, :WIDTH] = _sum(_corner(row, images.device), states)
    _extend(out[:, :WIDTH], 2)
    _extend(out, 1)
    return out[:, :rows, :columns]
