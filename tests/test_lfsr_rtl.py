"""hwgen/lfsr.py against model.masking."""
from pathlib import Path

import pytest

from sim.tb.duts import bench


def test_narrow(bench_dir: Path, any_simulator: str) -> None:
    results = bench(bench_dir.parent / "builds", "lfsr", "narrow", any_simulator)
    assert results.passed and not results.failed, results.summary()


@pytest.mark.parametrize(("mutate", "testcase", "message"), [
    ("leap", "stream", "got"),
])
def test_bench_can_fail(bench_dir: Path, mutate: str, testcase: str, message: str) -> None:
    """A wrong expectation turns the bench red, for the right reason."""
    results = bench(bench_dir.parent / "builds", "lfsr", "narrow", mutate=mutate, testcase=testcase)
    assert (results.passed, results.failed) == (0, 1) and message in results.tests[0].message, results.summary()
