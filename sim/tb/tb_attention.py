"""Bench of the attention unit: whole layers, two back to back, against the golden model and the cycle model.

Environment: MACHINE (a name of attention_dut.MACHINES), CASES (layers), LARGEST (score cycles of a layer),
CASE_SEED; MUTATE spoils the golden (attention_cases.build): the bench must turn red.
"""
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge, with_timeout

from hwgen.attention_cycles import AttentionShape, attention_cycles
from hwgen.config import MachineConfig
from sim.scoreboard import Scoreboard
from sim.streams import PERIOD_NS, reset, start_clock
from sim.tb.attention_cases import Image, build, draw_cases
from sim.tb.attention_dut import MACHINES, ROM, ROM_WORDS, RUNS, SPIKE_WORDS, SPIKES


async def _load(dut: Any, select: int, base: int, words: list[int]) -> None:
    dut.load_select.value = select
    dut.load_en.value = 1
    for index, word in enumerate(words):
        dut.load_address.value = base + index
        dut.load_data.value = word
        await RisingEdge(dut.clk)
    dut.load_en.value = 0


async def _compare(dut: Any, base: int, image: Image) -> None:
    """Every word of the regions and their guards."""
    board = Scoreboard(image.expected, label=lambda index: f"word {base + index}, {image.label}", show=hex)
    for index in range(len(image.expected) + 1):
        dut.look_address.value = base + index
        await RisingEdge(dut.clk)
        if index >= 1:
            board.check(int(dut.look_data.value))
    board.finish()


Placed = list[tuple[int, int, Image]]
"""Spike word and ROM word at which each layer lies, and its image."""


def placed(builders: Sequence[Callable[[int, int], Image]]) -> Placed:
    """Layers one behind the other; each builder makes its image from the two words."""
    found, spike, rom = [], 0, 0
    for build_at in builders:
        image = build_at(spike, rom)
        found.append((spike, rom, image))
        spike, rom = spike + len(image.spikes), rom + len(image.rom)
    assert spike <= SPIKE_WORDS and rom <= ROM_WORDS, f"{spike} words, {rom} ROM words: too large for the bench"
    return found


async def begin(dut: Any) -> None:
    """Clock, idle inputs, reset."""
    start_clock(dut)
    dut.start.value = dut.load_en.value = dut.look_address.value = 0
    await reset(dut)


async def run_layers(dut: Any, m: MachineConfig, shapes: list[AttentionShape], images: Placed) -> None:
    """Load, run back to back, compare every word and the cycles of each layer."""
    for index, (spike, rom, image) in enumerate(images):
        await _load(dut, SPIKES, spike, image.spikes)
        await _load(dut, ROM, rom, image.rom)
        getattr(dut, f"desc{index}").value = image.descriptor
        getattr(dut, f"mask_state{index}").value = image.mask_state
    dut.again.value = int(len(images) > 1)
    predicted = [attention_cycles(m, shape) for shape in shapes]
    dut.start.value = 1
    await RisingEdge(dut.clk)
    dut.start.value = 0
    await RisingEdge(dut.clk)
    await with_timeout(RisingEdge(dut.finished), (sum(predicted) + 1000) * PERIOD_NS, "ns")
    await RisingEdge(dut.clk)
    for index, (spike, _, image) in enumerate(images):
        await _compare(dut, spike, image)
        measured = int(getattr(dut, f"elapsed{index}").value)
        assert measured == predicted[index], f"{measured} cycles, predicted {predicted[index]}: {image.label}"
        dut._log.info("ok: %d cycles, %s", measured, image.label)
    assert int(dut.writes.value) == sum(image.writes for _, _, image in images)


@cocotb.test()
async def layers(dut: Any) -> None:
    """Pairs of layers, the second one started in the cycle after the first is done."""
    m = MACHINES[os.environ["MACHINE"]]
    cases = draw_cases(m, int(os.environ.get("CASES", "4")), int(os.environ.get("CASE_SEED", "1")), SPIKE_WORDS // RUNS,
                       ROM_WORDS // RUNS, int(os.environ.get("LARGEST", "6000")))
    dut.first_step.value = 1
    await begin(dut)
    for at in range(0, len(cases), RUNS):
        pair = cases[at:at + RUNS]
        images = placed([partial(build, m, case, os.environ.get("MUTATE", "")) for case in pair])
        await run_layers(dut, m, [case.shape for case in pair], images)
