"""What a machine occupies on an ECP5, from closed formulas: before anything is synthesised.

Formulas are linear in what the hardware replicates (lanes, fire lanes, attention rows times head channels); their coefficients
were fitted to synthesised machines (tests/synthesised.json, from the reports of `python -m hwgen synth`), which
tests/test_resources.py holds them to. Block RAMs follow the rule by which Yosys cuts a memory into DP16KD; bits of the fire
parameters that no channel of a network uses fall away in synthesis, and are counted here.
Machines with external memory or loadable memories need more than this says: the DMA engines, the write ports' copies.
"""
from collections.abc import Iterable
from dataclasses import dataclass

from hwgen.config import MachineConfig
from hwgen.descriptors import Memory
from hwgen.memory import BLOCK_RAM, column_bits
from hwgen.registers import LoadTarget
from hwgen.shapes import local_shapes, memory_shapes
from hwgen.weights import BANK_ROWS, SLICE_BITS

WIDE = (512, 36)
"""(words, bits) of a DP16KD with one port that only reads and one that only writes; `BLOCK_RAM`: with two that do both."""
SHALLOW = 64
"""Built-in words up to which Yosys makes a memory with one port of LUTs: too few to count."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a machine takes of an ECP5."""

    luts: int
    """LUT4, two for each CCU2C, four for each DPR16X4"""
    registers: int
    block_rams: int
    """DP16KD"""


def block_rams(bits: int, words: int, ports: int, wide: bool = False) -> tuple[int, int]:
    """(DP16KD, banks) of a memory of `words` words of `bits` bits with `ports` read ports.

    Yosys lays the banks of a deep memory side by side into one wide memory and chooses among the outputs. Two ports share a block
    RAM; more need copies. `wide`: a single port may use the 36-bit shape.
    """
    shapes = (*BLOCK_RAM, WIDE) if wide else BLOCK_RAM
    options = [(-(-bits * -(-words // depth) // width), -(-words // depth)) for depth, width in shapes]
    count, banks = min(options)
    return count * -(-ports // 2), banks


def _memories(m: MachineConfig) -> Iterable[tuple[int, int, int, bool]]:
    """(bits, words, ports, wide) of each memory in block RAM but the weight memory."""
    ports = {"ROM": m.attention_rows}
    bits, words = memory_shapes(m)[LoadTarget.PROGRAM]
    yield bits, words, 1, True
    for memory, (bits, words) in local_shapes(m).items():
        scratchpad = memory.name in ("SPIKES", "STREAM")
        count = ports.get(memory.name, 1)
        if memory.name == "WEIGHTS":
            continue
        if not scratchpad and (column := column_bits(words)):
            yield from ((min(column, bits - low), words, count, False) for low in range(0, bits, column))
        elif scratchpad or count > 1 or words > SHALLOW:
            yield bits, words, count, count == 1 and (not scratchpad or words <= WIDE[0])


def _weights(m: MachineConfig) -> tuple[int, float]:
    """DP16KD of the weight memory and LUTs that choose among its banks; of several, the last one is taken for half as wide.

    (The compiler puts the tiles with few channels there; how wide they are, only the network tells.)
    """
    bits, words = local_shapes(m)[Memory.WEIGHTS]
    banks = [min(BANK_ROWS, words - first) for first in range(0, words, BANK_ROWS)]
    slices = [min(SLICE_BITS, bits - low) for low in range(0, bits, SLICE_BITS)]
    ports = m.rows_per_cycle
    each = [sum(block_rams(width, rows, ports, ports == 1)[0] for width in slices) for rows in banks]
    rams = sum(each) - (each[-1] // 2 if len(each) > 1 else 0)
    # an AND-OR of the banks' outputs; a single one is gated by its register's reset
    return rams, 0.0 if len(banks) == 1 else bits * ports * -(-(2 * len(banks) - 1) // 3)


# Coefficients of `features`: what stands once (registers, sequencer, loader, attention's counters); a lane (accumulator, fire
# buffer, packing, spike words on their way); a fire lane (two neurons, residual, result queue); an attention row (LFSR, ROM
# address) and a channel of it (products, popcounts, sums, its firing).
LUTS = (4852, 193, 1275, 217, 178)
REGISTERS = (3350, 201, 774, 158, 86.5)
BANK_LUTS = 0.6
"""LUTs of a memory's output choice, for each bit, port and bank after the first."""


def features(m: MachineConfig) -> tuple[float, ...]:
    """What the formulas are linear in."""
    planes = m.planes / 3  # 3 planes and 24 accumulator bits were calibrated; half of a lane is accumulator and buffer
    return (1.0, m.lanes * (planes + m.acc_bits / 24) / 2, m.fire_lanes, m.attention_rows,
            m.attention_rows * m.head_lanes * planes)


def estimate(m: MachineConfig) -> Resources:
    """Resources of machine `m` (no depth 0) with its memories built in. ValueError where a depth is still automatic."""
    if not all((m.weight_rows, m.spike_words, m.stream_words, m.param_words, m.rom_words, m.descriptors)):
        raise ValueError("estimate needs a machine of known memory depths: compile a network for it first")
    rams, choice = _weights(m)
    for bits, words, ports, wide in _memories(m):
        count, banks = block_rams(bits, words, ports, wide)
        rams += count
        choice += BANK_LUTS * bits * ports * (banks - 1)
    scale = features(m)
    luts, registers = (sum(a * b for a, b in zip(fit, scale, strict=True)) for fit in (LUTS, REGISTERS))
    return Resources(round(luts + choice), round(registers), round(rams))
