"""hwgen/memory.py in RTL against a Python list; test_host_rtl.py has what its constructors refuse."""
from pathlib import Path

import pytest

from sim.tb.duts import bench

MUTATIONS = {
    "held": "cycle",
    "loadable": "of fixed_read",
    "init": f"cycle {5 + 1} of rows_read0",
    "write": "cycle",
}
"""What a wrong expectation breaks first."""


@pytest.mark.parametrize("name", ["narrow", "deep"])
def test_memories(bench_dir: Path, name: str, any_simulator: str) -> None:
    """Words of 24 and of 64 bits, depths of 23 and of 13."""
    results = bench(bench_dir.parent / "builds", "memory", name, any_simulator)
    assert (results.passed, results.failed) == (1, 0), results.summary()


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_bench_can_fail(bench_dir: Path, mutate: str) -> None:
    """A wrong expectation turns the bench red, for the right reason."""
    results = bench(bench_dir.parent / "builds", "memory", "narrow", mutate=mutate)
    assert (results.passed, results.failed) == (0, 1), results.summary()
    assert MUTATIONS[mutate] in results.tests[0].message, results.summary()
