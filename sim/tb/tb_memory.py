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
CYCLES = 300

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
@cocotb.parametrize(reading=[0.2, 1.0], writing=[0.1, 1.0])
async def memories(dut: Any, reading: float, writing: float) -> None:
    """Every address is read at first (`init`, then 0) and at last; between, random traffic."""
    rng = random.Random(f"memory {reading} {writing}")
    width, init, depth = memory_shape(machine())
    first = init + [int(mutated("init"))] * (depth - len(init))
    models = [Model(name, list(first), width) for name in READS]
    if memories.ran:  # power up comes once
        models = memories.ran
    scan: list[int | None] = [*range(depth)]
    steps, expected = [], []
    for cycle, at in enumerate([*scan, *[None] * CYCLES, *scan]):
        inputs: Inputs = {}
        for model in models:
            inputs |= model.cycle(rng, reading, writing, at)
            expected += [(cycle, f"{model.name}_read{port}", data) for port, data in enumerate(model.held)]
        steps.append(inputs)
    board: Scoreboard[Any] = Scoreboard(expected)
