"""The C++ memory model behind the AXI4 master (sim/fast/memory.hpp): exact timing, data, protocol checks, snapshots."""
import random
import shutil
import subprocess
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SIZE = 1 << 14
BEAT = 16


HEADER = HERE.parent / "sim" / "fast" / "memory.hpp"


def compiled(folder: Path, header: str) -> Path:
    """The driver with this text as memory.hpp."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ not found: apt-get install g++")
    (folder / "memory.hpp").write_text(header)
    subprocess.run([compiler, "-std=c++20", "-Wall", "-Wextra", "-Werror", "-O1", "-fsanitize=undefined", "-fno-sanitize-recover",
                    f"-I{folder}", str(HERE / "memory_driver.cpp"), "-o", str(folder / "driver")], check=True)
    return folder / "driver"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("memory"), HEADER.read_text())


@dataclass
class Out:
    """What the memory drives in one cycle, and its counters."""

    arready: int
    rvalid: int
    rlast: int
    rdata: str
    awready: int
    wready: int
    bvalid: int
    moved: int
    read: int
    written: int
    starved: int
    idle: int


class Memory:
    """The model in its driver. `out` is what it drives in this cycle; `clock` ends the cycle."""

    def __init__(self, program: Path, latency: int, num: int = 1, den: int = 1, beat: int = BEAT) -> None:
        self.beat = beat
        self.process = subprocess.Popen([str(program), *map(str, (beat, SIZE, latency, num, den))], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.cycle = 0
        self._read()

    def _read(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if line.startswith("error "):
            self.process.wait()
            raise AssertionError(line)
        arready, rvalid, rlast, data, *rest = line.split()
        self.out = Out(int(arready), int(rvalid), int(rlast), data, *map(int, rest))

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        self._read()

    def clock(self, ar: tuple[int, int] | None = None, aw: tuple[int, int] | None = None, w: tuple[bytes, int] | None = None,
              rready: int = 1, bready: int = 1, burst: int = 1, size: int | None = None, strobe: int | None = None) -> Out:
        """One cycle with these on the channels: (address, beats), (data, last). Returns what the memory drove in it."""
        seen = self.out
        step = (self.beat.bit_length() - 1) if size is None else size
        address, beats = ar or (0, 1)
        into, count = aw or (0, 1)
        data, last = w or (bytes(self.beat), 0)
        mask = (1 << self.beat) - 1 if strobe is None else strobe
        self.tell(" ".join(map(str, (
            int(ar is not None), address, beats - 1, step, burst, rready, int(aw is not None), into, count - 1, step, burst,
            int(w is not None), data.hex(), mask, last, bready))))
        self.cycle += 1
        return seen

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait() == 0


@pytest.fixture
def memory(driver: Path) -> Iterator[object]:
    made: list[Memory] = []

    def make(*args: int, **named: int) -> Memory:
        made.append(Memory(driver, *args, **named))
        return made[-1]

    yield make
    for entry in made:
        entry.process.kill()
        entry.process.wait()


def contents() -> bytearray:
    return bytearray((i * 7 + i // 256) & 255 for i in range(SIZE))


def beats_seen(made: Memory, cycles: int) -> list[int]:
    """Cycles in which an R beat is taken, rready always high."""
    return [made.cycle - 1 for _ in range(cycles) if made.clock().rvalid]


@pytest.mark.parametrize("latency", [1, 2, 20])
def test_a_burst_begins_after_the_latency_and_keeps_the_bus_full(memory: object, latency: int) -> None:
    made = memory(latency)  # type: ignore[operator]
    assert made.clock(ar=(4096 - 8 * BEAT, 8)).arready
    assert beats_seen(made, latency + 20) == list(range(latency, latency + 8))
    assert (made.out.read, made.out.starved, made.out.idle) == (8, 0, 1)


def test_outstanding_bursts_hide_the_latency(memory: object) -> None:
    made = memory(30)  # type: ignore[operator]
    for burst in range(4):
        assert made.clock(ar=(burst * 16 * BEAT, 16)).arready
    assert beats_seen(made, 120) == list(range(30, 30 + 64))


@pytest.mark.parametrize(("num", "den"), [(1, 4), (3, 4), (2, 5)])
def test_beats_come_at_the_bandwidth(memory: object, num: int, den: int) -> None:
    made = memory(3, num, den)  # type: ignore[operator]
    for _ in range(20):
        made.clock()  # credit is kept for one beat only
    made.clock(ar=(0, 64))
    seen = beats_seen(made, 64 * den // num + 60)
    want, credit, at = [], den, seen[0]
    while len(want) < 64:
        if credit >= den:
            want.append(at)
            credit -= den
        credit = min(den, credit + num)
        at += 1
    assert seen == want
    assert made.out.starved == seen[-1] - seen[0] + 1 - 64


def test_writes_land_with_their_strobes_and_are_answered_after_the_latency(memory: object) -> None:
    made = memory(5)  # type: ignore[operator]
    data = bytes(range(BEAT))
    made.clock(aw=(2 * BEAT, 2))
    taken = []
    while len(taken) < 2:
        strobe = 0x00FF if taken else 0xFFFF
        if made.clock(w=(data, len(taken)), strobe=strobe).wready:
            taken.append(made.cycle - 1)
    assert taken == [2, 3], "WREADY follows WVALID by a cycle, then stays"
    answered = [made.cycle - 1 for _ in range(10) if made.clock().bvalid]
    assert answered == [taken[-1] + 5]
    made.clock(ar=(2 * BEAT, 2))
    got = [bytes.fromhex(out.rdata) for out in (made.clock() for _ in range(10)) if out.rvalid]
    assert got == [data, data[:8] + bytes(contents()[3 * BEAT + 8:4 * BEAT])]
    assert (made.out.written, made.out.read) == (2, 2)


def test_reads_and_writes_alternate(memory: object) -> None:
    made = memory(1)  # type: ignore[operator]
    made.clock(ar=(0, 64), aw=(4096, 64))
    order = ""
    left = 64
    for _ in range(200):
        out = made.clock(w=(bytes(BEAT), int(left == 1)) if left else None)
        left -= out.wready if left else 0
        order += "R" * out.rvalid + "W" * out.wready
    assert order.count("R") == order.count("W") == 64
    assert "RR" not in order.lstrip("R") and "WW" not in order.rstrip("W")


def test_at_most_64_bursts_are_taken(memory: object) -> None:
    made = memory(1000)  # type: ignore[operator]
    assert sum(made.clock(ar=(0, 1)).arready for _ in range(80)) == 64
    made = memory(1000)  # type: ignore[operator]
    assert sum(made.clock(aw=(0, 1)).awready for _ in range(80)) == 64


class Traffic:
    """A random master that keeps the rules, and checks every beat against its own bytes."""

    def __init__(self, made: Memory, seed: int) -> None:
        self.made, self.random, self.bytes = made, random.Random(seed), contents()
        self.ar: tuple[int, int] | None = None
        self.aw: tuple[int, int] | None = None
        self.w: tuple[bytes, int] | None = None
        self.reads: deque[list[int]] = deque()
        self.writes: deque[list[int]] = deque()
        self.answers = 0
        self.log: list[Out] = []

    def _burst(self, base: int) -> tuple[int, int]:
        first = self.random.randrange(SIZE // 2 // self.made.beat)
        beats = min(self.random.randint(1, 16), -first % (4096 // self.made.beat) or 16)
        return base + first * self.made.beat, min(beats, (SIZE // 2 // self.made.beat) - first)

    def cycle(self, more: bool) -> None:
        pick = self.random.random
        if more and self.ar is None and pick() < 0.3:
            self.ar = self._burst(0)
        if more and self.aw is None and pick() < 0.3:
            self.aw = self._burst(SIZE // 2)
        if self.w is None and self.writes and pick() < 0.7:
            self.w = bytes(self.random.randrange(256) for _ in range(self.made.beat)), int(self.writes[0][1] == 1)
        rready, bready = int(pick() < 0.8), int(pick() < 0.5)
        out = self.made.clock(ar=self.ar, aw=self.aw, w=self.w, rready=rready, bready=bready)
        self.log.append(out)
        if self.w and out.wready:
            burst = self.writes[0]
            self.bytes[burst[0]:burst[0] + self.made.beat] = self.w[0]
            burst[0], burst[1] = burst[0] + self.made.beat, burst[1] - 1
            if burst[1] == 0:
                self.writes.popleft()
            self.w = None
        if out.rvalid and rready:
            burst = self.reads[0]
            assert bytes.fromhex(out.rdata) == self.bytes[burst[0]:burst[0] + self.made.beat]
            burst[0], burst[1] = burst[0] + self.made.beat, burst[1] - 1
            assert out.rlast == (burst[1] == 0)
            if burst[1] == 0:
                self.reads.popleft()
        self.answers += out.bvalid and bready
        if self.ar and out.arready:
            self.reads.append(list(self.ar))
            self.ar = None
        if self.aw and out.awready:
            self.writes.append(list(self.aw))
            self.answers -= 1
            self.aw = None

    def run(self, cycles: int, saves: bool = False) -> None:
        stop = cycles
        while self.made.cycle < stop or not self.made.out.idle:
            self.cycle(self.made.cycle < stop)
            if saves and self.made.cycle % 7 == 0:
                self.made.tell("save")
            assert self.made.cycle < 20 * cycles


@pytest.mark.parametrize(("latency", "num", "den", "beat"), [(1, 1, 1, 16), (20, 1, 1, 8), (7, 1, 4, 64), (100, 3, 4, 16)])
def test_random_traffic(memory: object, latency: int, num: int, den: int, beat: int) -> None:
    made = memory(latency, num, den, beat=beat)  # type: ignore[operator]
    traffic = Traffic(made, latency)
    traffic.run(1500)
    assert not traffic.reads and not traffic.writes and traffic.answers == 0
    assert made.out.read > 100 and made.out.written > 100
    for at, out in enumerate(traffic.log):
        assert (out.read + out.written - 1) * den <= at * num + den, "never more beats than the bandwidth gives"
    for before, after in zip(traffic.log, traffic.log[1:], strict=False):
        ports = [(o.arready, o.rvalid, o.rvalid and (o.rdata, o.rlast), o.awready, o.wready, o.bvalid) for o in (before, after)]
        assert ports[0] == ports[1] or after.moved, "a change of the outputs is told"


def test_a_restored_memory_goes_on_as_the_saved_one(memory: object) -> None:
    logs = []
    for saves in (False, True):
        made = memory(9, 2, 3)  # type: ignore[operator]
        traffic = Traffic(made, 5)
        traffic.run(600, saves)
        logs.append(traffic.log)
    assert logs[0] == logs[1]


@pytest.mark.parametrize(("cycles", "message"), [
    ([{"ar": (4096 - BEAT, 2)}], "AR 4080: 2 beats cross a 4 KiB border"),
    ([{"aw": (4096 - BEAT, 2)}], "AW 4080: 2 beats cross a 4 KiB border"),
    ([{"ar": (SIZE, 1)}], f"AR {SIZE}: 16 bytes leave the memory of {SIZE}"),
    ([{"ar": (8, 1)}], "AR 8: not aligned to a beat"),
    ([{"ar": (0, 1), "burst": 0}], "AR 0: burst type 0, only INCR"),
    ([{"ar": (0, 1), "size": 3}], "AR 0: size 3 is not the bus width"),
    ([{"w": (bytes(BEAT), 1)}, {}], "W changed or withdrawn before WREADY"),
    ([{"w": (bytes(BEAT), 1)}, {"w": (b"\1" * BEAT, 1)}], "W changed or withdrawn before WREADY"),
    ([{"ar": (0, 1)}] * 64 + [{"ar": (0, 1)}, {}], "AR changed or withdrawn before ARREADY"),
    ([{"aw": (0, 1)}] * 64 + [{"aw": (0, 1)}, {"aw": (BEAT, 1)}], "AW changed or withdrawn before AWREADY"),
    ([{"aw": (0, 2), "w": (bytes(BEAT), 1)}] + [{"w": (bytes(BEAT), 1)}] * 3, "WLAST is high with 2 beats of the burst left"),
])
def test_broken_rules_are_named(memory: object, cycles: list[dict], message: str) -> None:
    made = memory(1000)  # type: ignore[operator]
    with pytest.raises(AssertionError, match=message):
        for cycle in cycles:
            made.clock(**cycle)


@pytest.mark.parametrize(("numbers", "message"), [((0, 1, 1), "latency must be at least 1 cycle, not 0"),
                                                  ((1, 0, 1), "not 0/1"), ((1, 3, 2), "not 3/2")])
def test_impossible_memories_are_refused(memory: object, numbers: tuple[int, int, int], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        memory(*numbers)  # type: ignore[operator]


@pytest.mark.parametrize(("good", "bad"), [
    ("in.arid, now_ + latency_}", "in.arid, now_ + latency_ + 1}"),
    ("burst.id, now_ + latency_}", "burst.id, now_ + latency_ - 1}"),
    ("std::min<uint64_t>(den_, credit_ + num_)", "credit_ + num_"),
    ("if (in.wstrb >> i & 1) ", ""),
    ("(!can_read || write_turn_)", "true"),
    ("out_.rlast = --burst.left == 0", "out_.rlast = --burst.left <= 1"),
    ("starved_ += can_read && !credit", "starved_ += can_read"),
    ("moved_ = !same || fresh_", "moved_ = !same"),
    ("reads_.size() < kOutstanding", "reads_.size() <= kOutstanding"),
    ("sequence(archive, answers_);", ""),
])
def test_a_mutated_model_is_caught(tmp_path: Path, good: str, bad: str) -> None:
    text = HEADER.read_text()
    assert text.count(good) == 1
    program = compiled(tmp_path, text.replace(good, bad))
    made: list[Memory] = []

    def make(*args: int, **named: int) -> Memory:
        made.append(Memory(program, *args, **named))
        return made[-1]

    with pytest.raises((AssertionError, IndexError, ValueError)):
        test_a_burst_begins_after_the_latency_and_keeps_the_bus_full(make, 2)
        test_beats_come_at_the_bandwidth(make, 2, 5)
        test_writes_land_with_their_strobes_and_are_answered_after_the_latency(make)
        test_reads_and_writes_alternate(make)
        test_at_most_64_bursts_are_taken(make)
        test_random_traffic(make, 7, 1, 4, 64)
        test_random_traffic(make, 1, 1, 1, 16)
        test_a_restored_memory_goes_on_as_the_saved_one(make)
    for entry in made:
        entry.process.kill()
        entry.process.wait()
