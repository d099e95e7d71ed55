"""Direct training: the same spikes as `stepwise`, gradients by the stated surrogate, resumable to the bit."""
import dataclasses
from pathlib import Path

import pytest
import torch

from model.config import Config, MaskingConfig, ModelConfig, QuantizeConfig, TrainConfig
from model.data import Images
from model.direct import FineTuner, SurrogateSpike, main, step_logits
from model.mst import MST

MODEL = ModelConfig(image_size=8, in_channels=1, classes=3, patch=2, embedding=8, depths=(1, 1), heads=(1, 2), window=2,
                    mlp_ratio=2.0, levels=3)
PLAIN = MaskingConfig(sites=("q", "k", "fc1"), ratio=0.0)
CONFIG = Config("small", MODEL, PLAIN, TrainConfig(holdout=8, label_smoothing=0.0), QuantizeConfig(), {})


def network(masking: MaskingConfig = PLAIN) -> MST:
    """A small network with lively activations."""
    torch.manual_seed(4)
    model = MST(MODEL, masking).eval()
    for act in model.activations().values():
        act.set_threshold(0.2)
    return model


def pictures(count: int) -> Images:
    """Three classes: bright rows at the top, in the middle, at the bottom."""
    random = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (count,), generator=random)
    images = torch.randint(90, (count, 1, 8, 8), generator=random)
    for index, label in enumerate(labels):
        images[index, 0, 3 * label:3 * label + 2] += 150
    return Images(images.to(torch.uint8), labels)


def tuner(folder: Path, epochs: int = 2, masking: MaskingConfig = PLAIN) -> FineTuner:
    """A short run."""
    return FineTuner(CONFIG, network(masking), pictures(72), folder, steps=3, epochs=epochs, images=48, batch=16, rate=3e-3)


def test_surrogate_steps_are_the_stepwise_networks() -> None:
    model, data = network().double(), pictures(8)
    pixels = model.normalise(data.images)
    with torch.no_grad():
        found = step_logits(model, pixels, 5, PLAIN)
    assert torch.allclose(found, model.logits(pixels, "stepwise", 5)[-1] / 5, atol=1e-9)
    assert not torch.allclose(found, model.logits(pixels, "stepwise", 4)[-1] / 4, atol=1e-3)


def test_surrogate_gradient_is_a_triangle() -> None:
    u = torch.tensor([-1.0, 0.0, 0.25, 1.0, 1.5, 2.5], requires_grad=True)
    SurrogateSpike.apply(u).sum().backward()
    assert u.grad is not None and u.grad.tolist() == [0, 0, 0.25, 1, 0.5, 0]
    assert SurrogateSpike.apply(u).tolist() == [0, 0, 0, 1, 1, 1]


def test_training_learns_and_resumes_to_the_bit(tmp_path: Path) -> None:
    whole = tuner(tmp_path / "whole", epochs=6)
    whole.run()
    assert whole.log[-1]["loss"] < whole.log[0]["loss"]
    first = tuner(tmp_path / "parts", epochs=6)
    first.run_epoch()
    first.save()
    second = tuner(tmp_path / "parts", epochs=6)
    assert second.epoch == 1
    second.run()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    with pytest.raises(ValueError, match="belongs to other settings"):
        tuner(tmp_path / "parts", epochs=7)


def test_masks_change_the_run(tmp_path: Path) -> None:
    masked = dataclasses.replace(PLAIN, ratio=0.5)
    plain, other = tuner(tmp_path / "a", 1), tuner(tmp_path / "b", 1, masked)
    plain.run()
    other.run()
    assert plain.log[0]["loss"] != other.log[0]["loss"]


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for change, message in (({"steps": 0}, "--steps must be at least 1"), ({"images": 65}, "--images must be 16"),
                            ({"rate": 1.0}, "--rate must be between")):
        given = {"steps": 3, "epochs": 1, "images": 48, "batch": 16, "rate": 1e-3} | change
        with pytest.raises(ValueError, match=message):
            FineTuner(CONFIG, network(), pictures(72), tmp_path, **given)
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"nothing")
    assert main(["--config", "configs/cifar10-tiny.toml", "--output", str(tmp_path / "out"), "--checkpoint", str(bad)]) == 2
    error = capsys.readouterr().err
    assert "bad.safetensors" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
