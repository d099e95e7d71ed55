"""Set-up shared by all tests: where builds go, and how a missing tool becomes a skip that says what to install."""
import importlib.util
import os
import re
import traceback
from collections.abc import Generator
from pathlib import Path

import pytest

from sim.runner import SIMULATORS, SimulatorMissing, find_simulator

ROOT = Path(__file__).resolve().parent.parent
TORCH_HINT = "torch cannot be imported: install its CPU build, see the note on torch in `make help`"


def torch_problem(error: BaseException | None) -> str:
    """Why a test cannot run without torch, "" when `error` (or what caused it) is about something else."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "torch":
            return TORCH_HINT
        if isinstance(error, ImportError | OSError):  # installed, but broken: the error comes out of torch's own import
            files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
            if any(Path(file).parts[-2:] == ("torch", "__init__.py") for file in files[-3:]):
                return f"{TORCH_HINT} ({error})"
        error = error.__cause__ or error.__context__
    return ""


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[
        None, pytest.CollectReport, pytest.CollectReport]:
    """A test file that imports torch is skipped where torch cannot be imported, not an error."""
    report = yield
    call = getattr(report, "call", None)
    if report.failed and call is not None and call.excinfo is not None:
        why = torch_problem(call.excinfo.value)
        if why:
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 0, f"Skipped: {why}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[
        None, pytest.TestReport, pytest.TestReport]:
    """Likewise for a test that imports torch while it runs."""
    report = yield
    if report.failed and call.excinfo is not None:
        why = torch_problem(call.excinfo.value)
        if why:
            report.outcome = "skipped"
            report.longrepr = (str(item.path), 0, f"Skipped: {why}")
    return report


def pytest_report_header() -> list[str]:
    """Which optional tools this run has."""
    lines = ["torch: " + ("found" if importlib.util.find_spec("torch") else "MISSING, its tests are skipped")]
    for name in SIMULATORS:
        try:
            lines.append(f"{name}: {find_simulator(name).version}")
        except SimulatorMissing as error:
            lines.append(f"{name}: MISSING ({error})")
    return lines


@pytest.fixture
def any_icarus() -> str:
    """Icarus, or a skip that says what to install."""
    try:
        find_simulator("icarus")
    except SimulatorMissing as error:
        pytest.skip(str(error))
    return "icarus"


@pytest.fixture(params=SIMULATORS)
def any_simulator(request: pytest.FixtureRequest) -> str:
    """Each simulator in turn; Icarus is optional and skipped with what to install, Verilator is not."""
    name = str(request.param)
    if name == "icarus":
        try:
            find_simulator(name)
        except SimulatorMissing as error:
            pytest.skip(str(error))
    return name


@pytest.fixture
def bench_dir(request: pytest.FixtureRequest) -> Path:
    """A build folder of the test's own that stays between runs, so that an unchanged design is not built again.

    It lies under rtl/build/benches (`make clean` removes it); tests that differ only in `any_simulator` share it.
    """
    module = Path(str(request.node.path)).stem
    name = re.sub(r"[^\w.=-]+", "_", re.sub("|".join(f"-?{s}-?" for s in SIMULATORS), "", request.node.name)).strip("_")
    folder = ROOT / "rtl" / "build" / "benches" / module / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def clean_env() -> dict[str, str]:
    """os.environ without what make and pytest add, for tests that start make themselves."""
    drop = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTEST_CURRENT_TEST"} | {
        "CONFIG", "SIM", "WAVES", "IMAGES", "MASK", "SEED", "ARGS"}
    return {key: value for key, value in os.environ.items() if key not in drop}
