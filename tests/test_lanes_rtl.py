"""hwgen/lanes.py: exact sums, and when they are ready."""
from pathlib import Path

import pytest

from sim.tb.duts import bench


def test_narrow(bench_dir: Path, any_simulator: str) -> None:
    results = bench(bench_dir.parent / "builds", "lanes", "narrow", any_simulator)
    assert results.passed and not results.failed, results.summary()


def test_binary(bench_dir: Path) -> None:
    results = bench(bench_dir.parent / "builds", "lanes", "binary")
    assert results.passed and not results.failed, results.summary()


@pytest.mark.parametrize(("mutate", "testcase", "message"), [
    ("shift", "sums/idle=0/empty=0.5", "differs: got"),
    ("late", "sums/idle=3/empty=0.0", "ready in cycle"),
])
def test_bench_can_fail(bench_dir: Path, mutate: str, testcase: str, message: str) -> None:
    """A wrong expectation turns the bench red, for the right reason."""
    results = bench(bench_dir.parent / "builds", "lanes", "narrow", mutate=mutate, testcase=testcase)
    assert (results.passed, results.failed) == (0, 1) and message in results.tests[0].message, results.summary()
