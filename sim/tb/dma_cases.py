"""Machines and random transfer programs of the DMA's bench, and what memories hold after them."""
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from hwgen.config import MachineConfig
from hwgen.descriptors import TRANSFER, Memory, pack
from hwgen.dma import SHARED, Dma, Shapes
from hwgen.external import beats, bursts, pack_words
from hwgen.verilog import convert

DEPTH = 1 << 12
"""Words of every on-chip memory: the lower half is what writes come from, the upper half what reads go to."""


def _machine(bits: int, burst: int, outstanding: int) -> MachineConfig:
    return MachineConfig(memory_bits=bits, memory_burst=burst, memory_outstanding=outstanding, transfers=64)


MACHINES: Mapping[str, tuple[MachineConfig, dict[Memory, int]]] = {
    "narrow": (_machine(64, 16, 4), {Memory.WEIGHTS: 64, Memory.PARAMS: 100, Memory.BRANCHES: 24, Memory.ROM: 5,
                                     Memory.SPIKES: 24, Memory.STREAM: 192}),
    "middle": (_machine(128, 8, 2), {Memory.WEIGHTS: 512, Memory.PARAMS: 130, Memory.BRANCHES: 64, Memory.ROM: 20,
                                     Memory.SPIKES: 192, Memory.STREAM: 128}),
    "wide": (_machine(512, 64, 8), {Memory.WEIGHTS: 2048, Memory.PARAMS: 700, Memory.BRANCHES: 300, Memory.ROM: 24,
                                    Memory.SPIKES: 768, Memory.STREAM: 256}),
    "single": (_machine(64, 1, 1), {Memory.WEIGHTS: 65, Memory.SPIKES: 9}),
}
"""The parameter sets of the bench, by name: machine and bits of each memory's words."""


def shapes(name: str) -> Shapes:
    """On-chip memories of machine `name`."""
    return {memory: (width, DEPTH) for memory, width in MACHINES[name][1].items()}


@lru_cache
def dma_verilog(name: str) -> str:
    """Verilog of the DMA of machine `name`, module `dut`: the bench plays all memories around it."""
    return convert(Dma(MACHINES[name][0], shapes(name)), "dut")


class Transfer(NamedTuple):
    """A transfer as the programs hold it, in words: `values` is what it moves."""

    memory: Memory
    local: int
    address: int
    steps: int
    writes: int
    values: list[int]

    def packed(self) -> int:
        """Its program entry."""
        return pack(TRANSFER, {"kind": 1, "memory": self.memory, "local": self.local, "words": len(self.values) - 1,
                               "address": self.address, "steps": self.steps, "writes": self.writes, "reserved": 0})


class Address(NamedTuple):
    """A burst that must come, and when it may: `steps` and `writes` reached in the cycle before."""

    byte: int
    beats: int
    steps: int
    writes: int


@dataclass
class Case:
    """Programs, what lies in the memories before, and external memory after (`base`: in 4 KiB units)."""

    base: int
    reads: list[Transfer]
    writes: list[Transfer]
    external: bytes
    after: bytes
    local: dict[tuple[Memory, int], int] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps after which everything may run."""
        return max(entry.steps for entry in (*self.reads, *self.writes))

    def addresses(self, m: MachineConfig, widths: Mapping[Memory, int], reads: bool) -> list[Address]:
        """The bursts of the read or of the write program, in order."""
        bus = m.memory_bits
        return [Address((self.base << 12) + first * bus // 8, count, entry.steps, entry.writes)
                for entry in (self.reads if reads else self.writes)
                for first, count in bursts(entry.address, beats(len(entry.values), widths[entry.memory], bus), m.memory_burst)]


def build(rng: random.Random, name: str, count: int, largest: int = 60, back: float = 0.3) -> Case:
    """`count` reads and half as many writes of up to `largest` words. External regions are disjoint, but a share of `back`
    of the reads brings back what a write has left; these wait for it."""
    m, widths = MACHINES[name]
    bus = m.memory_bits
    sources = [memory for memory in SHARED if memory in widths]
    place = rng.randrange(4)  # next free beat
    low, high = dict.fromkeys(widths, 0), dict.fromkeys(widths, DEPTH // 2)
    case = Case(rng.randrange(1, 1 << 27), [], [], b"", b"")
    regions: list[tuple[Transfer, bool]] = []

    def length() -> int:
        return rng.choice([1, 1, 2, rng.randint(1, largest)])

    def take(memory: Memory, words: int) -> int:
        nonlocal place
        first = place
        place += beats(words, widths[memory], bus) + rng.choice([0, 0, rng.randrange(20)])
        return first

    steps = 0
    for _ in range(max(1, count // 2)):
        memory, words = rng.choice(sources), length()
        values = [rng.getrandbits(widths[memory]) for _ in range(words)]
        steps += rng.choice([0, 0, 1, 2])
        entry = Transfer(memory, low[memory], take(memory, words), steps, 0, values)
        low[memory] += words
        case.local |= {(memory, entry.local + index): value for index, value in enumerate(values)}
        case.writes.append(entry)
        regions.append((entry, False))
    written, steps = 0, 0
    for _ in range(count):
        steps += rng.choice([0, 0, 0, 1, 3])
        if written < len(case.writes) and rng.random() < back:
            written = rng.randint(written, len(case.writes) - 1) + 1
            source = case.writes[written - 1]
            entry = source._replace(local=high[source.memory], steps=steps, writes=written)
        else:
            memory, words = rng.choice(list(widths)), length()
            values = [rng.getrandbits(widths[memory]) for _ in range(words)]
            entry = Transfer(memory, high[memory], take(memory, words), steps, 0, values)
            regions.append((entry, True))
        high[entry.memory] += len(entry.values)
        case.reads.append(entry)
    case.external = _external(rng, m, widths, place, regions, False)
    case.after = _external(rng, m, widths, place, regions, True, case.external)
    return case


def _external(rng: random.Random, m: MachineConfig, widths: Mapping[Memory, int], place: int,
              regions: list[tuple[Transfer, bool]], after: bool, before: bytes = b"") -> bytes:
    """External memory before (what lies between the regions, and under writes, is random) or after the programs."""
    size = m.memory_bits // 8
    image = bytearray(before) or bytearray(rng.randbytes(place * size))
    for entry, is_read in regions:
        if is_read or after:
            data = pack_words(entry.values, widths[entry.memory], m.memory_bits)
            image[entry.address * size:entry.address * size + len(data)] = data
    return bytes(image)
