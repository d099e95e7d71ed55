"""Bench of hwgen/fire.py: every write and logit of random tiles, with its address and its cycle, and the done pulse.

A stepwise machine runs two tiles in turns for some time steps. MUTATE=greater (fires when v > threshold), MUTATE=round
(requantise without rounding), MUTATE=mask (no spike mask) must fail; of a stepwise machine also norm (the neurons behind the
residual keep no potential), redrawn (the first step's mask in each) and sums (logits of the last step alone).
"""
import random
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from hwgen.config import MachineConfig
from hwgen.descriptors import GEMM, After, pack
from quantize.formats import limits
from sim.golden import fire as golden
from sim.scoreboard import Scoreboard
from sim.streams import reset, start_clock
from sim.tb import cases, step_cases
from sim.tb.cases import FireCase, Ints, descriptor, pack_lanes, random_fire
from sim.tb.duts import BRANCH, NEURON, STREAM, machine, mutated

CASES = 14


def spoil() -> None:
    """Make the golden wrong, as MUTATE asks."""
    right_fire, right_requantise, right_draws = golden.fire, golden.requantise, cases.draws
    right_integrate = step_cases.integrate
    if mutated("greater"):
        golden.fire = lambda v, threshold, levels: right_fire(v - 1, threshold, levels)
        step_cases.integrate = lambda v, charge, threshold: right_integrate(v, charge - 1, threshold)
    if mutated("round"):
        golden.requantise = lambda stream, to: right_requantise(stream - ((1 << to.shift) >> 1), to)
    if mutated("mask"):
        cases.draws = lambda *of: right_draws(*of) | np.uint8(255)  # type: ignore[assignment]


async def load(dut: Any, case: FireCase) -> None:
    """Write the case's memories."""
    dut.load__en.value = 1
    for select, words in ((NEURON, case.neuron), (BRANCH, case.branch), (STREAM, case.stream)):
        for address, word in words.items():
            dut.load__select.value, dut.load__address.value, dut.load__data.value = select, address, word
            await RisingEdge(dut.clk)
    dut.load__en.value = 0


def random_sums(rng: random.Random, m: MachineConfig, count: int, channels: int) -> Ints:
    """Accumulators [count, channels] of every magnitude."""
    sizes = (5, 13, 21, m.acc_bits)
    return np.array([[rng.randint(*limits(rng.choice(sizes), True)) for _ in range(channels)] for _ in range(count)])


def seen(dut: Any) -> list[tuple[str, int, int]]:
    """What the unit puts out in this cycle."""
    found = []
    for port in ("stream", "spike"):
        if int(getattr(dut, f"{port}_write__en").value):
            found.append((port, int(getattr(dut, f"{port}_write__address").value),
                          int(getattr(dut, f"{port}_write__data").value)))
    if int(dut.logits__valid.value):
        found.append(("logits", int(dut.logits__last.value), int(dut.logits__data.value)))
    return found


@cocotb.test()
@cocotb.parametrize(after=[0, 1, 2, 3], idle=[0, 4])
async def tiles(dut: Any, after: int, idle: int) -> None:
    """Tiles one after the other; tokens at the least spacing, or up to `idle` cycles later. `after`: an `After`."""
    spoil()
    m, rng = machine(), random.Random(f"fire {after} {idle}")
    start_clock(dut)
    dut.start.value, dut.ready.value, dut.load__en.value = 0, 0, 0
    await reset(dut)
    for index in range(CASES):
        dut.first_step.value = dut.last_step.value = 1
        tokens, channels = _random_shape(rng, m)
        if m.stepwise:
            await _time_steps(dut, m, rng, After(after), idle, index)
            continue
        acc = random_sums(rng, m, tokens[0] * tokens[1], channels)
        case = random_fire(rng, m, acc, tokens, After(after), part=index % 4)
        await load(dut, case)
        await _tile(dut, m, rng, case, acc, idle, f"tile {index}")


def _random_shape(rng: random.Random, m: MachineConfig) -> tuple[tuple[int, int], int]:
    """Tokens (x, y) and channels of a tile."""
    tokens = rng.randint(1, 4), rng.randint(1, 3)
    return tokens, m.lanes if rng.random() < 0.4 else rng.randint(1, m.lanes)


async def _time_steps(dut: Any, m: MachineConfig, rng: random.Random, after: After, idle: int, index: int) -> None:
    """Tiles in turns, for some time steps; the second one of any kind."""
    tiles = []
    for part in range(step_cases.PARTS):
        tokens, channels = _random_shape(rng, m)
        acc = np.array([random_sums(rng, m, tokens[0] * tokens[1], channels) for _ in range(step_cases.STEPS)])
        kind = After((after + part * index) % len(After))
        tiles.append((acc, step_cases.random_steps(rng, m, acc, tokens, kind, part)))
    for step in range(step_cases.STEPS):
        dut.first_step.value, dut.last_step.value = int(step == 0), int(step == step_cases.STEPS - 1)
        for part, (acc, found) in enumerate(tiles):
            await load(dut, found[step])
            await _tile(dut, m, rng, found[step], acc[step], idle, f"tile {index}.{part} step {step}")


def show(item: tuple[int, int, int]) -> str:
    """A write or a group of logits."""
    return f"cycle {item[0]} address {item[1]} data {item[2]:#x}"


async def _tile(dut: Any, m: MachineConfig, rng: random.Random, case: FireCase, acc: Ints, idle: int,
                label: str) -> None:
    spacing = case.fields["spacing"] + 1
    ready, at = [], 1
    for _ in acc:
        ready.append(at)
        at += spacing + rng.randint(0, idle)
    expected = {port: [(ready[w.token] + w.after, w.address, w.data) for w in case.writes if w.port == port]
                for port in ("stream", "spike", "logits")}
    boards = {port: Scoreboard(items, label=f"{label} {port} {{}}".format, show=show)
              for port, items in expected.items()}
    done = ready[-1] + case.done
    dut.desc.value, dut.start.value = pack(GEMM, descriptor(case.fields)), 1
    dut.masked.value, dut.mask_state.value = case.masked, case.mask_state
    dut.mask_override.value, dut.override_ratio.value = case.override, case.override_ratio
    await RisingEdge(dut.clk)
    dut.start.value = 0
    token = 0
    for cycle in range(1, done + 1):
        if token < len(ready) and ready[token] == cycle:
            padded = np.pad(acc[token], (0, m.lanes - acc.shape[1]))
            dut.acc.value, dut.ready.value = pack_lanes(padded, m.acc_bits), 1
            token += 1
        else:
            dut.acc.value, dut.ready.value = rng.getrandbits(m.lanes * m.acc_bits), 0
        await RisingEdge(dut.clk)
        for port, address, data in seen(dut):
            boards[port].check((cycle, address, data))
        assert int(dut.done.value) == (cycle == done), f"{label}: done {dut.done.value} in cycle {cycle} of {done}"
    for board in boards.values():
        board.finish()
