"""Bench of the DMA: the bench plays external memory (sim.axi_memory), on-chip memories, programs and sequencer.

Checked in every cycle: AXI4 rules, every burst and when it may come, every on-chip write in order, `reads`, `writes`,
`fault`; at the end external memory byte for byte. Environment: MACHINE (a name of dma_cases.MACHINES); MUTATE expects
something wrong and must turn the bench red: word (one on-chip word), external (one byte), early (a burst's steps),
burst (longer bursts), cycles (one more), counter (`reads` one cycle early), fault (one more), stop (a write after it).
"""
import os
import random
from collections import deque
from fractions import Fraction
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly, RisingEdge

from hwgen.descriptors import TRANSFER_BITS, Memory
from hwgen.dma import SHARED
from hwgen.external import pack_words, transfer_cycles
from sim.axi_memory import INPUTS, OUTPUTS, AxiMemory, Timing
from sim.scoreboard import Scoreboard
from sim.streams import reset, start_clock
from sim.tb.dma_cases import DEPTH, MACHINES, Case, Transfer, build

LIMIT = 60_000


def mutated(name: str) -> bool:
    return os.environ.get("MUTATE") == name


class Bench:
    """All that lies around the DMA. `grant`: chance of a grant; `pace`: chance of a step, in each cycle."""

    def __init__(self, dut: Any, name: str, seed: str, grant: float = 1, pace: float = 1) -> None:
        self.dut, self.name, self.rng, self.grant, self.pace = dut, name, random.Random(seed), grant, pace
        self.m, self.widths = MACHINES[name]
        self.out = {signal: getattr(dut, f"m_axi_{signal}") for signal in OUTPUTS}
        self.given = {signal: getattr(dut, f"m_axi_{signal}") for signal in INPUTS}
        self.shared = [memory for memory in SHARED if memory in self.widths]
        self.ports = {memory: _port(dut, f"{memory.name.lower()}_write") for memory in self.widths}
        self.reads_of = {memory: _port(dut, f"{memory.name.lower()}_read") for memory in self.shared}
        self.programs = {kind: _port(dut, f"{kind}_program") for kind in ("read", "write")}
        self.cycle, self.stopped = 0, -2
        self.asked: dict[Memory, int] = {}
        self.fetched: dict[str, int] = {}

    async def begin(self) -> None:
        """Clock, quiet inputs, reset."""
        for signal in self.given.values():
            signal.value = 0
        for name in ("start", "stop", "steps", "base"):
            getattr(self.dut, name).value = 0
        for memory in self.shared:
            getattr(self.dut, f"{memory.name.lower()}_grant").value = 0
            getattr(self.dut, f"{memory.name.lower()}_read_grant").value = 0
        self.dut.m_axi_rid.value = self.dut.m_axi_bid.value = 0
        start_clock(self.dut)
        await reset(self.dut)

    def load(self, case: Case, timing: Timing, **errors: list[int]) -> None:
        """Fresh memories for a run of `case`."""
        self.case = case
        self.external = AxiMemory(bytearray(case.external), base=case.base << 12, bits=self.m.memory_bits, timing=timing,
                                  outstanding=self.m.memory_outstanding, **errors)  # type: ignore[arg-type]
        words = [(entry.memory, entry.local + index, value) for entry in case.reads for index, value in enumerate(entry.values)]
        if mutated("word"):
            words[len(words) // 2] = (*words[len(words) // 2][:2], words[len(words) // 2][2] ^ 1)
        self.board = Scoreboard(words, label=lambda index: "on-chip write", show=_shown)
        self.ends = deque(_ends(case.reads))
        self.addresses = {channel: deque(case.addresses(self.m, self.widths, channel == "ar")) for channel in ("ar", "aw")}
        if mutated("early"):
            last = self.addresses["ar"].pop()
            self.addresses["ar"].append(last._replace(steps=case.steps + 1))
        if mutated("burst"):
            first = self.addresses["ar"].popleft()
            self.addresses["ar"].appendleft(first._replace(beats=first.beats + 1))
        self.answers = deque(_answers(case, self.m, self.widths))
        self.memory = {"read": [entry.packed() for entry in case.reads] + [0],
                       "write": [entry.packed() for entry in case.writes] + [0]}
        self.steps = self.faults = self.expected_faults = self.reads = self.writes = 0
        self.before = {"steps": 0, "writes": 0}
        self.open = dict.fromkeys(("ar", "aw"), False)  # an address that was seen waits for ready
        self.fault_due = False
        self.forgotten = False

    async def tick(self, start: bool = False, stop: bool = False) -> None:
        """One cycle: inputs after the rising edge, everything else at the falling one."""
        dut, rng = self.dut, self.rng
        dut.start.value, dut.stop.value = int(start), int(stop)
        if start:
            dut.base.value = self.case.base
        elif self.steps < self.case.steps and rng.random() < self.pace:
            self.steps += 1
        dut.steps.value = self.steps
        granted = {memory: (rng.random() < self.grant, rng.random() < self.grant) for memory in self.shared}
        for memory, (write, read) in granted.items():
            getattr(dut, f"{memory.name.lower()}_grant").value = int(write)
            getattr(dut, f"{memory.name.lower()}_read_grant").value = int(read)
        self._answer_reads()
        await FallingEdge(dut.clk)
        out = {name: int(signal.value) for name, signal in self.out.items()}
        for channel in ("ar", "aw"):
            if out[f"{channel}valid"] and not self.open[channel]:
                self._address(channel, out[f"{channel}addr"], out[f"{channel}len"] + 1)
        given = self.external.step(out)
        for name, value in given.items():
            self.given[name].value = value
        for channel in ("ar", "aw"):
            self.open[channel] = bool(out[f"{channel}valid"]) and not given[f"{channel}ready"]
        if not self.forgotten and not start:
            reads, writes = int(dut.reads.value), int(dut.writes.value)
            assert reads == self.reads, f"reads is {reads}, {self.reads} are done"
            assert writes == self.writes, f"writes is {writes}, {self.writes} are done"
        self.before = {"steps": self.steps, "writes": self.writes}
        fault = int(dut.fault.value)
        assert fault == self.fault_due, f"fault is {fault}, not {int(self.fault_due)}"
        self.faults += fault
        bad = (given["rvalid"] and out["rready"] and given["rresp"]) or (given["bvalid"] and out["bready"] and given["bresp"])
        self.fault_due = bool(bad) and not self.forgotten and not stop
        self._on_chip(granted)
        if given["bvalid"] and out["bready"] and not self.forgotten:
            self.writes += self.answers.popleft()
        await ReadOnly()  # what the slave drives now may reach the programs' `en`
        self._ask(granted)
        self.forgotten |= stop
        self.cycle += 1
        await RisingEdge(dut.clk)

    def _address(self, channel: str, byte: int, beats: int) -> None:
        expected = self.addresses[channel]
        if self.forgotten:
            assert self.late_addresses, f"{channel} at {byte:#x} came after stop"
            return
        assert expected, f"{channel} at {byte:#x} is one too many"
        want = expected.popleft()
        assert (byte, beats) == (want.byte, want.beats), f"{channel} {byte:#x} x {beats}, expected {want.byte:#x} x {want.beats}"
        for name, value in self.before.items():
            need = getattr(want, name)
            assert value >= need, f"{channel} at {byte:#x} came when {name} was {value}: it must wait for {need}"

    @property
    def late_addresses(self) -> bool:
        """An address may still show in the cycle after stop: it was issued in stop's own."""
        return self.cycle == self.stopped + 1

    def _on_chip(self, granted: dict[Memory, tuple[bool, bool]]) -> None:
        done = [memory for memory, port in self.ports.items() if int(port["en"].value) and granted.get(memory, (True,))[0]]
        assert len(done) <= 1, f"writes to {done} in one cycle"
        for memory in done:
            port = self.ports[memory]
            assert not self.forgotten, f"a write to {memory.name} after stop"
            self.board.check((memory, int(port["address"].value), int(port["data"].value)))
            if self.board.checked == self.ends[0] - mutated("counter"):
                self.ends.popleft()
                self.reads += 1

    def _ask(self, granted: dict[Memory, tuple[bool, bool]]) -> None:
        """Note what the memories and the programs were asked for in this cycle."""
        self.asked = {memory: int(port["address"].value) for memory, port in self.reads_of.items()
                      if int(port["en"].value) and granted[memory][1]}
        self.fetched = {kind: int(port["address"].value) for kind, port in self.programs.items() if int(port["en"].value)}

    def _answer_reads(self) -> None:
        """Data of the cycle before; in every other cycle a shared memory's port shows junk, a program's holds."""
        for memory, port in self.reads_of.items():
            word = self.case.local.get((memory, self.asked.get(memory, -1)))
            port["data"].value = self.rng.getrandbits(self.widths[memory]) if word is None else word
        for kind, at in self.fetched.items():
            entries = self.memory[kind]
            self.programs[kind]["data"].value = entries[at] if at < len(entries) else (1 << TRANSFER_BITS) - 1

    async def run(self) -> int:
        """From `start` to `idle`; returns the cycles."""
        begun = self.cycle
        self.forgotten = False
        await self.tick(start=True)
        await self.until_idle()
        self.board.finish()
        for channel, left in self.addresses.items():
            assert not left, f"{len(left)} {channel} bursts are missing"
        assert (self.reads, self.writes) == (len(self.case.reads), len(self.case.writes))
        expected = bytearray(self.case.after)
        if mutated("external"):
            expected[self.case.writes[0].address * self.m.memory_bits // 8] ^= 1
        if self.external.data != expected:
            at = next(i for i, (a, b) in enumerate(zip(self.external.data, expected, strict=True)) if a != b)
            raise AssertionError(f"external byte {at} is {self.external.data[at]:#x}, not {expected[at]:#x}")
        return self.cycle - begun

    async def until_idle(self) -> None:
        await self.tick()
        for _ in range(LIMIT):
            if int(self.dut.idle.value):
                break
            await self.tick()
        else:
            raise AssertionError(f"not idle in {LIMIT} cycles")
        assert self.external.quiet, "idle, but a burst is under way"

    async def stop(self) -> None:
        """Stop in this cycle, then wait until idle."""
        self.stopped = self.cycle
        if mutated("stop"):
            self.forgotten = True
        await self.tick(stop=True)
        await self.until_idle()


def _port(dut: Any, name: str) -> dict[str, Any]:
    return {part: getattr(dut, f"{name}__{part}") for part in ("address", "en", "data")}


def _shown(item: tuple[Memory, int, int]) -> str:
    return f"{item[0].name} word {item[1]} {item[2]:#x}"


def _ends(reads: list[Transfer]) -> list[int]:
    """On-chip writes after which each read is done."""
    ends, total = [], 0
    for entry in reads:
        total += len(entry.values)
        ends.append(total)
    return [*ends, -1]


def _answers(case: Case, m: Any, widths: Any) -> list[int]:
    """For each B: 1 when it ends a transfer."""
    found = []
    for entry in case.writes:
        count = len(Case(case.base, [], [entry], b"", b"").addresses(m, widths, False))
        found += [0] * (count - 1) + [1]
    return found


@cocotb.test()
@cocotb.parametrize(latency=[1, 20, 100], one_in=[1, 4], stall=[0, 24])
async def programs(dut: Any, latency: int, one_in: int, stall: int) -> None:
    """Random programs, each started when the one before is idle; bandwidth 1 / `one_in`, steps and grants now and then."""
    name = os.environ["MACHINE"]
    bench = Bench(dut, name, f"{latency} {one_in} {stall}", grant=0.7 if stall else 1, pace=0.03 if stall else 0.3)
    await bench.begin()
    for run in range(4):
        case = build(bench.rng, name, 12)
        bench.load(case, Timing(latency, Fraction(1, one_in), stall, run + 1))
        took = await bench.run()
        dut._log.info("%d cycles for %d + %d beats", took, bench.external.read_beats, bench.external.write_beats)


@cocotb.test()
@cocotb.parametrize(stall=[0, 24])
async def stops(dut: Any, stall: int) -> None:
    """Stopped anywhere, AXI4 ends well and nothing is written on chip; the next start runs as if nothing had been."""
    name = os.environ["MACHINE"]
    bench = Bench(dut, name, f"stops {stall}", grant=0.7 if stall else 1, pace=0.2)
    await bench.begin()
    for run in range(25):
        timing = Timing(bench.rng.choice([1, 5, 40]), Fraction(1, bench.rng.choice([1, 4])), stall, run + 1)
        bench.load(build(bench.rng, name, 12, 200), timing)
        bench.forgotten = False
        await bench.tick(start=True)
        for _ in range(bench.rng.choice([0, 1, 2, 3, 10, bench.rng.randrange(600)])):
            await bench.tick()
        await bench.stop()
        bench.load(build(bench.rng, name, 3), timing)
        await bench.run()


@cocotb.test()
async def faults(dut: Any) -> None:
    """Each R beat and each B that is not OKAY gives one pulse, in the cycle after; the programs go on."""
    name = os.environ["MACHINE"]
    bench = Bench(dut, name, "faults")
    await bench.begin()
    case = build(bench.rng, name, 10, back=0)  # what a failed write has left is not known
    last = len(case.addresses(bench.m, bench.widths, False)) - 1
    for errors in ({"errors": [0]}, {"errors": [3, 4]}, {"write_errors": [0]}, {"write_errors": [last]}):
        bench.load(case, Timing(5), **errors)  # type: ignore[arg-type]
        bench.forgotten = False
        await bench.tick(start=True)
        await bench.until_idle()
        await bench.tick()
        want = sum(map(len, errors.values())) + mutated("fault")
        assert bench.faults == want, f"{bench.faults} faults, expected {want}"
        assert (bench.reads, bench.writes) == (len(case.reads), len(case.writes))


def long_reads(name: str) -> list[Transfer]:
    """One long read for each memory, and one that begins in the middle of a burst."""
    rng = random.Random(f"long {name}")
    widths = MACHINES[name][1]
    long = 1001 if MACHINES[name][0].memory_outstanding > 1 else 101  # alone, every burst waits for the whole latency
    found = [Transfer(memory, 0, 0, 3, 0, [rng.getrandbits(width) for _ in range(words)])
             for memory, width in widths.items() for words in (1, long)]
    return [*found, found[1]._replace(address=5)]


@cocotb.test()
@cocotb.parametrize(latency=[1, 8, 100])
async def long_transfers(dut: Any, latency: int) -> None:
    """A read takes `hwgen.external.transfer_cycles` from the step that releases it."""
    name = os.environ["MACHINE"]
    bench = Bench(dut, name, "long", pace=0)
    await bench.begin()
    for entry in long_reads(name):
        width, bus = bench.widths[entry.memory], bench.m.memory_bits
        data = bytes(entry.address * bus // 8) + pack_words(entry.values, width, bus)
        bench.load(Case(7, [entry], [], data, data), Timing(latency))
        bench.forgotten = False
        await bench.tick(start=True)
        for _ in range(10):
            await bench.tick()
        bench.steps = entry.steps
        begun = bench.cycle
        while not bench.reads:
            await bench.tick()
        took = bench.cycle - begun
        want = mutated("cycles") + transfer_cycles(len(entry.values), width, bus, latency=latency, burst=bench.m.memory_burst,
                                                   outstanding=bench.m.memory_outstanding, address=entry.address)
        assert took == want, f"{len(entry.values)} words of {width} bits took {took} cycles, predicted {want}"
        await bench.until_idle()


@cocotb.test()
async def many_short_transfers(dut: Any) -> None:
    """Transfers of one word each, all released: one cycle is lost from one to the next."""
    name = os.environ["MACHINE"]
    bench = Bench(dut, name, "short")
    await bench.begin()
    memory = next(iter(bench.widths))
    width, bus = bench.widths[memory], bench.m.memory_bits
    pitch = -(-max(width, bus) // bus)
    reads = [Transfer(memory, index, index * pitch, 0, 0, [bench.rng.getrandbits(width)]) for index in range(40)]
    data = b"".join(pack_words(entry.values, width, bus) for entry in reads)
    bench.load(Case(1, reads, [], data, data), Timing(1))
    took = await bench.run()
    if bench.m.memory_outstanding > 1:
        want = len(reads) * (pitch + 1) + 7
        assert took == want, f"{len(reads)} transfers of {pitch} beats took {took} cycles, not {want}"


@cocotb.test()
async def long_writes(dut: Any) -> None:
    """From start to idle a long write at bandwidth 1 and latency 1 takes its beats, or words where they are more, and 12."""
    name = os.environ["MACHINE"]
    bench = Bench(dut, name, "writes")
    await bench.begin()
    for memory in bench.shared:
        width, bus = bench.widths[memory], bench.m.memory_bits
        entry = Transfer(memory, 0, 0, 0, 0, [bench.rng.getrandbits(width) for _ in range(DEPTH // 4)])
        data = pack_words(entry.values, width, bus)
        bench.load(Case(1, [], [entry], bytes(len(data)), data, {(memory, i): v for i, v in enumerate(entry.values)}), Timing(1))
        took = await bench.run()
        want = max(len(entry.values), len(data) * 8 // bus) + 12
        assert took == want, f"{len(entry.values)} words of {width} bits took {took} cycles, not {want}"
