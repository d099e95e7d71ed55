"""What has no faithful integer form, or cannot be at all, is refused by name: scales, softmax, numbers that are not finite."""
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_states import random_state
from torch import nn

from model import checkpoint
from model.config import Config, MaskingConfig, ModelConfig, QuantizeConfig, TrainConfig
from model.mst import MST
from model.reference.network import from_state_dict
from model.reference.shape import ReferenceModelError
from quantize.export import export, reports
from quantize.fold import Affine, ExportError
from quantize.stream import HELD_ERROR, Step, plan_stage

torch.set_num_threads(1)


def affine(scale: list[float]) -> Affine:
    return Affine(np.array(scale), np.zeros(len(scale)), np.zeros(len(scale)), np.ones(len(scale)))


def network(levels: int = 7, depth: int = 2, up: float = 2.0) -> tuple[Config, MST]:
    """A small untrained network whose BatchNorms saw random images, and its configuration."""
    shape = ModelConfig(image_size=8, in_channels=3, classes=4, patch=2, embedding=8, depths=(depth,), heads=(2,), window=4,
                        mlp_ratio=1.0, levels=levels, qkv_norm=True)
    config = Config("test", shape, MaskingConfig(), TrainConfig(), QuantizeConfig(), {})
    torch.manual_seed(3)
    model = MST(shape, MaskingConfig()).double()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.momentum = None
    for name, act in model.activations().items():
        if name.endswith("scores"):
            act.set_threshold(up / levels)
    recalibrate(model)
    return config, model


def recalibrate(model: MST) -> None:
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.reset_running_stats()
    model.train()
    with torch.no_grad():
        model(model.normalise(torch.randint(256, (32, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))))
    model.eval()


@pytest.mark.parametrize(("scales", "used"), [((0.0, 0.0), 1.0), ((0.01, 0.01), 0.43)])
def test_a_second_norm_that_shrinks_the_shortcut_is_no_secret(scales: tuple[float, float], used: float) -> None:
    steps = [Step(0.3, None), Step(0.3, affine([scales[0], 1.0])), Step(0.3, None), Step(0.3, affine([scales[1], 1.0])),
             Step(0.3, None)]
    plan = plan_stage(steps, affine([1.0, 1.0]), 7, 8)
    worst = max(plan.holds, key=lambda hold: hold.error)
    assert (worst.step, worst.channel, worst.wanted) == (3, 0, scales[1])
    assert worst.used == pytest.approx(used, rel=0.02)
    assert worst.error == pytest.approx((worst.used - scales[1]) / 0.3) and worst.error > HELD_ERROR


def test_gammas_pruned_to_0_are_refused_by_channel_and_layer() -> None:
    config, model = network()
    assert export(model, config).layers and reports(model, config) == []
    for block in model.stages[0].blocks:
        with torch.no_grad():
            block.norm2.weight[5] = 0
    recalibrate(model)
    said = r"s0\.b1\.proj: the norm after it scales channel 5 of the shortcut by 0, .* spikes off"
    with pytest.raises(ExportError, match=said):
        export(model, config)


def test_many_blocks_that_halve_the_shortcut_are_refused() -> None:
    config, model = network(levels=15, depth=6)
    with torch.no_grad():
        for block in model.stages[0].blocks:
            block.norm2.weight.copy_(0.5 * torch.sqrt(block.norm2.running_var + 1e-5))
    with pytest.raises(ExportError, match=r"s0\.b\d\.proj: the norm after it .* fewer levels or blocks in a stage"):
        export(model, config)


def test_one_scale_near_0_is_held_and_told() -> None:
    config, model = network()
    with torch.no_grad():
        model.stages[0].blocks[0].norm2.weight[5] = 0
    recalibrate(model)
    export(model, config)
    (line,) = reports(model, config)
    assert re.match(r"residual stage 0: 1 channels with a norm scale held up, at most 0\.\d+ spikes off "
                    r"\(channel 5: 0 became", line)


@pytest.mark.parametrize(("up", "bits", "said"), [
    (10.0, 12, "that needs rom_bits = 18, and 16 is the most"), (7.0, 12, r"set \[quantize\] rom_bits = 14")])
def test_a_softmax_that_the_rom_cannot_hold_is_refused(up: float, bits: int, said: str) -> None:
    config, model = network(up=up)
    with pytest.raises(ExportError, match=rf"s0\.b0\.attn: .* rom_bits = {bits} keeps .*{said}"):
        export(model, config)


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "holds nan"), (float("inf"), "holds inf"), (-1.0, "variance -1")])
@pytest.mark.parametrize("name", ["stages.0.blocks.1.norm1.running_var", "stages.0.blocks.0.mlp.fc1.weight"])
def test_a_checkpoint_with_values_that_cannot_be_is_refused(tmp_path: Path, name: str, value: float, said: str) -> None:
    _, model = network()
    path = tmp_path / "net.safetensors"
    model.state_dict()[name].view(-1)[3] = value
    checkpoint.save(path, model, {})
    if value == -1 and not name.endswith("running_var"):
        checkpoint.load(path)  # a weight may be -1
        return
    with pytest.raises(checkpoint.CheckpointError, match=rf"net\.safetensors: .*{re.escape(name)} .*{said}"):
        checkpoint.load(path)


def test_the_authors_checkpoint_with_a_negative_variance_is_refused() -> None:
    state = random_state()
    name = next(key for key in state if key.endswith("running_var"))
    from_state_dict(state, 16, 5)
    state[name] = state[name].clone()
    state[name][0] = -0.5
    with pytest.raises(ReferenceModelError, match=rf"{re.escape(name)} holds the variance -0\.5, which is below 0"):
        from_state_dict(state, 16, 5)
