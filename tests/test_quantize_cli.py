"""`python -m quantize`: what it writes, and one line with exit code 2 for whatever it refuses."""
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoint import save
from model.config import load
from model.mst import MST
from quantize.__main__ import main
from quantize.network import load as load_network
from sim import images

CONFIG = """
[model]
image_size = 32
in_channels = 3
classes = 10
patch = 4
embedding = 8
depths = [1, 1]
heads = [1, 2]
window = 4
mlp_ratio = 2.0
levels = 7
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration, an untrained checkpoint and twenty images posing as CIFAR-10's test set."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MST_DATA", raising=False)
    (tmp_path / "tiny.toml").write_text(CONFIG)
    config = load(tmp_path / "tiny.toml")
    torch.manual_seed(1)
    save(tmp_path / "tiny.safetensors", MST(config.model, config.masking).eval(), {})
    batches = tmp_path / "data" / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    random = np.random.default_rng(0)
    batch = {b"data": random.integers(0, 256, (70, 3072), np.uint8), b"labels": random.integers(0, 10, 70).tolist()}
    (batches / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1, captured
    return captured.err


def test_export_then_accuracy(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "tiny.accuracy.json").write_text(json.dumps({"images": 70, "qcfs": 0.125, "integer": 0.99}))
    assert main(["export", "--config", "tiny.toml"]) == 0
    assert "written" in capsys.readouterr().out
    # An integer accuracy that was measured on another network is not carried over.
    assert load_network("tiny.mstn").notes == {"accuracy": {"images": 70, "qcfs": 0.125}}
    before = (place / "tiny.mstn").stat().st_mtime_ns
    assert main(["export", "--config", "tiny.toml"]) == 0
    assert "unchanged" in capsys.readouterr().out and (place / "tiny.mstn").stat().st_mtime_ns == before

    assert main(["accuracy", "--config", "tiny.toml", "--images", "70", "--agreement-images", "8", "--record"]) == 0
    measured = json.loads((place / "tiny.accuracy.json").read_text())
    assert measured["qcfs"] == 0.125 and measured["integer_images"] == 70 and 0 <= measured["integer"] <= 1
    assert load_network("tiny.mstn").notes == {"accuracy": measured}
    text = (place / "runs" / "results" / "tiny-agreement.md").read_text()
    assert "`python -m quantize accuracy --config tiny.toml --agreement-images 8`" in text
    assert "| s1.b0.scores |" in text and f"integer network {100 * measured['integer']:.2f} %" in text
    assert main(["export", "--config", "tiny.toml"]) == 0
    assert load_network("tiny.mstn").notes == {"accuracy": measured}


def test_a_part_of_the_test_set_is_not_noted(place: Path) -> None:
    assert main(["export", "--config", "tiny.toml"]) == 0
    assert main(["accuracy", "--config", "tiny.toml", "--images", "10", "--agreement-images", "5"]) == 0
    assert not (place / "tiny.accuracy.json").exists() and load_network("tiny.mstn").notes == {}
    text = (place / "runs" / "results" / "tiny-agreement.md").read_text()
    assert "`python -m quantize accuracy --config tiny.toml --images 10 --agreement-images 5`" in text
    assert main(["accuracy", "--config", "tiny.toml"]) == 0
    assert not (place / "tiny.accuracy.json").exists(), "not asked for"
    assert main(["accuracy", "--config", "tiny.toml", "--images", "10", "--record"]) == 2
    assert main(["accuracy", "--config", "tiny.toml", "--record"]) == 0, "all images, however many there are"
    assert json.loads((place / "tiny.accuracy.json").read_text())["integer_images"] == 70


def test_a_configuration_may_use_another_s_network_but_not_overwrite_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--config", "tiny.toml"]) == 0
    (place / "wide.toml").write_text('network = "tiny.mstn"\n' + CONFIG)
    assert main(["accuracy", "--config", "wide.toml", "--images", "70", "--results", "results", "--record"]) == 0
    assert (place / "tiny.accuracy.json").is_file() and not list(place.glob("wide.*on"))
    capsys.readouterr()
    before = (place / "tiny.mstn").read_bytes()
    said = refused(capsys, "export", "--config", "wide.toml")
    assert said == "wide: its network, tiny.mstn, is that of tiny.toml: export that one, or name a new file with --output\n"
    assert (place / "tiny.mstn").read_bytes() == before
    assert main(["export", "--config", "wide.toml", "--output", "wide.mstn"]) == 0
    (place / "own.toml").write_text('network = "second.mstn"\n' + CONFIG)
    assert main(["export", "--config", "own.toml", "--checkpoint", "tiny.safetensors"]) == 0
    assert load_network("second.mstn").model == load_network("tiny.mstn").model


def test_sample(place: Path) -> None:
    assert main(["sample", "--config", "tiny.toml"]) == 0
    with np.load("cifar10-sample.npz", allow_pickle=False) as sample:
        assert sample["images"].shape == (64, 32, 32, 3) and sample["images"].dtype == np.uint8
        assert sample["labels"].shape == (64,) and sample["labels"].dtype == np.int64
        first = sample["images"]
    first_bytes = (place / "cifar10-sample.npz").read_bytes()
    batch = pickle.loads((place / "data" / "cifar-10-batches-py" / "test_batch").read_bytes())
    assert np.array_equal(first[3, 5, 7], batch[b"data"][3].reshape(3, 32, 32)[:, 5, 7])
    assert main(["sample", "--config", "tiny.toml"]) == 0
    assert (place / "cifar10-sample.npz").read_bytes() == first_bytes


def test_the_sample_beside_a_configuration_is_the_one_that_is_simulated(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load(place / "tiny.toml")
    with pytest.raises(ValueError, match=r"cifar10-sample.npz: no such image file: run `python -m quantize sample"):
        images.of(config, 5)
    assert main(["sample", "--config", "tiny.toml"]) == 0
    assert "cifar10-sample.npz: first 64 test images of" in capsys.readouterr().out
    (place / "configs").mkdir()
    (place / "configs" / "cifar10-sample.npz").write_bytes(b"another")
    found, labels = images.of(config, 5)
    batch = pickle.loads((place / "data" / "cifar-10-batches-py" / "test_batch").read_bytes())
    assert np.array_equal(found.transpose(0, 3, 1, 2).reshape(5, -1), batch[b"data"][:5])
    assert labels.tolist() == batch[b"labels"][:5]


def test_refusals(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such configuration" in refused(capsys, "export", "--config", "other.toml")
    assert "no such checkpoint" in refused(
        capsys, "export", "--config", "tiny.toml", "--checkpoint", "lost.safetensors")
    assert "no such network file" in refused(capsys, "accuracy", "--config", "tiny.toml")
    assert main(["export", "--config", "tiny.toml"]) == 0
    capsys.readouterr()
    assert "--images must be 1 to 70, not 71" in refused(capsys, "accuracy", "--config", "tiny.toml", "--images", "71")
    assert "--agreement-images must be at least 1, not 0" in refused(
        capsys, "accuracy", "--config", "tiny.toml", "--agreement-images", "0")
    assert "nowhere" in refused(capsys, "accuracy", "--config", "tiny.toml", "--data", "nowhere")
    assert "nowhere" in refused(capsys, "sample", "--config", "tiny.toml", "--data", "nowhere")
    (place / "broken.toml").write_text(CONFIG)
    (place / "broken.accuracy.json").write_text("[1")
    assert "broken.accuracy.json: broken" in refused(
        capsys, "export", "--config", "broken.toml", "--checkpoint", "tiny.safetensors")
    (place / "wide.toml").write_text(CONFIG.replace("mlp_ratio = 2.0", "mlp_ratio = 4.0"))
    assert "differs from [model] of wide" in refused(
        capsys, "export", "--config", "wide.toml", "--checkpoint", "tiny.safetensors")
    config = load(place / "tiny.toml")
    torch.manual_seed(2)
    save(place / "tiny.safetensors", MST(config.model, config.masking).eval(), {})
    assert "tiny.mstn: is not the export of tiny.safetensors" in refused(capsys, "accuracy", "--config", "tiny.toml")
    (place / "tiny.mstn").write_bytes(b"PK\x03\x04 something else entirely")
    assert "tiny.mstn: not a network file" in refused(capsys, "accuracy", "--config", "tiny.toml")
