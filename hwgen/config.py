"""The machine's knobs: the typed `[machine]` table of a configuration (one frozen object for hardware and schedule)."""
import dataclasses
from dataclasses import dataclass, field

from model.errors import ConfigError
from model.table import read_table
from quantize.formats import CURRENT_FRACTION

FITTED = ("planes", "head_lanes", "window_tokens", "acc_bits", "weight_bits", "rom_bits", "level_bits", "potential_bits",
          "current_bits")
"""Knobs that are fitted to the network where they are 0."""
MINIMUM = {"window_tokens": 4, "acc_bits": 20, "rom_bits": 6, "potential_bits": 20, "current_bits": CURRENT_FRACTION + 1}
STEPS_MOST = 1024
POTENTIALS = ("neuron_potentials", "norm_potentials", "score_potentials", "output_potentials")
"""Knobs of the potential memories' depths."""


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """Parameters of one generated accelerator.

    Memory depths of 0 are sized to the configured network; so are the knobs of `FITTED` when they are 0, as a file means
    that leaves them out.
    """

    lanes: int = field(default=64, metadata={"doc": "output channels accumulated in parallel, 8 to 256"})
    rows_per_cycle: int = field(default=2, metadata={"doc": "weight rows (events) read in each cycle: 1 or 2"})
    planes: int = field(default=3, metadata={"doc": "bit planes of a spike count: L = 2^planes - 1"})
    fire_lanes: int = field(default=8, metadata={"doc": "channels that the fire unit takes in each cycle"})
    attention_rows: int = field(default=2, metadata={"doc": "query rows that the attention unit takes in parallel: 1, 2 or 4"})
    head_lanes: int = field(default=24, metadata={"doc": "largest head size of the attention unit"})
    window_tokens: int = field(default=64, metadata={"doc": "largest number of tokens in an attention window"})
    queue_depth: int = field(default=4, metadata={"doc": "event vectors queued ahead of the lane array"})
    acc_bits: int = field(default=30, metadata={"doc": "bits of a lane accumulator"})
    weight_bits: int = field(default=8, metadata={"doc": "bits of a stored weight: 4 or 8"})
    rom_bits: int = field(default=12, metadata={"doc": "bits of a softmax ROM entry"})
    weights: str = field(default="loadable", metadata={"doc": "loadable (over AXI4-Stream) or initialised (in the bitstream)"})
    weight_rows: int = field(default=0, metadata={"doc": "depth of the weight memory, rows of `lanes` weights"})
    spike_words: int = field(default=0, metadata={"doc": "depth of the spike scratchpad, words of `lanes` counts"})
    stream_words: int = field(default=0, metadata={"doc": "depth of the residual scratchpad, words of `fire_lanes` values"})
    param_words: int = field(default=0, metadata={"doc": "depth of the fire parameter memory, words of `fire_lanes` channels"})
    rom_words: int = field(default=0, metadata={"doc": "depth of the softmax ROM"})
    descriptors: int = field(default=0, metadata={"doc": "depth of the program memory, descriptors"})
    bus_bytes: int = field(default=8, metadata={"doc": "bytes of an AXI4-Stream beat on the input side: 4 or 8"})
    memory_bits: int = field(default=0, metadata={"doc": "AXI4 data width to external memory, 64 to 512; 0: all on chip"})
    memory_burst: int = field(default=16, metadata={"doc": "beats of the longest AXI4 burst, at most 4 KiB"})
    memory_outstanding: int = field(default=8, metadata={"doc": "AXI4 bursts under way in each direction"})
    transfers: int = field(default=0, metadata={"doc": "depth of each transfer program memory, transfers"})
    firing: str = field(default="exact", metadata={"doc": "exact (counts, phase-coded) or stepwise (one spike a time step)"})
    steps: int = field(default=16, metadata={"doc": "stepwise: time steps of an image, at most and after reset"})
    level_bits: int = field(default=0, metadata={"doc": "stepwise: b of the network's levels, L = 2^b - 1"})
    potential_bits: int = field(default=0, metadata={"doc": "stepwise: bits of a stored membrane potential"})
    current_bits: int = field(default=0, metadata={"doc": "stepwise: bits of an attention output's quotient"})
    neuron_potentials: int = field(default=0, metadata={"doc": "stepwise: depth of the neurons' potentials, `fire_lanes` a word"})
    norm_potentials: int = field(default=0, metadata={"doc": "stepwise: the same of the neurons behind a residual"})
    score_potentials: int = field(default=0, metadata={"doc": "stepwise: the same of attention scores, `attention_rows` a word"})
    output_potentials: int = field(default=0, metadata={"doc": "stepwise: the same of attention outputs, `head_lanes` a word"})

    def __post_init__(self) -> None:
        def need(good: bool, message: str) -> None:
            if not good:
                raise ConfigError(f"[machine] {message}")

        need(_power_of_two(self.lanes) and 8 <= self.lanes <= 256,
             f"lanes must be a power of two from 8 to 256, not {self.lanes}")
        need(self.rows_per_cycle in (1, 2), f"rows_per_cycle must be 1 or 2, not {self.rows_per_cycle}")
        need(0 <= self.planes <= 4, f"planes must be 0 (auto) to 4, not {self.planes}")
        need(_power_of_two(self.fire_lanes) and self.fire_lanes <= self.lanes,
             f"fire_lanes must be a power of two up to lanes ({self.lanes}), not {self.fire_lanes}")
        need(self.attention_rows in (1, 2, 4), f"attention_rows must be 1, 2 or 4, not {self.attention_rows}")
        need(0 <= self.head_lanes <= 128, f"head_lanes must be 0 (auto) to 128, not {self.head_lanes}")
        need(self.window_tokens == 0 or 4 <= self.window_tokens <= 256,
             f"window_tokens must be 0 (auto) or 4 to 256, not {self.window_tokens}")
        need(2 <= self.queue_depth <= 64, f"queue_depth must be 2 to 64, not {self.queue_depth}")
        need(self.acc_bits == 0 or 20 <= self.acc_bits <= 32, f"acc_bits must be 0 (auto) or 20 to 32, not {self.acc_bits}")
        need(self.weight_bits in (0, 4, 8), f"weight_bits must be 0 (auto), 4 or 8, not {self.weight_bits}")
        need(self.rom_bits == 0 or 6 <= self.rom_bits <= 16, f"rom_bits must be 0 (auto) or 6 to 16, not {self.rom_bits}")
        need(self.weights in ("loadable", "initialised"),
             f"weights must be 'loadable' or 'initialised', not {self.weights!r}")
        need(self.bus_bytes in (4, 8), f"bus_bytes must be 4 or 8, not {self.bus_bytes}")
        need(self.memory_bits == 0 or _power_of_two(self.memory_bits) and 64 <= self.memory_bits <= 512,
             f"memory_bits must be 0 (none), 64, 128, 256 or 512, not {self.memory_bits}")
        need(self.memory_bits == 0 or self.weights == "loadable",
             f"weights must be 'loadable' where memory_bits is {self.memory_bits}: they come from external memory")
        need(_power_of_two(self.memory_burst) and self.memory_burst <= 256 and self.memory_burst * self.memory_bits <= 8 * 4096,
             f"memory_burst must be a power of two up to 256 beats and 4 KiB, not {self.memory_burst} of {self.memory_bits} bits")
        need(1 <= self.memory_outstanding <= 64, f"memory_outstanding must be 1 to 64, not {self.memory_outstanding}")
        need(self.firing in ("exact", "stepwise"), f"firing must be 'exact' or 'stepwise', not {self.firing!r}")
        if self.stepwise:
            need(self.planes <= 1, f"planes must be 1 where firing is 'stepwise' (a spike has one bit), not {self.planes}")
            need(self.memory_bits == 0, "memory_bits must be 0 where firing is 'stepwise' (potentials stay on chip), "
                 f"not {self.memory_bits}")
            need(1 <= self.steps <= STEPS_MOST, f"steps must be 1 to {STEPS_MOST}, not {self.steps}")
            need(0 <= self.level_bits <= 4, f"level_bits must be 0 (auto) to 4, not {self.level_bits}")
            need(self.potential_bits == 0 or 20 <= self.potential_bits <= 48,
                 f"potential_bits must be 0 (auto) or 20 to 48, not {self.potential_bits}")
            need(self.current_bits == 0 or CURRENT_FRACTION < self.current_bits <= 48,
                 f"current_bits must be 0 (auto) or {CURRENT_FRACTION + 1} to 48, not {self.current_bits}")
        for name in ("weight_rows", "spike_words", "stream_words", "param_words", "rom_words", "descriptors", "transfers",
                     *POTENTIALS):
            need(0 <= getattr(self, name) <= 1 << 20, f"{name} must be 0 (auto) to 2^20, not {getattr(self, name)}")

    @property
    def stepwise(self) -> bool:
        """Whether the machine fires step by step and keeps potentials (docs/semantics.md, section 6)."""
        return self.firing == "stepwise"

    @property
    def levels(self) -> int:
        """The largest spike count: L, or 1 where the machine is `stepwise`."""
        return (1 << self.planes) - 1

    @property
    def word_bits(self) -> int:
        """Bits of a spike word: `planes` bits for each lane, lane 0 lowest."""
        return self.lanes * self.planes


def machine_config(raw: dict[str, object]) -> MachineConfig:
    """Type the raw `[machine]` table of `model.config.Config`; ConfigError names what is wrong."""
    return read_table(MachineConfig, "machine", dict.fromkeys(FITTED, 0) | raw)


def fitted(machine: MachineConfig, **needs: int) -> MachineConfig:
    """`machine` with every knob of `FITTED` that is 0 set to what the network needs."""
    values = {name: max(need, MINIMUM.get(name, 0)) for name, need in needs.items() if getattr(machine, name) == 0}
    return dataclasses.replace(machine, **values)  # type: ignore[arg-type]
