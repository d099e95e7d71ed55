"""hwgen/gemm.py: whole tiles, and their cycles against hwgen/gemm_cycles.py."""
from pathlib import Path

import pytest

from sim.tb.duts import bench


@pytest.mark.parametrize("machine", ["narrow", "wide", "steps"])
def test_machine(bench_dir: Path, machine: str) -> None:
    results = bench(bench_dir.parent / "builds", "gemm", machine)
    assert results.passed and not results.failed, results.summary()


def test_binary(bench_dir: Path, any_icarus: str) -> None:
    """On Icarus only: its builds are quick."""
    results = bench(bench_dir.parent / "builds", "gemm", "binary", any_icarus)
    assert results.passed and not results.failed, results.summary()


@pytest.mark.parametrize(("machine", "mutate", "testcase", "message"), [
    ("narrow", "greater", "tiles/density=0.4", "differs: got"),
    ("narrow", "shift", "tiles/density=0.4", "differs: got"),
    ("narrow", "cycles", "tiles/density=0.05", "measured"),
    ("steps", "sums", "tiles/density=0.4", "step 2 logits"),
])
def test_bench_can_fail(bench_dir: Path, machine: str, mutate: str, testcase: str, message: str) -> None:
    """A wrong expectation turns the bench red, for the right reason."""
    results = bench(bench_dir.parent / "builds", "gemm", machine, mutate=mutate, testcase=testcase)
    assert (results.passed, results.failed) == (0, 1) and message in results.tests[0].message, results.summary()
