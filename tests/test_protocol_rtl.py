"""AXI compliance of the whole machine: the monitor of sim/protocol.py beside it, under random stalls, and never ready."""
from pathlib import Path

import pytest

from hwgen.config import MachineConfig
from model.config import Config, MaskingConfig, QuantizeConfig, TrainConfig
from quantize.random_network import random_images, random_network
from sim.matrix import CASES
from sim.run import Outcome, simulate
from sim.runner import Results, run_bench
from sim.wrapper import WRAPPER

pytestmark = pytest.mark.slow

CASE = next(case for case in CASES if case.name == "w2-L7")
FOLDER = Path("rtl/build/benches/test_protocol_rtl").resolve()


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """A run without stalls on the build that the benches below share; its top bench checks the protocol too."""
    config = Config(CASE.name, CASE.model, MaskingConfig(), TrainConfig(), QuantizeConfig(), {})
    return simulate(config, random_network(CASE.model, 1), random_images(CASE.model, 1, 1), folder=FOLDER,
                    machine=MachineConfig(lanes=8, fire_lanes=4, attention_rows=1, bus_bytes=4))


def bench(outcome: Outcome, testcase: str, **env: str) -> Results:
    work = outcome.build.folder / "sim"
    return run_bench(name=f"{testcase}{''.join(env)}", toplevel=WRAPPER, sources=[outcome.build.verilog, work / f"{WRAPPER}.v"],
                     test_module="sim.tb.tb_protocol", build_dir=work, testcase=testcase,
                     env={"MST_JOB": str(work / "job.json"), **env})


@pytest.mark.parametrize("testcase", ["random_stalls", "valid_waits_for_no_ready"])
def test_no_rule_is_broken(outcome: Outcome, testcase: str) -> None:
    assert outcome.verdict.failures == []
    results = bench(outcome, testcase)
    assert (results.passed, results.failed) == (1, 0), results.summary()


def test_the_bench_can_fail(outcome: Outcome) -> None:
    results = bench(outcome, "random_stalls", PROTOCOL_BREAK="1")
    assert (results.passed, results.failed) == (0, 1)
    assert "s_axis_t.withdrawn" in results.tests[0].message
