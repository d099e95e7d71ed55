"""What a machine occupies on an ECP5, from closed formulas: before anything is synthesised.

Formulas are linear in what the hardware replicates (lanes, fire lanes, attention rows times head channels); their coefficients
were fitted to synthesised machines (tests/synthesised.json, from the reports of `python -m hwgen synth`), which
tests/test_resources.py holds them to. Block RAMs follow the rule by which Yosys cuts a memory into DP16KD; bits of the fire
parameters that no channel of a network uses fall away in synthesis, and are counted here.
Machines with external memory or loadable memories need more than this says: the DMA engines, the write ports' copies.
"""
import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hwgen.config import MachineConfig
from hwgen.descriptors import Memory
from hwgen.memory import BLOCK_RAM, column_bits
from hwgen.registers import LoadTarget
from hwgen.shapes import local_shapes, memory_shapes
from hwgen.weights import BANK_ROWS, SLICE_BITS
from model.command_line import command_line

WIDE = (512, 36)
"""(words, bits) of a DP16KD with one port that only reads and one that only writes; `BLOCK_RAM`: with two that do both."""
ROM_OF_LUTS = 128
"""Built-in rows up to which Yosys makes a memory with two ports of LUTs: 80 rows were, 288 were not."""
ROM_LUTS = 1.35
"""LUTs of 16 such rows, for each bit and port, with their share of the choice among them."""
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


def slice_rows(words: Sequence[int], width: int) -> list[int]:
    """Rows of each slice of a built-in weight memory (`hwgen.weights`) of `width` bits, up to its last one that is not 0."""
    return [max((row + 1 for row, word in enumerate(words) if word >> low & (1 << min(SLICE_BITS, width - low)) - 1), default=0)
            for low in range(0, width, SLICE_BITS)]


def _weights(m: MachineConfig, rows: Sequence[int]) -> tuple[float, float]:
    """DP16KD of the weight memory, and LUTs: small slices, and the choice among the banks of the others.

    `rows`: as `slice_rows` gives them. Without them all slices are taken as full, but for half of the last of several banks (the
    compiler puts the tiles with few channels there).
    """
    bits, words = local_shapes(m)[Memory.WEIGHTS]
    ports, rams, luts = m.rows_per_cycle, 0.0, 0.0
    widths = [min(SLICE_BITS, bits - low) for low in range(0, bits, SLICE_BITS)]
    for width, used in zip(widths, rows or [words] * len(widths), strict=True):
        banks = [min(BANK_ROWS, used - first) for first in range(0, used, BANK_ROWS)]
        each = [0 if deep <= ROM_OF_LUTS else block_rams(width, deep, ports, ports == 1)[0] for deep in banks]
        rams += sum(each) - (each[-1] / 2 if len(each) > 1 and not rows else 0)
        luts += sum(_rom_luts(width, deep, ports) for deep in banks if deep <= ROM_OF_LUTS)
        # an AND-OR of the banks' outputs; a single one is gated by its register's reset
        luts += 0 if len(banks) <= 1 else width * ports * -(-(2 * len(banks) - 1) // 3)
    return rams, luts


def _rom_luts(bits: int, words: int, ports: int) -> float:
    return bits * ports * ROM_LUTS * (1 << (words - 1).bit_length()) / 16


# Coefficients of `features`: what stands once (registers, sequencer, loader, attention's counters); a lane (accumulator, fire
# buffer, packing, spike words on their way); a fire lane (two neurons, residual, result queue); an attention row (LFSR, ROM
# address) and a channel of it (products, popcounts, sums, its firing). Three machines do not determine five numbers: of those
# that meet the three, they are the nearest to the ones fitted to earlier hardware (relative least squares).
LUTS = (3962, 245, 801, 216, 200)
REGISTERS = (3505, 211, 840, 161, 89)
BANK_LUTS = 0.6
"""LUTs of a memory's output choice, for each bit, port and bank after the first."""


def features(m: MachineConfig) -> tuple[float, ...]:
    """What the formulas are linear in."""
    planes = m.planes / 3  # 3 planes and 24 accumulator bits were calibrated; half of a lane is accumulator and buffer
    return (1.0, m.lanes * (planes + m.acc_bits / 24) / 2, m.fire_lanes, m.attention_rows,
            m.attention_rows * m.head_lanes * planes)


def estimate(m: MachineConfig, rows: Sequence[int] = ()) -> Resources:
    """Resources of machine `m` (no depth 0) with its memories built in. ValueError where a depth is still automatic, or it fires
    step by step: none of those was synthesised to fit it to.

    `rows`: how full each slice of the weight memory is (`slice_rows`), where the network is known: narrow tiles leave some empty.
    """
    if not all((m.weight_rows, m.spike_words, m.stream_words, m.param_words, m.rom_words, m.descriptors)):
        raise ValueError("estimate needs a machine of known memory depths: compile a network for it first")
    if m.stepwise:
        raise ValueError("estimate knows no machine with firing = \"stepwise\": synthesise it (make synth)")
    rams, choice = _weights(m, rows)
    for bits, words, ports, wide in _memories(m):
        if ports > 1 and words <= ROM_OF_LUTS:  # the ROM of few levels: the only other memory with more ports than one
            choice += _rom_luts(bits, words, ports)
            continue
        count, banks = block_rams(bits, words, ports, wide)
        rams += count
        choice += BANK_LUTS * bits * ports * (banks - 1)
    scale = features(m)
    luts, registers = (sum(a * b for a, b in zip(fit, scale, strict=True)) for fit in (LUTS, REGISTERS))
    return Resources(round(luts + choice), round(registers), round(rams))


@command_line()
def main(argv: Sequence[str] | None = None) -> int:
    """`python -m hwgen.resources --config C`: the estimate for the machine of a configuration and its network."""
    from hwgen.inputs import network_arguments, read_inputs  # the compiler: synthesis needs the formulas without it
    from hwgen.program import compile_network, sized

    top = argparse.ArgumentParser(prog="python -m hwgen.resources", description="What a machine occupies on an ECP5, estimated.")
    network_arguments(top)
    config, machine, network = read_inputs(top.parse_args(argv))
    program = compile_network(network, machine, config.masking)
    machine = sized(program.machine, program)
    built_in = machine.weights == "initialised"
    rows = slice_rows(program.images.weights, machine.lanes * machine.weight_bits) if built_in else []
    found = estimate(machine, rows)
    print(f"{config.name}: about {found.luts} LUTs, {found.registers} registers, {found.block_rams} block RAMs (DP16KD) "
          "of an ECP5")
    if machine.memory_bits or not built_in:
        what = "loadable memories" if not machine.memory_bits else "the engines to external memory"
        print(f"{what} take more, which the estimate leaves out: `make synth ARGS=--no-route` counts them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
