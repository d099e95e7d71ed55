"""Bench of hwgen/sequencer.py: random programs, the units imitated; every event is expected with its exact cycle.

`predict` states the contract: a descriptor is dispatched in the first cycle that is `FETCH_CYCLES` after the dispatch
before, `HANDOVER` or more after that one's unit is done, (`results`) in which the result stream is idle, and in which the
reads and writes of its sync word are done. MUTATE=cycles (one cycle less), handover (likewise), mask (one draw on), payload
(words reversed), results (the flag ignored), restart (a second image begins one descriptor late), halt (`failed` ignored),
sync (one write less is enough), steps (one more than finished) and stalled (a cycle without a unit counts) must fail; of a
stepwise machine also seed (the first step's mask in each), image (IMAGE in each step), early (image_done with each step) and
initial (the second step still is).
"""
import itertools
import random
from dataclasses import dataclass, field
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hwgen.descriptors import DESCRIPTOR_WORDS, HEADER, PAYLOAD_BITS, PROGRAM_BITS, SYNC, Kind, pack, unpack
from hwgen.registers import ErrorCode
from hwgen.sequencer import FETCH_CYCLES, HANDOVER
from model.lfsr import STEP_SEED, WIDTH, jump, jump_polynomial, start_state
from sim.scoreboard import Scoreboard
from sim.streams import reset, start_clock
from sim.tb.duts import DESCRIPTORS, PROGRAM, machine, mutated

STARTS = {Kind.IMAGE: "start_image", Kind.GEMM: "start_gemm", Kind.ATTENTION: "start_attention"}
SLOTS = 4
"""Programs that are in the memory together."""
TAIL = 45
"""Cycles watched behind the end: longer than a fetch, so that one that goes on is seen."""

Event = tuple[int, str, tuple[int, ...]]
"""Cycle (the `run` pulse is in cycle 0), name, values."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a descriptor says. `draw` is None where it draws no mask: its jump polynomial is then anything."""

    kind: int
    layer: int
    results: bool
    draw: int | None
    polynomial: int
    payload: int
    reads: int = 0
    writes: int = 0

    @property
    def header(self) -> int:
        """The header word."""
        return pack(HEADER, {"kind": self.kind, "layer": self.layer, "last": self.layer & 1, "results": self.results,
                             "masked": self.draw is not None, "reserved": 0, "jump": self.polynomial})

    @property
    def words(self) -> list[int]:
        """Its program words."""
        mask = (1 << PROGRAM_BITS) - 1
        sync = pack(SYNC, {"reads": self.reads, "writes": self.writes, "reserved": 0})
        return [self.header, sync, *(self.payload >> PROGRAM_BITS * part & mask for part in range(DESCRIPTOR_WORDS - 2))]


@dataclass
class Run:
    """One run: its program, from descriptor `first` on (`Bench.load` places it), and what the units and the result stream do.

    `transfers`: cycles in which one more read and one more write is done. `durations`: cycles from each start to its done, at
    least 1. `stalls`: cycles in which results are not idle. `time_steps`: of an image, on a stepwise machine.
    `failed_at`: the cycle in which `failed` rises; `abort_at`: that of an abort.
    """

    program: list[Descriptor]
    images: int
    seed: int
    image_index: int
    durations: list[int]
    first: int = 0
    time_steps: int = 1
    stalls: set[int] = field(default_factory=set)
    transfers: list[int] = field(default_factory=list)
    failed_at: int | None = None
    abort_at: int | None = None

    def moved(self, cycle: int) -> int:
        """Reads, and writes, that are done in a cycle."""
        return sum(at <= cycle for at in self.transfers)

    def waits(self, item: Descriptor, cycle: int) -> bool:
        """Whether transfers keep `item` from being dispatched in a cycle."""
        return self.moved(cycle) < max(item.reads, item.writes - mutated("sync"))

    @property
    def stopped_at(self) -> int | None:
        """The cycle of a failure or an abort."""
        return self.abort_at if self.failed_at is None else self.failed_at


def predict(run: Run) -> list[Event]:
    """All events of a run, in order."""
    events = _unbroken(run)
    stop = run.stopped_at
    if stop is None or (mutated("halt") and run.failed_at is not None):
        return events
    if run.failed_at is None:  # an abort is a reset: the cycle itself is whole
        return [event for event in events if event[0] <= stop]
    kept = [event for event in events if event[0] < stop or (event[0] == stop and event[1] in STARTS.values())]
    return [*kept, (stop, "finished", (0, 1))]


def _unbroken(run: Run) -> list[Event]:
    events: list[Event] = []
    durations = iter(run.durations)
    last, done = 0, -HANDOVER
    for image, step in itertools.product(range(run.images), range(run.time_steps)):
        late = int(mutated("restart") and image > 0)
        seed = step_seed(run.seed, 0 if mutated("seed") else step)
        for number, item in enumerate(run.program[late:], run.first + late):
            at = max(last + FETCH_CYCLES - mutated("cycles"), done + HANDOVER - mutated("handover"))
            while (item.results and at in run.stalls and not mutated("results")) or run.waits(item, at):
                if not (item.results and at in run.stalls):
                    events.append((at, "stalled", ()))
                at += 1
            last = at
            events.append((at, "dispatch", (number,)))
            if item.kind == Kind.IMAGE and step > 0 and not mutated("image"):
                continue
            if item.kind in STARTS:
                state = 0
                if item.draw is not None:
                    state = jump(start_state(seed, run.image_index + image), item.draw + mutated("mask"))
                words = item.words[:1:-1] if mutated("payload") else item.words[2:]
                payload = sum(word << PROGRAM_BITS * part for part, word in enumerate(words))
                events.append((at + 1, STARTS[Kind(item.kind)], (item.header, payload, state)))
                done = at + 1 + next(durations)
            elif item.kind == Kind.END:
                if step == run.time_steps - 1 or mutated("early"):
                    events.append((at, "image_done", ()))
            else:
                return [*events, (at, "finished", (ErrorCode.BAD_DESCRIPTOR, 0))]
    return [*events, (last, "finished", (0, 0))]


def step_seed(seed: int, step: int) -> int:
    """The mask seed of a time step."""
    return seed ^ step * STEP_SEED & (1 << WIDTH) - 1


def random_run(rng: random.Random, longest: int, stall: int, last: int = Kind.END) -> Run:
    """A run of up to 3 images and 4 units, the units of up to `longest` cycles."""
    units = rng.randint(0, 4)
    program = []
    for kind in [*(rng.choice(list(STARTS)) for _ in range(units)), last]:
        draw = rng.getrandbits(rng.randint(1, WIDTH - 1)) if rng.random() < 0.7 else None
        polynomial = rng.getrandbits(WIDTH) if draw is None else jump_polynomial(draw)
        program.append(Descriptor(kind, rng.getrandbits(12), rng.random() < 0.5, draw, polynomial,
                                  rng.getrandbits(PAYLOAD_BITS), rng.randint(0, 3), rng.randint(0, 3)))
    images, index = rng.randint(1, 3), rng.getrandbits(20)
    time_steps = rng.randint(1, machine().steps) if machine().stepwise else 1
    # the first: an image, and a step, whose start state would be 0
    seed = rng.choice([step_seed(index + images - 1, (images + units) % time_steps), rng.getrandbits(32)])
    exact = [FETCH_CYCLES - late for late in range(HANDOVER + 3)]  # done just before, when and just after the next is ready
    durations = [rng.choice([1, longest, rng.randint(1, longest), rng.choice(exact)]) for _ in range(images * units * time_steps)]
    stalls, at = set[int](), 0
    while stall and at < 3000:
        low = rng.randint(1, stall)
        stalls |= set(range(at, at + low))
        at += low + rng.randint(1, stall)
    transfers = [rng.randint(0, 90 * (units + 1)) for _ in range(3)]
    return Run(program, images, seed, index, durations, time_steps=time_steps, stalls=stalls, transfers=transfers)


class Bench:
    """Drives runs one after the other, without a reset between them."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut

    async def begin(self) -> None:
        """Clock, idle inputs, reset."""
        start_clock(self.dut)
        for name in ("run", "failed", "unit_done", "abort_run", "load__en"):
            getattr(self.dut, name).value = 0
        await reset(self.dut)

    async def load(self, rng: random.Random, runs: list[Run]) -> None:
        """Place up to `SLOTS` programs, the first at 0, the last at the end of the memory; the rest keeps old words."""
        size = DESCRIPTORS // SLOTS
        self.dut.load__en.value, self.dut.load__select.value = 1, PROGRAM
        for slot, run in enumerate(runs):
            room = size - len(run.program)
            run.first = slot * size + (rng.randint(0, room) if 0 < slot < SLOTS - 1 else room if slot else 0)
            words = [word for item in run.program for word in item.words]
            for address, word in enumerate(words, run.first * DESCRIPTOR_WORDS):
                self.dut.load__address.value, self.dut.load__data.value = address, word
                await RisingEdge(self.dut.clk)
        self.dut.load__en.value = 0

    async def execute(self, run: Run, tail: int = TAIL) -> None:
        """Run; watch `tail` cycles more (at least 1). With a tail of 1 the next run begins as early as it may."""
        dut, expected = self.dut, predict(run)
        board = Scoreboard(expected, label=lambda index: f"{expected[index][1]} of cycle {expected[index][0]}")
        end = expected[-1][0] if expected and run.abort_at is None else run.abort_at or 0
        dut.first.value, dut.images.value, dut.seed.value = run.first, run.images, run.seed
        step = 0
        image, durations = run.image_index, iter(run.durations)
        done_at, held, steps = -1, None, 0
        for cycle in range(end + tail + 1):
            stopped = run.stopped_at is not None and cycle > run.stopped_at
            dut.run.value, dut.image_index.value = int(cycle == 0), image
            # a number that changes during a run, and any number on an exact machine, counts for nothing
            dut.time_steps.value = run.time_steps if machine().stepwise and cycle == 0 else 1 + cycle % 5
            dut.results_idle.value = int(cycle not in run.stalls)
            dut.failed.value = int(run.failed_at is not None and run.failed_at <= cycle < end + tail)
            dut.abort_run.value = int(cycle == run.abort_at)
            dut.unit_done.value = int(cycle == done_at and not stopped)
            dut.reads.value = dut.writes.value = run.moved(cycle)
            await RisingEdge(dut.clk)
            assert int(dut.busy.value) == (0 < cycle <= end), f"busy is {dut.busy.value} in cycle {cycle} of {end}"
            if int(dut.busy.value):
                levels = int(dut.first_step.value), int(dut.last_step.value)
                assert levels == (step <= mutated("initial"), step == run.time_steps - 1), \
                    f"initial and last_step are {levels} in cycle {cycle}, time step {step} of {run.time_steps}"
            outputs = [name for name in STARTS.values() if int(getattr(dut, name).value)]
            for name in outputs:
                held, masked = self._job()
                board.check((cycle, name, held if masked else (*held[:2], 0)))
                done_at = cycle + next(durations)
            if not outputs and held and cycle <= done_at and not stopped:
                assert self._job()[0][::2] == held[::2], f"the job changed in cycle {cycle}, its unit is done in {done_at}"
            if int(dut.stalled.value) or (mutated("stalled") and cycle == 0):
                board.check((cycle, "stalled", ()))
            if int(dut.busy.value):
                assert int(dut.steps.value) == steps + mutated("steps"), \
                    f"steps is {dut.steps.value} in cycle {cycle}, not {steps}"
            steps = 0 if int(dut.image_start.value) else steps + (cycle == done_at and not stopped)
            if int(dut.dispatch.value):
                board.check((cycle, "dispatch", (int(dut.descriptor.value),)))
                step = (step + (run.program[int(dut.descriptor.value) - run.first].kind == Kind.END)) % run.time_steps
            if int(dut.image_done.value):
                board.check((cycle, "image_done", ()))
                image += 1
            if int(dut.finished.value) or int(dut.error.value) or int(dut.halt.value):
                assert int(dut.finished.value), f"cycle {cycle}: error {dut.error.value} or halt without finished"
                board.check((cycle, "finished", (int(dut.error.value), int(dut.halt.value))))
        board.finish()

    def _job(self) -> tuple[tuple[int, int, int], int]:
        """Header, payload and mask state, and whether the header says masked."""
        header = int(self.dut.header.value)
        return (header, int(self.dut.payload.value), int(self.dut.mask_state.value)), unpack(HEADER, header)["masked"]


@cocotb.test()
@cocotb.parametrize(longest=[4, 120], stall=[0, 50])
async def programs(dut: Any, longest: int, stall: int) -> None:
    """Short and long units, with and without a result stream that stalls."""
    rng = random.Random(f"sequencer {longest} {stall}")
    bench = Bench(dut)
    await bench.begin()
    for _ in range(2):
        runs = [random_run(rng, longest, stall) for _ in range(SLOTS)]
        await bench.load(rng, runs)
        for run in runs:
            await bench.execute(run, rng.choice([1, 1, 2, TAIL]))


@cocotb.test()
async def bad_kinds(dut: Any) -> None:
    """A kind that is none raises BAD_DESCRIPTOR and stops; the run after it is whole again."""
    rng = random.Random("bad kinds")
    bench = Bench(dut)
    await bench.begin()
    known = [int(kind) for kind in Kind]
    for kind in (max(known) + 1, 8, 12, 15):
        runs = [random_run(rng, 60, 10, last=kind), random_run(rng, 60, 10)]
        await bench.load(rng, runs)
        for run in runs:
            await bench.execute(run, rng.choice([1, TAIL]))


@cocotb.test()
@cocotb.parametrize(cause=["failed", "abort"])
async def stops(dut: Any, cause: str) -> None:
    """`failed` halts and an abort ends the run at once, whatever happens; the run after it is whole again."""
    rng = random.Random(f"stops {cause}")
    bench = Bench(dut)
    await bench.begin()
    for index in range(12):
        run, after = runs = [random_run(rng, 90, 20), random_run(rng, 30, 0)]
        await bench.load(rng, runs)
        events = predict(run)
        # in the cycle of an event, in the fetch behind it, or when the next descriptor is nearly ready
        late = [0, 0, rng.randint(1, 12), FETCH_CYCLES - rng.randint(0, 3)][index % 4]
        stop = min(rng.choice(events)[0] + late, events[-1][0])
        run.failed_at, run.abort_at = (stop, None) if cause == "failed" else (None, stop)
        await bench.execute(run, 1 if index % 3 else TAIL)
        await bench.execute(after, 1)
