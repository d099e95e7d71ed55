"""hwgen/attention_divide.py: quotients as Python's integers have them, and their neurons, in their cycles."""
from pathlib import Path

import pytest

from sim.tb.duts import bench


def test_rows(bench_dir: Path, any_simulator: str) -> None:
    results = bench(bench_dir.parent / "builds", "attention_divide", "steps", any_simulator)
    assert (results.passed, results.failed) == (4, 0), results.summary()


@pytest.mark.parametrize("machine", ["steps_single", "steps_quad"])
def test_other_row_counts(bench_dir: Path, any_icarus: str, machine: str) -> None:
    """1 and 4 rows a pass. On Icarus only: its builds are quick."""
    results = bench(bench_dir.parent / "builds", "attention_divide", machine, any_icarus)
    assert (results.passed, results.failed) == (4, 0), results.summary()


@pytest.mark.parametrize(("mutate", "message"), [
    ("rounded", "differs: got ("), ("short", "differs: got ("), ("forgotten", "differs: got ("), ("late", "differs: got ("),
    ("kept", "1, None)"),
])
def test_bench_can_fail(bench_dir: Path, mutate: str, message: str) -> None:
    """A wrong expectation turns the bench red, for the right reason."""
    results = bench(bench_dir.parent / "builds", "attention_divide", "steps", mutate=mutate, testcase="layers/slack=0/slow=0")
    assert (results.passed, results.failed) == (0, 1) and message in results.tests[0].message, results.summary()
