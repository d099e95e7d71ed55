"""The stream window: its bench on both simulators, and that it can fail."""
import re
from pathlib import Path

import pytest

from hwgen.window import StreamWindow
from sim.runner import Results, SimulatorMissing, find_simulator, run_bench
from sim.tb.window_dut import verilog_of

pytestmark = pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")

BUILDS = Path(__file__).resolve().parent.parent / "rtl" / "build" / "benches" / "test_window_rtl"


def bench(bus: int, simulator: str, run: str = "window", testcase: str | None = None, **env: str) -> Results:
    folder = BUILDS / str(bus)
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "dut.v"
    text = verilog_of(bus)
    if not source.is_file() or source.read_text() != text:
        source.write_text(text)
    return run_bench(name=run, toplevel="dut", sources=[source], test_module="sim.tb.tb_window", build_dir=folder,
                     simulator=simulator, env={"WINDOW": str(bus), **env}, testcase=testcase)


@pytest.mark.parametrize(("bus", "simulator"), [(8, "verilator"), (4, "icarus")])
def test_window(bus: int, simulator: str) -> None:
    try:
        find_simulator(simulator)
    except SimulatorMissing as error:
        if simulator == "verilator":
            raise
        pytest.skip(str(error))
    results = bench(bus, simulator)
    assert (results.passed, results.failed) == (15, 0), results.summary()


@pytest.mark.parametrize(("testcase", "variable", "message"), [
    ("packets/idle=0/stall=0", "WINDOW_WRONG", r"\(packet 3\) differs"),
    ("packets/idle=0/stall=0", "WINDOW_EXTRA", "1 of 13 missing"),
    ("results/idle=0/stall=0", "WINDOW_LOGIT", r"\(logit 0 of 0\) differs"),
    ("first_values", "WINDOW_ROOM", ""),
])
def test_bench_can_fail(testcase: str, variable: str, message: str) -> None:
    results = bench(8, "verilator", variable, testcase, **{variable: "1"})
    assert (results.passed, results.failed) == (0, 1), results.summary()
    assert re.search(message, results.tests[0].message)


@pytest.mark.parametrize(("arguments", "message"), [
    ((3,), "bus_bytes must be 4 or 8, not 3"),
    ((8, 1), "beats must be 2 to 65535, not 1"),
    ((8, 65536), "beats must be 2 to 65535, not 65536"),
    ((8, 64, 0), "logits must be 1 to 1024, not 0"),
    ((8, 64, 1025), "logits must be 1 to 1024, not 1025"),
])
def test_arguments(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamWindow(*arguments)
