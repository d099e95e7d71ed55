"""hwgen/potential.py: sums, spikes and kept potentials of several time steps, in their cycles."""
from pathlib import Path

import pytest

from sim.tb.duts import bench


def test_steps(bench_dir: Path, any_simulator: str) -> None:
    results = bench(bench_dir.parent / "builds", "potential", "steps", any_simulator)
    assert (results.passed, results.failed) == (4, 0), results.summary()


@pytest.mark.parametrize("machine", ["steps_single", "steps_quad"])
def test_other_levels(bench_dir: Path, any_icarus: str, machine: str) -> None:
    """L of 1 and of 15. On Icarus only: its builds are quick."""
    results = bench(bench_dir.parent / "builds", "potential", machine, any_icarus)
    assert (results.passed, results.failed) == (4, 0), results.summary()


@pytest.mark.parametrize(("mutate", "testcase", "message"), [
    ("greater", "neurons/gap=0/enable=1", "spikes"),
    ("reset", "neurons/gap=0/enable=1", "later steps: sums"),
    ("forgotten", "neurons/gap=0/enable=1", "later steps: sums"),
    ("forgotten", "neurons/gap=3/enable=0", "later steps: sums"),
    ("initial", "neurons/gap=3/enable=1", "first step: sums"),
])
def test_bench_can_fail(bench_dir: Path, mutate: str, testcase: str, message: str) -> None:
    """A wrong expectation turns the bench red, for the right reason."""
    results = bench(bench_dir.parent / "builds", "potential", "steps", mutate=mutate, testcase=testcase)
    assert (results.passed, results.failed) == (0, 1) and message in results.tests[0].message, results.summary()
