"""The shortcuts of a ResNet: what they compute in torch, their way from training to integers, and what is refused.

That plain loops, torch integers, golden and RTL agree on them: tests/test_backbones.py and tests/test_stepwise_rtl.py.
"""
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import write_cifar
from torch import Tensor, nn

from hwgen.config import MachineConfig
from hwgen.program import compile_network, demands
from model.__main__ import main as model_main
from model.backbone import Backbone, ConvLayer
from model.config import Config, ConfigError, MaskingConfig, QuantizeConfig, TrainConfig, described, load, read_model
from model.masking import SpikeMask
from model.resnet import ResnetConfig
from quantize.__main__ import main as quantize_main
from quantize.agreement import agreement
from quantize.check import check
from quantize.export import export
from quantize.layers import Gemm, NetworkError
from quantize.network import encode
from quantize.network import load as load_network
from quantize.random_network import random_images, random_network
from sim.golden.network import run as golden
from sim.ops import count

torch.set_num_threads(1)
SHAPE: dict[str, Any] = {"kind": "resnet", "image_size": 8, "in_channels": 2, "classes": 4, "levels": 7, "depths": [1, 2, 1],
                         "widths": [6, 8, 10]}
PROJECTION, PADDED = {**SHAPE, "shortcut": "projection"}, {**SHAPE, "shortcut": "padded"}
BOTH = pytest.mark.parametrize(("shape", "kind"), [(PROJECTION, "proj"), (PADDED, "pad")], ids=["projection", "padded"])


def backbone(shape: dict[str, Any], seed: int = 1) -> Backbone:
    """A float64 network with the statistics of a trained one: every norm as random images make it."""
    torch.manual_seed(seed)
    config = read_model(shape)
    assert isinstance(config, ResnetConfig)
    net = Backbone(config, MaskingConfig()).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.6)
    with torch.no_grad():
        for step in range(8):
            net.train()(net.normalise(torch.from_numpy(images(8, step)).permute(0, 3, 1, 2)))
    return net.eval()


def images(count: int, seed: int) -> np.ndarray:
    return random_images(read_model(PROJECTION), seed, count)


def config_of(shape: dict[str, Any]) -> Config:
    return Config("tiny", read_model(shape), MaskingConfig(), TrainConfig(), QuantizeConfig(), {})


def written_out(net: Backbone, x: Tensor) -> Tensor:
    """Logits of a ResNet as in the papers: shortcut + residual branch, BatchNorm and activation before the next block."""
    layer = {entry.shape.name: entry for entry in net.layers if isinstance(entry, ConvLayer)}

    def unit(name: str, value: Tensor) -> Tensor:
        entry = layer[name]
        padding = entry.shape.kernel // 2
        return entry.act(entry.norm(nn.functional.conv2d(value, entry.conv.weight, None, entry.shape.stride, padding)))  # type: ignore[no-any-return]

    black = (-net.mean / net.std)[:, None, None]
    stem = layer["stem"]
    shortcut = stem.act(stem.norm(nn.functional.conv2d(nn.functional.pad(x - black, (1,) * 4) + black, stem.conv.weight)))
    last = stem
    for stage, depth in enumerate(net.config.depths):
        for block in range(depth):
            name = f"s{stage}.b{block}"
            y = last.stream_act(last.stream_norm(shortcut))
            if stage and not block:
                if net.config.shortcut == "padded":
                    empty = y.new_zeros(len(y), net.config.channels(stage) - y.shape[1], y.shape[2] // 2, y.shape[3] // 2)
                    shortcut = layer[f"{name}.pad"].act(torch.cat((y[:, :, ::2, ::2], empty), 1))
                else:
                    shortcut = unit(f"{name}.proj", y)
            shortcut = shortcut + unit(f"{name}.conv2", unit(f"{name}.conv1", y))
            last = layer[f"{name}.conv2"]
    return net.head(last.stream_act(last.stream_norm(shortcut)).mean((2, 3)))  # type: ignore[no-any-return]


@BOTH
def test_the_float_network_is_the_papers(shape: dict[str, Any], kind: str) -> None:
    net = backbone(shape)
    x = net.normalise(torch.from_numpy(images(4, 3)).permute(0, 3, 1, 2))
    with torch.no_grad():
        logits = net(x)
        assert torch.equal(logits, written_out(net, x))
        assert torch.equal(logits, net.logits(x, "exact"))
        sums = net.logits(x, "stepwise", 3)
        for entry in net.layers:
            assert isinstance(entry, ConvLayer)
            assert hasattr(entry, "stream_norm") == (entry.shape.name.endswith(("stem", "conv2")))
            if entry.shape.name.endswith("proj"):
                nn.init.zeros_(entry.norm.weight)
                nn.init.zeros_(entry.norm.bias)
            if entry.shape.name.endswith("pad"):
                nn.init.zeros_(entry.conv.weight)
        assert not torch.equal(logits, net(x)) and not torch.equal(sums, net.logits(x, "stepwise", 3))


@BOTH
def test_integers_follow_the_float_network(shape: dict[str, Any], kind: str) -> None:
    net = backbone(shape)
    network = export(net, config_of(shape))
    rows = agreement(net, network, images(24, 5))
    assert [row.name for row in rows if row.name.endswith(kind)] == [f"s1.b0.{kind}", f"s2.b0.{kind}"]
    assert min(row.alone for row in rows) > 0.9 and min(row.mean for row in rows[:-1]) > 0.05, rows
    for stage in (1, 2):
        layer = network.layer(f"s{stage}.b0.{kind}")
        assert isinstance(layer, Gemm) and layer.residual is not None and layer.residual.fresh and not layer.hands_on


def test_a_padded_shortcut_has_no_parameters_but_its_threshold() -> None:
    """Its integers: the counts of every second token, as they are where both thresholds are the same, then zeros."""
    net = backbone(PADDED)
    pads = [entry for entry in net.layers if isinstance(entry, ConvLayer) and entry.shape.fixed]
    assert [sorted(dict(entry.named_parameters())) for entry in pads] == [["act.log_threshold"]] * 2
    assert not any(".conv." in name for entry in pads for name in entry.state_dict())
    for entry, before in zip(pads, ("s0.b0.conv2", "s1.b1.conv2"), strict=True):
        source = next(layer for layer in net.layers if isinstance(layer, ConvLayer) and layer.shape.name == before)
        entry.act.log_threshold.data.copy_(source.stream_act.log_threshold.data)
    network = export(net, config_of(PADDED))
    trace = golden(network, shown := images(3, 2))
    for name, before, channels in (("s1.b0", "s0.b0.conv2", 6), ("s2.b0", "s1.b1.conv2", 8)):
        given = trace.inputs[f"{name}.conv1"]
        side = int(given.shape[1]**0.5)
        kept = given.reshape(len(shown), side, side, channels)[:, ::2, ::2].reshape(len(shown), -1, channels)
        layer, stream = network.layer(f"{name}.pad"), trace.outputs[f"{name}.pad"]["stream"]
        assert isinstance(layer, Gemm) and layer.residual is not None
        assert kept.max() > 1 and np.array_equal(stream[..., :channels], kept * layer.residual.gain[:channels]), before
        assert layer.residual.gain.min() > 0 and not stream[..., channels:].any()


def test_what_both_readers_see_is_masked_once() -> None:
    """The ratio of the block's input counts for the projection and for the first convolution alike; the projection has none."""
    model = read_model(PROJECTION)
    network, shown = random_network(model, 1), images(2, 4)
    mask = SpikeMask(7, {"conv": 0, "s0.b0.conv2.conv": 128, "s1.b0.proj.conv": 255})
    trace = golden(network, shown, mask=mask)
    readers = ("s1.b0.proj", "s1.b0.conv1")
    assert set(trace.before) == set(readers)
    for kept in (trace.inputs, trace.before):
        assert np.array_equal(*(kept[name] for name in readers))
    assert trace.inputs[readers[0]].sum() < trace.before[readers[0]].sum()
    plain = golden(network, shown)
    assert np.array_equal(plain.inputs[readers[0]], trace.before[readers[0]])


def test_the_shortcut_costs_no_memory_of_spikes() -> None:
    found = [compile_network(random_network(read_model(shape), 1), MachineConfig(lanes=8, fire_lanes=4), MaskingConfig(("conv",)))
             for shape in (PROJECTION, SHAPE)]
    assert demands(found[0])["spike_words"] == demands(found[1])["spike_words"]
    assert demands(found[0])["stream_words"] == demands(found[1])["stream_words"]
    own = [step for step in found[0].steps if step.layer.endswith("proj")]
    assert len(own) == 3 and not any(step.header["masked"] or step.fields["ratio0"] for step in own)


def test_operations_are_counted_for_both_readers() -> None:
    model, masking = read_model(PROJECTION), MaskingConfig(("conv",), 0.25)
    network, shown = random_network(model, 1), images(1, 4)
    program = compile_network(network, MachineConfig(lanes=16, fire_lanes=4), masking)
    ops = {layer.name: layer for layer in count(program, golden(network, shown, mask=SpikeMask.of(masking)), shown)[0]}
    proj, conv = ops["s1.b0.proj"], ops["s1.b0.conv1"]
    assert (proj.dense_macs, conv.dense_macs) == (16 * 6 * 8, 16 * 9 * 6 * 8)
    assert (proj.spikes, proj.masked_spikes, proj.rate_spikes) == (conv.spikes, conv.masked_spikes, conv.rate_spikes)
    assert 0 < proj.events < conv.events and proj.masked_spikes > 0


def test_files_without_the_key_keep_their_meaning() -> None:
    plain = read_model(SHAPE)
    assert plain == read_model({**SHAPE, "shortcut": "none"}) and "shortcut" not in described(plain)
    assert described(read_model(PROJECTION))["shortcut"] == "projection"
    versions = [struct.unpack_from("<I", encode(random_network(read_model(shape), 1)), 8)[0] for shape in (SHAPE, PROJECTION)]
    assert versions == [2, 3]
    sizes = {"image_size": 32, "in_channels": 3, "classes": 10, "levels": 7, "kind": "resnet"}
    names = [[shape.name for shape in read_model({**sizes, "preset": preset}).plan() if not shape.hands_on]  # type: ignore[union-attr]
             for preset in ("resnet18", "resnet20")]
    assert names == [["s1.b0.proj", "s2.b0.proj", "s3.b0.proj"], ["s1.b0.pad", "s2.b0.pad"]]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shortcut must be one of none, projection, padded, not 'identity'"):
        read_model({**SHAPE, "shortcut": "identity"})
    with pytest.raises(ConfigError, match=r"widths \[6, 8, 7\]: a padded shortcut cannot lose channels: let them grow, or"):
        read_model({**PADDED, "widths": [6, 8, 7]})
    with pytest.raises(ConfigError, match="has no key 'shortcut'"):
        read_model({**PROJECTION, "kind": "vgg"})
    file = tmp_path / "tiny.toml"
    file.write_text(CONFIG + '[masking.ratios]\n"s1.b0.proj.conv" = 0.5\n')
    with pytest.raises(ConfigError, match="no block of 's1.b0.proj.conv'; blocks: stem, .*s1.b0.conv1, s1.b0.conv2$"):
        load(file)
    other = random_network(read_model(SHAPE), 1)
    object.__setattr__(other, "model", read_model(PROJECTION))
    with pytest.raises(NetworkError, match=r"layer 3 is s1.b0.conv1, but the model needs s1.b0.proj"):
        check(other)


CONFIG = """
[model]
kind = "resnet"
shortcut = "projection"
image_size = 32
in_channels = 3
classes = 10
levels = 7
depths = [1, 1]
widths = [4, 6]
[train]
epochs = 1
batch = 4
holdout = 3
warmup_epochs = 0
precision = "float32"
"""


@BOTH
def test_from_training_to_integers(shape: dict[str, Any], kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One epoch on twelve images over the command line, then the network file and its agreement with the float network."""
    write_cifar(tmp_path / "data")
    (tmp_path / "tiny.toml").write_text(CONFIG.replace("projection", shape["shortcut"]))
    given = ["--config", str(tmp_path / "tiny.toml")]
    assert model_main(["train", *given, "--data", str(tmp_path / "data"), "--threads", "1", "--no-compile",
                       "--runs", str(tmp_path / "runs")]) == 0
    assert quantize_main(["export", *given]) == 0
    assert "7 layers, written" in capsys.readouterr().out
    network = load_network(tmp_path / "tiny.mstn")
    assert [layer.name for layer in network.layers][3:5] == [f"s1.b0.{kind}", "s1.b0.conv1"]
    assert network.model == load(tmp_path / "tiny.toml").model
    assert quantize_main(["accuracy", *given, "--data", str(tmp_path / "data"), "--images", "3", "--agreement-images", "3",
                          "--results", str(tmp_path)]) == 0
    assert f"| s1.b0.{kind} | " in (tmp_path / "tiny-agreement.md").read_text(encoding="utf-8")
