"""hwgen/fire.py: every write and logit, with its address and its cycle."""
from pathlib import Path

import pytest

from sim.tb.duts import bench


def test_narrow(bench_dir: Path, any_simulator: str) -> None:
    results = bench(bench_dir.parent / "builds", "fire", "narrow", any_simulator)
    assert results.passed and not results.failed, results.summary()


def test_deep(bench_dir: Path) -> None:
    results = bench(bench_dir.parent / "builds", "fire", "deep")
    assert results.passed and not results.failed, results.summary()


@pytest.mark.parametrize(("mutate", "testcase", "message"), [
    ("greater", "tiles/after=1/idle=0", "differs: got cycle"),
    ("round", "tiles/after=2/idle=0", "differs: got cycle"),
    ("mask", "tiles/after=0/idle=4", "differs: got cycle"),
])
def test_bench_can_fail(bench_dir: Path, mutate: str, testcase: str, message: str) -> None:
    """A wrong expectation turns the bench red, for the right reason."""
    results = bench(bench_dir.parent / "builds", "fire", "narrow", mutate=mutate, testcase=testcase)
    assert (results.passed, results.failed) == (0, 1) and message in results.tests[0].message, results.summary()
