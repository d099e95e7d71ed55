"""hwgen/gemm.py: whole tiles, and their cycles against hwgen/gemm_cycles.py."""
from pathlib import Path

import pytest

from sim.tb.duts import bench


@pytest.mark.parametrize("machine", ["narrow", "wide"])
def test_machine(bench_dir: Path, machine: str) -> None:
    results = bench(bench_dir.parent / "builds", "gemm", machine)
    assert results.passed and not results.failed, results.summary()


def test_binary(bench_dir: Path, any_icarus: str) -> None:
    """On Icarus only: its builds are quick."""
    results = bench(bench_dir.parent / "builds", "gemm", "binary", any_icarus)
    assert results.passed and not results.failed, results.summary()


@pytest.mark.parametrize(("mutate", "testcase", "message"), [
    ("greater", "tiles/density=0.4", "differs: got"),
    ("shift", "tiles/density=0.4", "differs: got"),
    ("cycles", "tiles/density=0.05", "measured"),
])
def test_bench_can_fail(bench_dir: Path, mutate: str, testcase: str, message: str) -> None:
    """A wrong expectation turns the bench red, for the right reason."""
    results = bench(bench_dir.parent / "builds", "gemm", "narrow", mutate=mutate, testcase=testcase)
    assert (results.passed, results.failed) == (0, 1) and message in results.tests[0].message, results.summary()
