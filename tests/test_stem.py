"""A stem of 3x3 convolutions in front of the first stage, and BatchNorm with QCFS as one function in training."""
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from model import checkpoint
from model.config import Config, ConfigError, MaskingConfig, ModelConfig, QuantizeConfig, described, read_model
from model.fused import norm_qcfs
from model.mst import MST
from model.neuron import Engine, TrainEngine
from model.qcfs import qcfs
from model.swin import ConvStem
from model.train import optimisers
from model.train_config import TrainConfig
from quantize.check import shapes
from quantize.export import export
from quantize.layers import NetworkError

torch.set_num_threads(1)
CONFIG = ModelConfig(image_size=16, in_channels=3, classes=5, patch=2, embedding=8, depths=(2, 1), heads=(2, 2),
                     window=4, mlp_ratio=2.0, levels=7, qkv_norm=True, stem=((4, 1), (8, 2)))


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def network() -> MST:
    """An untrained float64 network with BatchNorm statistics of random images."""
    torch.manual_seed(5)
    model = MST(CONFIG, MaskingConfig()).double()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(norm.bias, -0.3, 0.6)
            norm.momentum = None
    model.train()
    with torch.no_grad():
        model(model.normalise(images(32, 1)))
    return model.eval()


def test_the_stem_is_its_convolutions_on_a_black_ground() -> None:
    model = network()
    assert isinstance(model.embed, ConvStem)
    x = model.normalise(images(2))
    black = model.normalise(torch.zeros((1, 3, 20, 20), dtype=torch.uint8))
    black[:, :, 2:18, 2:18] = 0
    wanted = functional.pad(x, (2,) * 4) + black  # pixels 0 all around
    for index, layer in enumerate(model.embed.layers):
        wanted = functional.conv2d(wanted[:, :, 1:-1, 1:-1] if index == 0 else functional.pad(wanted, (1,) * 4),
                                   layer.conv.weight, stride=layer.conv.stride)
        wanted = qcfs(layer.norm(wanted), layer.act.threshold, 7)
    found = model.embed(x, (-model.mean / model.std)[:, None, None], Engine())
    assert found.shape == (2, 64, 8)
    assert torch.allclose(found, wanted.flatten(2).transpose(1, 2), rtol=0, atol=1e-12)
    assert len(found.unique()) > 3


def test_exact_neurons_give_the_counts_of_the_stem_too() -> None:
    model = network()
    x = model.normalise(images(4, 2))
    assert torch.allclose(model.logits(x, "exact"), model.logits(x), rtol=1e-9, atol=1e-9)
    wanted = model.logits(x)
    far, near = (float((model.logits(x, "stepwise", steps)[-1] / steps - wanted).abs().max()) for steps in (4, 256))
    assert near < far


def test_verify_points_of_the_stem() -> None:
    model = network()
    counts = model.counts(model.normalise(images(2)))
    assert counts["stem0"].shape == (2, 256, 4)
    assert counts["embed"].shape == (2, 64, 8)
    assert counts["s0.b0.act1"].shape == (2, 64, 8)
    assert counts["s0.b0.q"].shape == (2, 64, 8)
    assert 0 < counts["stem0"].max() <= 7


def test_a_checkpoint_keeps_the_stem(tmp_path: object) -> None:
    model = network().float()
    checkpoint.save(f"{tmp_path}/stem.safetensors", model, {})
    again, _ = checkpoint.load(f"{tmp_path}/stem.safetensors")
    assert again.config == CONFIG
    x = model.normalise(images(2))
    assert torch.equal(again(x), model(x))


def test_a_file_without_a_stem_says_nothing_of_it() -> None:
    assert "stem" not in described(dataclasses.replace(CONFIG, stem=()))
    table = {key: [list(entry) for entry in value] if key == "stem" else list(value) if isinstance(value, tuple) else value
             for key, value in described(CONFIG).items()}
    assert read_model(table) == CONFIG


@pytest.mark.parametrize(("stem", "message"), [
    (((4, 1), (8, 1)), "strides multiply to 1, but patch is 2"),
    (((4, 1), (6, 2)), "last convolution has 6 channels, but embedding is 8"),
    (((0, 1), (8, 2)), "channels must be 1 to 65536 and strides 1 or 2"),
    (((4, 3), (8, 2)), "channels must be 1 to 65536 and strides 1 or 2")])
def test_a_stem_that_does_not_fit_is_refused(stem: tuple[tuple[int, int], ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, stem=stem)


@pytest.mark.parametrize(("stem", "message"), [
    ([4, 8], "stem must be a list of 2 values, not 4"), ([[4, 1, 1]], r"stem must be a list of 2 values, not \[4, 1, 1\]"),
    ([[4, "x"]], "stem must be int, not 'x'"), (3, "stem must be a list of lists, not 3")])
def test_a_stem_of_another_form_is_refused(stem: object, message: str) -> None:
    table = {key: list(value) if isinstance(value, tuple) else value for key, value in described(CONFIG).items()}
    with pytest.raises(ConfigError, match=message):
        read_model(table | {"stem": stem})


def test_integers_of_a_stem_are_refused_in_one_line() -> None:
    with pytest.raises(NetworkError, match=r"\[model\] stem: .* float modes only"):
        shapes(CONFIG, 8)
    with pytest.raises(NetworkError, match=r"\[model\] stem: .* leave the stem out and train again"):
        export(network(), Config("stem", CONFIG, MaskingConfig(), TrainConfig(), QuantizeConfig(), {}))


@pytest.mark.parametrize("both", [False, True])
def test_norm_and_qcfs_in_one_are_the_two_in_a_row(both: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 24, dtype=torch.float64) * 2 + 1
    threshold = torch.rand(24, dtype=torch.float64) * 0.3 + 0.1
    weight, weight2 = torch.randn(2, 200, 24, dtype=torch.float64)
    found = []
    for one in (False, True):
        norm = nn.BatchNorm1d(24).double()
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(-1, 2, 24))
            norm.bias.copy_(torch.linspace(-1, 1, 24))
        own, steps = x.clone().requires_grad_(), threshold.clone().requires_grad_()
        if one:
            y, z = norm_qcfs(norm, steps, 7, own, both)
        else:
            z = norm(own)
            y = torch.stack([qcfs(z[:, c], steps[c], 7) for c in range(24)], 1)
        ((y * weight).sum() + (z * weight2).sum() * both).backward()
        assert norm.weight.grad is not None and norm.bias.grad is not None and norm.running_mean is not None
        assert norm.running_var is not None and own.grad is not None and steps.grad is not None
        found.append((y.detach(), own.grad, steps.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var))
    for two, one_ in zip(*found, strict=True):
        assert torch.allclose(two, one_, rtol=0, atol=1e-11)


def test_a_training_pass_gives_the_gradients_of_the_plain_one() -> None:
    grads = []
    for engine in (Engine(), TrainEngine()):
        model = network().train()
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                norm.momentum = 0.1
        model.run(model.normalise(images(8, 3)), engine).square().sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters()} | dict(model.named_buffers()))
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        assert grad is not None and torch.allclose(grad.double(), grads[1][name].double(), rtol=1e-7, atol=1e-9), name


def test_muon_takes_the_matrices_and_adamw_the_rest() -> None:
    model = network()
    muon, adamw = optimisers(model, TrainConfig(optimiser="muon"))
    mine = {id(p) for group in muon.param_groups for p in group["params"]}
    rest = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert mine == {id(p) for name, p in model.named_parameters() if name.endswith("weight") and p.ndim == 2}
    assert mine | rest == {id(p) for p in model.parameters()} and not mine & rest
    assert len(optimisers(model, TrainConfig())) == 1
    with pytest.raises(ConfigError, match="optimiser must be adamw or muon, not 'sgd'"):
        TrainConfig(optimiser="sgd")
