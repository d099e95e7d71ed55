"""The golden's benchmark: SpikingJelly runs the network that it is said to run, and what keeps the bench from running is said."""
import importlib.util
from pathlib import Path

import numpy as np
import pytest

import sim.bench_golden as bench
from sim.bench_golden import BenchError, golden_ratios

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "cifar10-tiny.toml"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "spikingjelly" else object())
    with pytest.raises(BenchError, match=r"^spikingjelly is not installed: .* pip install --no-deps spikingjelly==2.0.0$"):
        golden_ratios(CONFIG, np.zeros((1, 32, 32, 3), np.uint8), 1)


def test_a_missing_network_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="torch cannot be imported: install its CPU build, see `make help`")
    np.savez(tmp_path / "images.npz", images=np.zeros((1, 32, 32, 3), np.uint8))
    file = tmp_path / "mine.toml"
    file.write_text('network = "none.mstn"\n' + (ROOT / "configs" / "cifar10-tiny.toml").read_text())
    assert bench.main([str(file), str(tmp_path / "images.npz"), "1", "1"]) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'none.mstn'}: no such network file; make it with `make quantize`\n"


@pytest.mark.slow
@pytest.mark.parametrize("start", [0.5, 0.45])
def test_spikingjelly_is_the_stepwise_mode_and_with_another_start_is_not(monkeypatch: pytest.MonkeyPatch, start: float) -> None:
    torch = pytest.importorskip("torch", reason="torch cannot be imported: install its CPU build, see `make help`")
    pytest.importorskip("spikingjelly", reason="pip install --no-deps spikingjelly==2.0.0")
    from model import checkpoint

    monkeypatch.setattr(bench, "START", start)
    model, _ = checkpoint.load(CONFIG.with_suffix(".safetensors"))
    with np.load(ROOT / "configs" / "cifar10-sample.npz", allow_pickle=False) as sample:
        pixels = torch.from_numpy(sample["images"][:2]).permute(0, 3, 1, 2)
    if start == 0.5:
        bench._verify(model, pixels)
    else:
        with pytest.raises(BenchError, match="differs from the stepwise mode by"):
            bench._verify(model, pixels)
