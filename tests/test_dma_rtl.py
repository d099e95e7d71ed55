"""hwgen/dma.py on sim/axi_memory.py: programs, stops, faults, cycles; and that bench and memory model can fail."""
import re
from fractions import Fraction
from pathlib import Path

import pytest

from hwgen.config import MachineConfig
from hwgen.descriptors import Memory
from hwgen.dma import Dma
from hwgen.multipliers import multipliers
from sim.axi_memory import OUTPUTS, AxiError, AxiMemory, Timing
from sim.runner import Results, run_bench
from sim.tb.dma_cases import dma_verilog

# components whose constructor refused them are never elaborated

BENCHES = Path(__file__).resolve().parent.parent / "rtl" / "build" / "benches" / "dma"


def bench(name: str, simulator: str = "verilator", testcase: str | None = None, mutate: str = "") -> Results:
    folder = BENCHES / name
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "dut.v"
    text = dma_verilog(name)
    if not source.is_file() or source.read_text(encoding="utf-8") != text:
        source.write_text(text, encoding="utf-8")
    return run_bench(name=mutate or "run", toplevel="dut", sources=[source], build_dir=folder, test_module="sim.tb.tb_dma",
                     simulator=simulator, env={"MACHINE": name, "MUTATE": mutate}, testcase=testcase)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["narrow", "middle", "wide", "single"])
def test_transfers(name: str) -> None:
    """12 settings of latency, bandwidth and stalls; stops; faults; cycles of long and of many short transfers."""
    results = bench(name)
    assert (results.passed, results.failed) == (20, 0), results.summary()


@pytest.mark.slow
@pytest.mark.parametrize("testcase", ["programs/latency=20/one_in=4/stall=24", "stops/stall=24"])
def test_simulators_agree(any_simulator: str, testcase: str) -> None:
    results = bench("narrow", any_simulator, testcase)
    assert (results.passed, results.failed) == (1, 0), results.summary()


PROGRAM = "programs/latency=20/one_in=1/stall=24"


@pytest.mark.slow
@pytest.mark.parametrize(("mutate", "testcase", "message"), [
    ("word", PROGRAM, r"\(on-chip write\) differs: got \w+ word"),
    ("external", PROGRAM, r"external byte \d+ is 0x\w+, not 0x"),
    ("early", PROGRAM, r"came when steps was \d+: it must wait for \d+"),
    ("burst", PROGRAM, r"ar 0x\w+ x \d+, expected 0x\w+ x \d+"),
    ("counter", PROGRAM, r"reads is 0, 1 are done"),
    ("cycles", "long_transfers/latency=100", r"1 words of 64 bits took 103 cycles, predicted 104"),
    ("fault", "faults", "1 faults, expected 2"),
    ("stop", "stops/stall=24", "after stop"),
])
def test_bench_can_fail(mutate: str, testcase: str, message: str) -> None:
    """A wrong expectation turns the bench red, for the right reason."""
    results = bench("narrow", testcase=testcase, mutate=mutate)
    assert (results.passed, results.failed) == (0, 1), results.summary()
    assert re.search(message, results.tests[0].message), results.summary()


@pytest.mark.parametrize("name", ["narrow", "wide"])
def test_no_multiplier(name: str) -> None:
    """Words to beats without one, also where a word has 3 beats or 100 bits."""
    pytest.importorskip("pyverilog", reason="pyverilog is missing: pip install -e .[test]")
    assert multipliers(dma_verilog(name)) == []


SHAPES = {Memory.SPIKES: (24, 16)}


@pytest.mark.parametrize(("machine", "shapes", "message"), [
    (MachineConfig(transfers=4), SHAPES, "memory_bits is 0: a machine without external memory has no DMA"),
    (MachineConfig(memory_bits=64), SHAPES, "transfers is 0: a transfer program needs at least 1 entry"),
    (MachineConfig(memory_bits=64, transfers=4), {Memory.ROM: (8, 8)}, r"needs SPIKES or STREAM .*, not only \['ROM'\]"),
    (MachineConfig(memory_bits=64, transfers=4), SHAPES | {Memory.ROM: (8, 0)}, "memory ROM has 0 words of 8 bits"),
])
def test_dma_arguments(machine: MachineConfig, shapes: dict[Memory, tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dma(machine, shapes)


# sim/axi_memory.py

IDLE = dict.fromkeys(OUTPUTS, 0) | {"arsize": 3, "awsize": 3, "arburst": 1, "awburst": 1, "wstrb": 0xFF, "rready": 1, "bready": 1}


def read(address: int, beats: int) -> dict[str, int]:
    return IDLE | {"arvalid": 1, "araddr": address, "arlen": beats - 1}


def write(address: int, beats: int) -> dict[str, int]:
    return IDLE | {"awvalid": 1, "awaddr": address, "awlen": beats - 1}


def word(value: int, last: int = 0) -> dict[str, int]:
    return IDLE | {"wvalid": 1, "wdata": value, "wlast": last}


def test_memory_timing() -> None:
    """Latency from AR to the first beat, then a beat a cycle, or one in four."""
    for bandwidth, cycles in ((Fraction(1), [7, 8, 9, 10]), (Fraction(1, 4), [7, 11, 15, 19]), (Fraction(3, 4), [7, 8, 9, 11])):
        memory = AxiMemory(bytearray(range(64)), timing=Timing(latency=7, bandwidth=bandwidth))
        given = [memory.step(read(8, 4))] + [memory.step(IDLE) for _ in range(20)]
        assert [at for at, signals in enumerate(given) if signals["rvalid"]] == cycles
        assert [given[at]["rdata"] for at in cycles] == [
            int.from_bytes(bytes(range(at, at + 8)), "little") for at in (8, 16, 24, 32)]
        assert [given[at]["rlast"] for at in cycles] == [0, 0, 0, 1] and memory.quiet


def test_memory_writes() -> None:
    """W shares the bandwidth with R in turn, B comes a latency after the last W, and only then is the data there."""
    memory = AxiMemory(bytearray(64), timing=Timing(latency=3))
    memory.step(write(0, 2))
    memory.step(IDLE)
    for beat, ready in ((1, 1), (2, 1)):
        assert memory.step(word(beat, beat - 1))["wready"] == ready
    memory.step(IDLE)
    memory.step(IDLE)
    assert memory.data == bytes(64)
    assert memory.step(IDLE)["bvalid"] == 1
    assert memory.data[:16] == bytes([1] + 7 * [0] + [2] + 7 * [0])

    shared = AxiMemory(bytearray(128), timing=Timing(latency=1))
    shared.step(write(0, 8) | {"arvalid": 1, "araddr": 64, "arlen": 7})
    served = [shared.step(word(0)) for _ in range(6)]
    assert [(signals["rvalid"], signals["wready"]) for signals in served] == [(1, 0), (0, 1)] * 3


def test_memory_errors_are_injected() -> None:
    memory = AxiMemory(bytearray(64), timing=Timing(latency=1), errors=[1], write_errors=[0])
    steps = [read(0, 3), IDLE, IDLE, IDLE, write(0, 1), word(5, 1), IDLE]
    given = [memory.step(step) for step in steps]
    assert [signals["rresp"] for signals in given if signals["rvalid"]] == [0, 2, 0]
    assert [signals["bresp"] for signals in given if signals["bvalid"]] == [2] and memory.data == bytes(64)


def test_memory_stalls_repeat() -> None:
    def run(seed: int) -> list[int]:
        memory = AxiMemory(bytearray(64), timing=Timing(stall=32, seed=seed))
        return [memory.step(IDLE)["arready"] for _ in range(64)]

    assert run(1) == run(1) != run(2)
    assert 16 < sum(run(1)) < 48


@pytest.mark.parametrize(("steps", "message"), [
    ([read(4096 - 8, 2)], "AR burst of 2 beats at 0xff8 crosses 4 KiB"),
    ([read(4, 1)], "AR address 0x4 is not aligned to 8 bytes"),
    ([read(8192, 1)], "AR burst of 1 beats at 0x2000 lies outside the memory"),
    ([write(0, 1) | {"awburst": 0}], r"AW must be INCR \(1\), whole beats, not 0 of size 3"),
    ([read(0, 1) | {"arsize": 2}], r"AR must be INCR \(1\), whole beats, not 1 of size 2"),
    ([word(1, 1)], "a W beat came before the AW of its burst"),
    ([write(0, 2), word(1, 1)], "WLAST is 1 at beat 1 of 2"),
    ([write(0, 1), word(1, 0)], "WLAST is 0 at beat 1 of 1"),
    ([write(0, 1), word(1, 1) | {"wstrb": 1}], "WSTRB is 0x1, not all ones"),
    ([write(0, 1) | word(1, 1) | {"awvalid": 1}, IDLE], "WVALID was withdrawn before WREADY"),
    ([write(0, 1) | word(1, 1) | {"awvalid": 1}, word(2, 1)], r"W changed from \(1, 255, 1\) to \(2, 255, 1\) before WREADY"),
    ([read(0, 1), read(8, 1), read(16, 1)], "AR: more than 2 bursts under way"),
    ([write(0, 1), write(8, 1), write(16, 1)], "AW: more than 2 bursts under way"),
])
def test_memory_refuses_broken_rules(steps: list[dict[str, int]], message: str) -> None:
    memory = AxiMemory(bytearray(8192), timing=Timing(latency=50), outstanding=2)
    for step in steps[:-1]:
        memory.step(step)
    with pytest.raises(AxiError, match=message):
        memory.step(steps[-1])


@pytest.mark.parametrize(("arguments", "message"), [
    ({"latency": 0}, "at least 1 cycle, not 0"),
    ({"bandwidth": Fraction(0)}, "above 0 and at most 1 beat a cycle, not 0"),
    ({"bandwidth": Fraction(3, 2)}, "not 3/2"),
    ({"stall": 64}, "stall must be 0 to 63 in 1/64, not 64"),
    ({"seed": 0}, "must be 1 to 2.32 - 1, not 0"),
])
def test_timing_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Timing(**arguments)  # type: ignore[arg-type]
