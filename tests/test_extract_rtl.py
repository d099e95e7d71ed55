"""hwgen/extract.py: every emission, in order, under every mix of sparsity and hold."""
from pathlib import Path

import pytest

from sim.tb.duts import bench


def test_narrow(bench_dir: Path, any_simulator: str) -> None:
    results = bench(bench_dir.parent / "builds", "extract", "narrow", any_simulator)
    assert results.passed and not results.failed, results.summary()


@pytest.mark.parametrize("machine", ["wide", "grouped"])  # grouped: more lanes than are searched together
def test_two_ports(bench_dir: Path, machine: str) -> None:
    results = bench(bench_dir.parent / "builds", "extract", machine)
    assert results.passed and not results.failed, results.summary()


@pytest.mark.parametrize(("mutate", "testcase", "message"), [
    ("shift", "matrix/density=0.5/stall=2", "differs: got Emission"),
    ("plane", "matrix/density=0.5/stall=0", "differs: got Emission"),
    ("zero", "matrix/density=0.1/stall=0", "differs: got Emission"),
])
def test_bench_can_fail(bench_dir: Path, mutate: str, testcase: str, message: str) -> None:
    """A wrong expectation turns the bench red, for the right reason."""
    results = bench(bench_dir.parent / "builds", "extract", "narrow", mutate=mutate, testcase=testcase)
    assert (results.passed, results.failed) == (0, 1) and message in results.tests[0].message, results.summary()
