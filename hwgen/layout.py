"""Where values lie in the spike scratchpad: one description for the compiler, the cycle model and the benches.

A `Buffer` holds a tensor [T, C]; each token takes `token_words` consecutive words: `groups` times (one for each b bits of a
value) the words of its channels. `channel_map` says which channel each lane of each word holds (-1: none).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def dense_map(channels: int, lanes: int) -> Ints:
    """Channels in order, `lanes` a word: [words, lanes]."""
    words = -(-channels // lanes)
    flat = np.arange(words * lanes)
    return np.where(flat < channels, flat, -1).reshape(words, lanes)


def slot_map(slots: int, size: int, lanes: int) -> Ints:
    """Head slices of `size` channels: as many whole ones a word as fit, or several words for one (docs/architecture.md)."""
    if size > lanes:
        per_slot = dense_map(size, lanes)
        return np.concatenate([np.where(per_slot >= 0, per_slot + slot * size, -1) for slot in range(slots)])
    per_word = lanes // size
    words = -(-slots // per_word)
    lane = np.arange(lanes)
    out = np.full((words, lanes), -1)
    for word in range(words):
        channel = word * per_word * size + lane
        out[word] = np.where((lane < per_word * size) & (channel < slots * size), channel, -1)
    return out


@dataclass(frozen=True)
class Buffer:
    """A tensor [tokens, channels] of `bits`-bit values (two's complement where signed) in the spike scratchpad."""

    name: str
    tokens: int
    bits: int
    signed: bool
    planes: int
    channel_map: Ints
    base: int = 0

    @property
    def words(self) -> int:
        """Words of one token and group."""
        return int(self.channel_map.shape[0])

    @property
    def lanes(self) -> int:
        """Lanes of a word."""
        return int(self.channel_map.shape[1])

    @property
    def groups(self) -> int:
        """Words that the bits of one value are spread over."""
        return -(-self.bits // self.planes)

    @property
    def token_words(self) -> int:
        """Words of a token."""
        return self.groups * self.words

    @property
    def size(self) -> int:
        """Words of the whole buffer."""
        return self.tokens * self.token_words

    @cached_property
    def channels(self) -> int:
        """Channels of a token."""
        return int(self.channel_map.max()) + 1

    @property
    def row_step(self) -> int:
        """Weight rows between two words: the lanes that any word but the last uses."""
        used = (self.channel_map >= 0).sum(axis=1)
        if self.words == 1:
            return int(used[0])
        return self.lanes if len(set(used[:-1])) > 1 else int(used[0])

    @property
    def rows(self) -> int:
        """Weight rows of one token."""
        return (self.words - 1) * self.row_step + int((self.channel_map[-1] >= 0).sum())

    def pack(self, values: NDArray[np.integer]) -> Ints:
        """Values [B, T, C] as lane counts [B, T * token_words, lanes] of `planes` bits, in address order.

        A signed value is extended over all the bits of its words.
        """
        batch = values.shape[0]
        unsigned = values.astype(np.int64) & (1 << self.groups * self.planes) - 1
        padded = np.concatenate([unsigned, np.zeros((*values.shape[:2], 1), np.int64)], axis=2)
        lanes = padded[:, :, self.channel_map]  # -1 picks the zero
        out = np.stack([lanes >> group * self.planes & (1 << self.planes) - 1 for group in range(self.groups)], axis=2)
        return out.reshape(batch, self.size, self.lanes)

    def unpack(self, words: Ints) -> Ints:
        """The inverse of `pack`."""
        lanes = words.reshape(words.shape[0], self.tokens, self.groups, self.words, self.lanes)
        value = np.zeros((words.shape[0], self.tokens, self.words, self.lanes), np.int64)
        for group in range(self.groups):
            value |= lanes[:, :, group] << group * self.planes
        if self.signed:
            value &= (1 << self.bits) - 1
            value -= (value >> self.bits - 1) << self.bits
        out = np.zeros((words.shape[0], self.tokens, self.channels), np.int64)
        used = self.channel_map >= 0
        out[:, :, self.channel_map[used]] = value[:, :, used]
        return out
