"""The naive goldens as fixtures: test files are no package, so they cannot import each other."""
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"golden_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def naive() -> ModuleType:
    """tests/golden/naive.py."""
    return _module("naive")


@pytest.fixture(scope="session")
def naive_stepwise() -> ModuleType:
    """tests/golden/naive_stepwise.py."""
    return _module("naive_stepwise")
