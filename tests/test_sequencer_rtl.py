"""hwgen/sequencer.py: events, jobs and mask states of random programs, cycle for cycle."""
from pathlib import Path

import pytest

from hwgen.sequencer import FETCH_CYCLES
from sim.tb.duts import bench

MUTATIONS = {
    "cycles": ("programs/longest=4/stall=0", f"expected ({FETCH_CYCLES - 1},"),
    "handover": ("programs/longest=120/stall=0", "dispatch of cycle"),
    "mask": ("programs/longest=4/stall=0", "start_"),
    "payload": ("programs/longest=4/stall=0", "start_"),
    "restart": ("programs/longest=4/stall=0", "dispatch of cycle"),
    "results": ("programs/longest=4/stall=50", "dispatch of cycle"),
    "sync": ("programs/longest=4/stall=0", "stalled"),
    "steps": ("programs/longest=4/stall=0", "steps is"),
    "stalled": ("programs/longest=4/stall=0", "stalled"),
    "halt": ("stops/cause=failed", "(0, 1)), expected"),
}
"""For each wrong expectation a test that must see it, and its message."""
STEPWISE = {
    "seed": ("programs/longest=4/stall=0", "start_"),
    "image": ("programs/longest=4/stall=0", "start_image of cycle"),
    "early": ("programs/longest=4/stall=0", "image_done of cycle"),
    "initial": ("programs/longest=4/stall=0", "initial and last_step are (0, "),
}
"""The same of a stepwise machine."""


def test_programs(bench_dir: Path, any_simulator: str) -> None:
    results = bench(bench_dir.parent / "builds", "sequencer", "narrow", any_simulator)
    assert (results.passed, results.failed) == (7, 0), results.summary()


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_bench_can_fail(bench_dir: Path, mutate: str) -> None:
    """A wrong expectation turns the bench red, for the right reason."""
    testcase, message = MUTATIONS[mutate]
    results = bench(bench_dir.parent / "builds", "sequencer", "narrow", mutate=mutate, testcase=testcase)
    assert (results.passed, results.failed) == (0, 1) and message in results.tests[0].message, results.summary()


def test_time_steps(bench_dir: Path) -> None:
    """A stepwise machine's runs."""
    results = bench(bench_dir.parent / "builds", "sequencer", "steps")
    assert (results.passed, results.failed) == (7, 0), results.summary()


@pytest.mark.parametrize("mutate", STEPWISE)
def test_bench_of_time_steps_can_fail(bench_dir: Path, mutate: str) -> None:
    """A wrong expectation turns the bench red, for the right reason."""
    testcase, message = STEPWISE[mutate]
    results = bench(bench_dir.parent / "builds", "sequencer", "steps", mutate=mutate, testcase=testcase)
    assert (results.passed, results.failed) == (0, 1) and message in results.tests[0].message, results.summary()
