"""LayerNorm in our own network: it works in every float mode, and whatever makes integers refuses it by name."""
from pathlib import Path

import pytest
import torch

from hwgen.__main__ import main as hwgen_main
from model import checkpoint
from model.config import ConfigError, MaskingConfig, ModelConfig, load
from model.mst import MST
from quantize.__main__ import main as quantize_main
from quantize.network import load as load_network
from quantize.network import save as save_network
from quantize.random_network import random_network
from sim.__main__ import main as sim_main

torch.set_num_threads(1)
TEXT = """
[model]
image_size = 16
in_channels = 3
classes = 5
patch = 2
embedding = 8
depths = [2, 1]
heads = [2, 2]
window = 4
mlp_ratio = 2.0
levels = 7
qkv_norm = true
"""
KINDS = [("layer", "layer"), ("layer", "batch"), ("batch", "layer")]


def config_file(folder: Path, norm: str, final: str) -> Path:
    path = folder / "net.toml"
    path.write_text(f'{TEXT}norm = "{norm}"\nfinal_norm = "{final}"\n')
    return path


@pytest.mark.parametrize(("norm", "final"), KINDS)
def test_layer_norm_works_in_every_mode(norm: str, final: str, tmp_path: Path) -> None:
    config = load(config_file(tmp_path, norm, final)).model
    torch.manual_seed(0)
    model = MST(config, MaskingConfig())
    kinds = {name: type(module).__name__ for name, module in model.named_modules() if "norm" in name.rsplit(".", 1)[-1]}
    assert kinds.pop("norm") == {"batch": "BatchNorm1d", "layer": "LayerNorm"}[final]
    assert set(kinds.values()) == {{"batch": "BatchNorm1d", "layer": "LayerNorm"}[norm]} and len(kinds) == 3 * 6 + 1 + 1
    images = torch.randn(2, 3, 16, 16)
    model(images).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    checkpoint.save(tmp_path / "net.safetensors", model.eval(), {})
    model = checkpoint.load(tmp_path / "net.safetensors")[0].double()
    assert model.config == config
    exact = model.logits(images.double(), "exact")
    assert (exact - model.logits(images.double(), "qcfs")).abs().max() < 1e-9 and exact.std() > 0.01
    assert model.logits(images.double(), "stepwise", 3).shape == (3, 2, 5)


def test_a_layer_norm_is_over_the_channels_of_a_token() -> None:
    model = MST(ModelConfig(8, 3, 5, 2, 8, (1,), (1,), 4, 2.0, 7, norm="layer"), MaskingConfig())
    seen: list[torch.Tensor] = []
    model.stages[0].blocks[0].norm2.register_forward_hook(lambda _, __, out: seen.append(out))  # type: ignore[union-attr, index]
    model(torch.randn(2, 3, 8, 8))
    assert torch.allclose(seen[0].mean(1), torch.zeros(32), atol=1e-5)
    assert torch.allclose(seen[0].var(1, unbiased=False), torch.ones(32), atol=0.05)


@pytest.mark.parametrize(("norm", "final"), KINDS)
def test_whatever_makes_integers_refuses_it(norm: str, final: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config_file(tmp_path, norm, final)
    config = load(path)
    checkpoint.save(path.with_suffix(".safetensors"), MST(config.model, config.masking).eval(), {})
    key = "norm" if norm == "layer" else "final_norm"
    for main, arguments in ((hwgen_main, ["emit", "--random-weights", "1"]), (hwgen_main, ["emit"]),
                            (sim_main, ["run", "--random-weights", "1"]), (quantize_main, ["export"])):
        assert main([*arguments, "--config", str(path)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "LayerNorm" in error and "norm" in error and '"batch"' in error, error
        if main is not quantize_main:
            assert f'[model] {key} = "layer"' in error
    assert not path.with_suffix(".mstn").exists()


def test_unknown_norms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="norm must be one of batch, layer, not 'group'"):
        load(config_file(tmp_path, "group", "batch"))
    with pytest.raises(ConfigError, match="final_norm must be one of batch, layer, not 'rms'"):
        load(config_file(tmp_path, "batch", "rms"))


def test_a_network_file_does_not_carry_the_norms(tmp_path: Path) -> None:
    """So that networks from before the choice, and their digests, stay what they were."""
    network = random_network(load(config_file(tmp_path, "batch", "batch")).model, 1)
    save_network(tmp_path / "x.mstn", network)
    assert b"final_norm" not in (tmp_path / "x.mstn").read_bytes()
    assert load_network(tmp_path / "x.mstn").model == network.model
