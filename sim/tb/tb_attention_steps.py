"""Bench of a stepwise machine's attention unit: pairs of layers in some time steps, against the golden and the cycle model.

Spikes and mask differ in each step; what must be kept from one to the next is in the unit. Environment: MACHINE, CASES, LARGEST
and CASE_SEED as in tb_attention. MUTATE=scores (the scores keep no potential), outputs (nor the attention outputs), redrawn
(the first step's mask in each) and greater (fires when v > threshold) must fail.
"""
import os
from functools import partial
from typing import Any

import cocotb
import numpy as np
from numpy.typing import NDArray

from hwgen.config import MachineConfig
from hwgen.limits import current_bound
from model.lfsr import LEAP, ROW_DRAWS, STEP_SEED, WIDTH, jump, start_state
from model.masking import draws
from quantize.formats import SCORE_SHIFT
from quantize.layers import Attention
from sim.golden.attention import Softmax, geometry
from sim.golden.fire import Exact
from sim.golden.stepwise import _Stepwise
from sim.tb.attention_cases import Case, Image, assemble, draw_cases
from sim.tb.attention_dut import MACHINES, ROM_WORDS, RUNS, SPIKE_WORDS
from sim.tb.duts import mutated
from sim.tb.tb_attention import begin, placed, run_layers

STEPS = 3


class Layer(_Stepwise):
    """One attention layer, its random ROM, and what the golden keeps from step to step."""

    def __init__(self, m: MachineConfig, case: Case, number: int) -> None:
        """The ROM's quotients fit; `number` seeds it."""
        self.m, self.case, self.levels = m, case, (1 << m.level_bits) - 1
        self.generator = generator = np.random.default_rng([number, case.seed])
        shape, top = case.shape, (1 << m.rom_bits) - 1
        size = (shape.heads, (2 * shape.window - 1) ** 2, self.levels + 1)
        high = 3 if case.style == "ties" else top
        num = np.full(size, top) if case.style == "largest" else generator.integers(0, high + 1, size)
        den = generator.integers(1, 4, size) if case.style == "ties" else generator.integers((top >> 4) + 1, top + 1, size)
        self.density = float(generator.choice((0.3, 0.6, 1.0)))
        typical = self.levels * max(1, int(shape.head_size * self.density**2 * generator.choice((0.5, 1, 3)))) << SCORE_SHIFT
        threshold = min(typical + (0 if case.style == "ties" else int(generator.integers(0, 256))), (1 << 20) - 1)
        self.layer = Attention("attn", shape.side, shape.heads, shape.head_size, shape.window, shape.shift, threshold, num, den)
        assert current_bound(self.layer, self.levels) < 1 << m.current_bits
        self.where = {"attn": geometry(self.layer)}
        self.rom = {"attn": Softmax.of(self.layer, self.where["attn"], self.levels)}
        self.state = {}
        self.seed, self.row = int(generator.integers(0, 1 << 32)), int(generator.integers(0, 1000))
        self.drawn: NDArray[np.uint8]

    def masked_scores(self, layer: Attention, a: Exact, numbers: NDArray[np.int64]) -> Exact:
        """The step's mask."""
        return a * (self.drawn.reshape(a.shape) >= self.case.ratio)

    def step(self, name: str, charge: Exact, threshold: Exact | int) -> Exact:
        """The golden's neurons, spoiled as MUTATE asks."""
        if mutated("scores" if name.endswith(".scores") else "outputs") and name in self.state:
            self.state[name] *= 0
        return super().step(name, charge - mutated("greater"), threshold)

    def image(self, step: int, first: bool, potential_base: int, spike_base: int, rom_base: int) -> Image:
        """What a time step takes and gives. `first`: the program's first layer."""
        shape, generator = self.case.shape, self.generator
        counts = (generator.random((shape.side**2, 3 * shape.heads * shape.head_size)) < self.density).astype(np.int32)
        seeds = [self.seed ^ at * STEP_SEED & (1 << WIDTH) - 1 for at in (0 if mutated("redrawn") else step, step)]
        self.drawn = draws(seeds[0], np.zeros(1, np.int64), self.row, shape.jobs * shape.tokens, shape.tokens)
        out = self.attention(self.layer, counts[None].astype(np.float64), np.zeros(1, np.int64), None)["counts"]
        rom = tuple(table[:, :, ::self.levels] for table in (self.layer.rom_num, self.layer.rom_den))
        state = jump(start_state(seeds[1], 0), LEAP * ROW_DRAWS * self.row)
        return assemble(self.m, self.case, generator, counts, out[0].astype(np.int32), (rom[0], rom[1]), state, spike_base,
                        rom_base, score_threshold=self.layer.score_threshold, scores_first=first, potential_base=potential_base)


@cocotb.test()
async def time_steps(dut: Any) -> None:
    """Pairs of layers, the second one started in the cycle after the first is done, in each of some time steps."""
    m = MACHINES[os.environ["MACHINE"]]
    cases = draw_cases(m, int(os.environ.get("CASES", "4")), int(os.environ.get("CASE_SEED", "1")), SPIKE_WORDS // RUNS,
                       ROM_WORDS // RUNS, int(os.environ.get("LARGEST", "3000")))
    odd = [case.shape.tokens % m.attention_rows for case in cases]
    assert any(odd) and not all(odd), "no layer leaves rows idle, or each one does: draw other cases"
    dut.first_step.value = 1
    await begin(dut)
    for at in range(0, len(cases), RUNS):
        pair = [Layer(m, case, at) for case in cases[at:at + RUNS]]
        rows = [layer.case.shape.jobs * layer.case.shape.passes(m) * m.attention_rows for layer in pair]
        words = [layer.case.shape.jobs * layer.case.shape.passes(m) * layer.case.shape.tokens for layer in pair]
        assert sum(rows) <= m.output_potentials and sum(words) <= m.score_potentials
        for step in range(STEPS):
            dut.first_step.value = int(step == 0)
            images = placed([partial(layer.image, step, index == 0, sum(rows[:index])) for index, layer in enumerate(pair)])
            await run_layers(dut, m, [layer.case.shape for layer in pair], images)
