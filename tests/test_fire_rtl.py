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


def test_time_steps(bench_dir: Path) -> None:
    """A stepwise machine."""
    results = bench(bench_dir.parent / "builds", "fire", "steps")
    assert (results.passed, results.failed) == (8, 0), results.summary()


MUTATIONS = [
    ("narrow", "greater", "tiles/after=1/idle=0", "differs: got cycle"),
    ("narrow", "round", "tiles/after=2/idle=0", "differs: got cycle"),
    ("narrow", "mask", "tiles/after=0/idle=4", "differs: got cycle"),
    ("steps", "greater", "tiles/after=0/idle=0", "step 0 spike"),
    ("steps", "norm", "tiles/after=1/idle=0", "step 1 spike"),
    ("steps", "redrawn", "tiles/after=0/idle=4", "step 1 spike"),
    ("steps", "sums", "tiles/after=3/idle=0", "step 2 logits"),
]


@pytest.mark.parametrize(("machine", "mutate", "testcase", "message"), MUTATIONS)
def test_bench_can_fail(bench_dir: Path, machine: str, mutate: str, testcase: str, message: str) -> None:
    """A wrong expectation turns the bench red, for the right reason."""
    results = bench(bench_dir.parent / "builds", "fire", machine, mutate=mutate, testcase=testcase)
    assert (results.passed, results.failed) == (0, 1) and message in results.tests[0].message, results.summary()
