"""Bench of hwgen/memory.py: random reads and writes on all ports at once against a Python list.

Addresses and write data change while `en` is 0; a read never meets a write of its address, which is not defined.
MUTATE=held (data follow the address while `en` is 0), loadable (writes reach a memory that is not loadable), init
(the words behind `init` are not 0) and write (writes with `en` 0) must fail.
"""
import random
from dataclasses import dataclass, field
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from sim.scoreboard import Scoreboard
from sim.streams import reset, start_clock
from sim.tb.duts import MEMORY_PORTS, machine, memory_shape, mutated

READS = {"rows": MEMORY_PORTS, "fixed": MEMORY_PORTS, "pad": 1}
"""Read ports of each memory of the DUT."""
CYCLES = 60
DENSITIES = (0.1, 0.5, 1.0)

Inputs = dict[str, int]
Seen = tuple[int, str, int]
"""Cycle, port, data."""


@dataclass
class Model:
    """One memory as a list, and what its read ports hold (None before the first read)."""

    name: str
    words: list[int]
    width: int
    held: list[int | None] = field(init=False)

    def __post_init__(self) -> None:
        self.held = [None] * READS[self.name]

    def cycle(self, rng: random.Random, reading: float, writing: float, scan: int | None = None) -> Inputs:
        """Inputs of one cycle, drawn at random or (`scan`) reading that address on every port; the state moves on."""
        inputs: Inputs = {}
        address, data = rng.randrange(len(self.words)), rng.getrandbits(self.width)
        write = scan is None and rng.random() < writing
        for port in range(len(self.held)):
            at = rng.randrange(len(self.words)) if scan is None else scan
            read = scan is not None or (rng.random() < reading and not (write and at == address))
            inputs |= {f"{self.name}_read{port}__address": at, f"{self.name}_read{port}__en": int(read)}
            if read or mutated("held"):
                self.held[port] = self.words[at]
        inputs |= {f"{self.name}_write__address": address, f"{self.name}_write__en": int(write),
                   f"{self.name}_write__data": data}
        if (write or mutated("write")) and (self.name != "fixed" or mutated("loadable")):
            self.words[address] = data
        return inputs


@cocotb.test()
async def memories(dut: Any) -> None:
    """Every address is read at first (`init`, then 0) and at last; between, traffic of all densities.

    One test, for power up comes once. Data are compared in every cycle, so a port that does not hold them is seen.
    """
    rng = random.Random("memory")
    width, init, depth = memory_shape(machine())
    first = init + [int(mutated("init"))] * (depth - len(init))
    models = [Model(name, list(first), width) for name in READS]
    steps: list[Inputs] = []
    expected: list[Seen] = []

    def step(reading: float = 0, writing: float = 0, scan: int | None = None) -> None:
        steps.append({})
        for model in models:
            steps[-1].update(model.cycle(rng, reading, writing, scan))
            expected.extend((len(steps), f"{model.name}_read{port}", data) for port, data in enumerate(model.held)
                            if data is not None)

    for address in range(depth):
        step(scan=address)
    for reading in DENSITIES:
        for writing in DENSITIES:
            for _ in range(CYCLES):
                step(reading, writing)
    for address in range(depth):
        step(scan=address)

    board = Scoreboard(expected, label=lambda index: f"cycle {expected[index][0]} of {expected[index][1]}")
    start_clock(dut)
    for name in READS:
        getattr(dut, f"{name}_write__en").value = 0
    await reset(dut)
    for cycle, inputs in enumerate([*steps, {}]):
        for signal, value in inputs.items():
            getattr(dut, signal).value = value
        await RisingEdge(dut.clk)
        if cycle:  # what the edge before has read
            for name, ports in READS.items():
                for port in range(ports):
                    board.check((cycle, f"{name}_read{port}", int(getattr(dut, f"{name}_read{port}__data").value)))
    board.finish()
