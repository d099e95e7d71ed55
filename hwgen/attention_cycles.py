"""Shape of an attention layer, what the machine must offer for it, and the exact cycles it takes.

A job is one head of one window. Jobs run in slots: in slot `s` job `s` is loaded while job `s - 1` computes, so there
is one slot more than jobs. Everything is data independent: the cycles follow from the shape alone.
"""
from dataclasses import dataclass

from hwgen.config import MachineConfig
from model.errors import ConfigError

SCORE_STAGES = 5
"""Pipeline stages from a key's issue to its scaled charge; the score's neuron follows (`score_stages`)."""
OUTPUT_STAGES = 3
"""Cycles from the last one of a stepwise machine's division to the row of spikes: quotient, sum, fire. (`exact`: 1.)"""
LOAD_TAIL = 2
"""Cycles from a job's last address to the moment its first query rows may be fetched."""
PASS_SLACK = 3
"""Cycles that a pass keeps for fetching query rows and preparing row states, beyond firing the rows before."""
MAX_SIDE = 256
MAX_HEADS = 256


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Dimensions of one attention descriptor; `window` is already clipped to the map, `planes` are the network's own.

    `window_rows` 0: the whole map, each token at its own place. Else: only the rows of windows `window_row` to
    `window_row + window_rows - 1`, whose tokens lie in the rolled map's order of rows (a part of a map that is streamed).

    `check(m)` raises ConfigError where machine `m` cannot run it.
    """

    side: int
    window: int
    shift: int
    heads: int
    head_size: int
    planes: int
    window_row: int = 0
    window_rows: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.side <= MAX_SIDE:
            raise ConfigError(f"attention: side must be 1 to {MAX_SIDE} tokens, not {self.side}: use larger patches")
        if self.window < 1 or self.side % self.window:
            raise ConfigError(f"attention: window {self.window} does not divide a side of {self.side} tokens")
        if not 0 <= self.shift < self.window:
            raise ConfigError(f"attention: shift must be below the window ({self.window}), not {self.shift}")
        if self.window_rows < 0 or not 0 <= self.window_row <= self.windows_per_side - self.window_rows:
            raise ConfigError(f"attention: window rows {self.window_row} to {self.window_row + self.window_rows - 1} are not "
                              f"among the map's {self.windows_per_side}")
        if not 1 <= self.heads <= MAX_HEADS:
            raise ConfigError(f"attention: heads must be 1 to {MAX_HEADS}, not {self.heads}")
        if self.head_size < 1:
            raise ConfigError(f"attention: head size must be at least 1, not {self.head_size}")

    def check(self, m: MachineConfig) -> None:
        """ConfigError naming the value and the parameter to raise, if `m` is too small for this layer."""
        for value, limit, what in ((self.head_size, m.head_lanes, "head_lanes"), (self.planes, m.planes, "planes"),
                                   (self.tokens, m.window_tokens, "window_tokens")):
            if value > limit:
                raise ConfigError(f"attention needs [machine] {what} of at least {value}, not {limit}: raise it")

    @property
    def tokens(self) -> int:
        """n, tokens of a window."""
        return self.window * self.window

    @property
    def windows_per_side(self) -> int:
        """Windows along one side of the map."""
        return self.side // self.window

    @property
    def rows_of_windows(self) -> int:
        """Rows of windows that are run."""
        return self.window_rows or self.windows_per_side

    @property
    def jobs(self) -> int:
        """Pairs of window and head."""
        return self.rows_of_windows * self.windows_per_side * self.heads

    def heads_per_word(self, lanes: int) -> int:
        """Head slices in one spike word (1 where a slice is wider than a word)."""
        return max(1, lanes // self.head_size)

    def words_per_head(self, lanes: int) -> int:
        """Spike words of one head slice."""
        return -(-self.head_size // lanes)

    def token_words(self, lanes: int, slots: int) -> int:
        """Spike words of a token with `slots` head slices."""
        return -(-slots // self.heads_per_word(lanes)) * self.words_per_head(lanes)

    def passes(self, m: MachineConfig) -> int:
        """Groups of `attention_rows` query rows in a job."""
        return -(-self.tokens // m.attention_rows)

    def row_cycles(self, m: MachineConfig) -> int:
        """Cycles in which one row fires and is written."""
        return max(m.current_bits if m.stepwise else m.planes, self.words_per_head(m.lanes))

    def pass_cycles(self, m: MachineConfig) -> int:
        """Cycles from one pass to the next: one key a cycle, unless firing the rows takes longer."""
        return max(self.tokens, m.attention_rows * self.row_cycles(m) + PASS_SLACK)


def score_stages(m: MachineConfig) -> int:
    """Pipeline stages from a score's charge to its count: one for each plane; stepwise: the sum, and the firing."""
    return 2 if m.stepwise else m.planes


def slot_cycles(m: MachineConfig, shape: AttentionShape) -> tuple[int, int, int]:
    """Cycles of the first slot (load only), of a middle slot, and of the last slot (compute only)."""
    first = 3 * shape.tokens * shape.words_per_head(m.lanes) + LOAD_TAIL + m.attention_rows + 1
    last = shape.passes(m) * shape.pass_cycles(m)
    return first, max(first, last), last


def attention_cycles(m: MachineConfig, shape: AttentionShape) -> int:
    """Cycles from the cycle of `start` to the cycle of `done`, both counted. ConfigError if `m` is too small for it."""
    shape.check(m)
    first, middle, _ = slot_cycles(m, shape)
    last_key = 2 + first + (shape.jobs - 1) * middle + (shape.passes(m) - 1) * shape.pass_cycles(m) + shape.tokens - 1
    # score and its neuron, ROM and sums (7), the last pass's rows one after another, their words, the write and `done`
    summed = last_key + SCORE_STAGES + score_stages(m) + 7
    fired = summed + (OUTPUT_STAGES - 1 if m.stepwise else 0) + ((shape.tokens - 1) % m.attention_rows + 1) * shape.row_cycles(m)
    return fired + shape.words_per_head(m.lanes) + 3 + 1


def attention_bound(m: MachineConfig, shape: AttentionShape) -> int:
    """Cycles that the score rows alone need: every key of every pass of every job, one a cycle."""
    return shape.jobs * shape.passes(m) * shape.tokens
