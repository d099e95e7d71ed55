"""The machine's memories: how wide and how deep each is and what it holds, for the hardware, the compiler and the host."""
from dataclasses import dataclass, field

from hwgen.config import MachineConfig
from hwgen.descriptors import DESCRIPTOR_WORDS, PROGRAM_BITS, TRANSFER_BITS, Memory
from hwgen.parameters import branch_words, neuron_words
from hwgen.registers import LoadTarget
from quantize.formats import STREAM_BITS


@dataclass(slots=True)
class Images:
    """Contents of the memories before the first image, as integers of one word each; `external`: bytes from MEMORY_BASE on."""

    program: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    params: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    rom: list[int] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    external: bytes = b""


def memory_shapes(m: MachineConfig) -> dict[LoadTarget, tuple[int, int]]:
    """(bits of a word, words) of each memory that the host loads into machine `m`, or that is built in."""
    program = {LoadTarget.PROGRAM: (PROGRAM_BITS, m.descriptors * DESCRIPTOR_WORDS)}
    if m.memory_bits:
        return program | dict.fromkeys((LoadTarget.READS, LoadTarget.WRITES), (TRANSFER_BITS, m.transfers))
    return program | {LoadTarget[memory.name]: shape for memory, shape in local_shapes(m).items()
                      if memory not in (Memory.SPIKES, Memory.STREAM)}


def local_shapes(m: MachineConfig) -> dict[Memory, tuple[int, int]]:
    """(bits of a word, words) of each memory that transfers reach."""
    return {
        Memory.WEIGHTS: (m.lanes * m.weight_bits, m.weight_rows),
        Memory.PARAMS: (neuron_words(m).size, m.param_words),
        Memory.BRANCHES: (branch_words(m).size, m.param_words),
        Memory.ROM: (2 * m.rom_bits, m.rom_words),
        Memory.SPIKES: (m.word_bits, m.spike_words),
        Memory.STREAM: (m.fire_lanes * STREAM_BITS, m.stream_words),
    }
