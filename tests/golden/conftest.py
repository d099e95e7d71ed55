"""The naive golden as a fixture: test files are no package, so they cannot import each other."""
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def naive() -> ModuleType:
    """tests/golden/naive.py."""
    spec = importlib.util.spec_from_file_location("golden_naive", Path(__file__).with_name("naive.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
