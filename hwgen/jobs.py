"""What the compiler for external memory keeps account of: constants, tensors there, and the chunks of layers that it runs."""
from dataclasses import dataclass

import numpy as np

from hwgen.descriptors import Memory
from hwgen.pool import Space
from quantize.layers import Layer


@dataclass(frozen=True, slots=True)
class Constant:
    """Words of one tile's weights, parameters or ROM in external memory."""

    address: int
    words: int


@dataclass(slots=True)
class Loaded:
    """A constant on chip: where, and the reads that must be done before it is used."""

    space: Space
    reads: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """Tokens of a map in external memory, `words` words of `memory` each, from beat `address` on.

    `row`: beats from one row of tokens to the next. `whole`: rows follow each other without a gap, so that several go in one
    transfer. `written[token]`: how many writes must be done for the token to be there (0: not written yet).
    """

    memory: Memory
    address: int
    side: int
    words: int
    row: int
    whole: bool
    written: np.ndarray

    def runs(self, tokens: np.ndarray) -> list[tuple[int, int, int]]:
        """Whole rows of tokens as transfers: (place in `tokens`, first token, tokens)."""
        split = np.diff(tokens) != 1
        if not self.whole:
            split |= tokens[1:] % self.side == 0
        parts = np.split(np.arange(len(tokens)), np.flatnonzero(split) + 1)
        return [(int(part[0]), int(tokens[part[0]]), len(part)) for part in parts]

    def at(self, token: int) -> int:
        """Beat of a row's first token."""
        return self.address + token // self.side * self.row


@dataclass(slots=True)
class Job:
    """A chunk of a layer. Once prepared: where its inputs and residual are, and the reads that bring them."""

    layer: Layer
    rows: range
    first: bool
    last: bool
    inputs: Space | None = None
    output: Space | None = None
    residual: Space | None = None
    reads: int = 0
    prepared: bool = False
