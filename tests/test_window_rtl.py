"""The stream window: its bench on both simulators, and that it can fail."""
import re
from pathlib import Path

import pytest

from hwgen.__main__ import main
from hwgen.window import StreamWindow, axi_lite
from sim.runner import Results, SimulatorMissing, find_simulator, run_bench
from sim.tb.window_dut import verilog_of

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
    ("results/idle=0/stall=0", "WINDOW_LOGIT", r"\(logit 0\) differs"),
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


def test_emitted_behind_a_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`emit --mmio` writes one module whose only bus is AXI4-Lite of 13 address bits."""
    config = tmp_path / "small.toml"
    config.write_text("[model]\nimage_size = 8\nin_channels = 3\nclasses = 10\npatch = 2\nembedding = 16\ndepths = [1]\n"
                      "heads = [2]\nwindow = 2\nmlp_ratio = 2.0\nlevels = 7\n"
                      "[machine]\nlanes = 8\nfire_lanes = 4\nattention_rows = 1\n")
    assert main(["emit", "--config", str(config), "--random-weights", "1", "--mmio", "-o", str(tmp_path / "build")]) == 0
    text = (tmp_path / "build" / "mst_mmio.v").read_text()
    assert "mst_mmio.v: behind a stream window" in capsys.readouterr().out
    ports = re.search(r"\nmodule mst_mmio\(([^)]*)\)", text)
    assert ports is not None
    names = {name.strip() for name in ports[1].split(",")}
    assert names == {"clk", "rst", "irq", *axi_lite("s_axil", 13)}
    assert re.search(r"input \[12:0\] s_axil_awaddr", text)
