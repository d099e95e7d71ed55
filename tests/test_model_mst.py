"""The whole network: orders of patches and merges, firing modes, verify points, spike masks."""
import dataclasses

import numpy as np
import pytest
import torch

from model.config import MaskingConfig, ModelConfig
from model.masking import SpikeMask, mask_rows
from model.mst import MST
from model.neuron import Engine, IFNeuron
from model.qcfs import QCFS
from model.swin import PatchEmbed, PatchMerge, patches

torch.set_num_threads(1)
CONFIG = ModelConfig(image_size=16, in_channels=3, classes=5, patch=2, embedding=8, depths=(2, 1), heads=(2, 2),
                     window=4, mlp_ratio=2.0, levels=7, qkv_norm=True)
MASKED = MaskingConfig(("q", "k", "scores", "fc1", "fc2"), 0.75, 77)


def network(masking: MaskingConfig | None = None) -> MST:
    """An untrained float64 network with BatchNorm statistics of random images."""
    torch.manual_seed(5)
    model = MST(CONFIG, MaskingConfig()).double()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(norm.bias, -0.3, 0.6)
            norm.momentum = None
    model.train()
    with torch.no_grad():
        model(model.normalise(images(32, 1)))
    model.masking = masking or MaskingConfig()
    return model.eval()


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_embedding_is_a_convolution_on_patches() -> None:
    embed, x = PatchEmbed(CONFIG), torch.randn(2, 3, 16, 16)
    kernel = embed.linear.weight.view(8, 2, 2, 3).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.conv2d(x, kernel, embed.linear.bias, stride=2).flatten(2).transpose(1, 2)
    assert torch.allclose(embed.linear(patches(x, 2)), wanted, atol=1e-5)


def test_merge_concatenates_the_phases_in_order() -> None:
    merge = PatchMerge(CONFIG, 0).double().eval()
    x = torch.randn(1, 64, 8, dtype=torch.float64)
    seen = []
    merge.linear.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    merge(x, Engine())
    at = x.view(8, 8, 8)
    wanted = torch.cat([at[2, 6], at[3, 6], at[2, 7], at[3, 7]]) / (1 + 1e-5) ** 0.5
    assert torch.allclose(seen[0][0, 1 * 4 + 3], wanted, rtol=1e-12)


def test_normalisation_is_of_pixels_over_255() -> None:
    model = network()
    model.mean.copy_(torch.tensor([0.1, 0.2, 0.3]))
    model.std.copy_(torch.tensor([0.5, 0.6, 0.7]))
    x = images(1)
    wanted = (x[0, 2, 3, 4].double() / 255 - 0.3) / 0.7
    assert model.normalise(x)[0, 2, 3, 4] == pytest.approx(float(wanted), abs=1e-6)


@pytest.mark.parametrize("masking", [MaskingConfig(), MASKED])
def test_exact_spiking_network_equals_the_qcfs_network(masking: MaskingConfig) -> None:
    model = network(masking)
    x = model.normalise(images(6))
    exact = model.logits(x, "exact")
    assert torch.equal(exact, model.logits(x, "qcfs"))
    assert exact.std() > 0.01


def test_stepwise_logits_are_running_sums_of_whole_passes() -> None:
    model = network()
    x = model.normalise(images(3))
    sums = model.logits(x, "stepwise", 4)
    assert sums.shape == (4, 3, 5)
    assert torch.equal(model.logits(x, "stepwise", 2), sums[:2])

    class Plain(Engine):
        """The reference's neuron in its own units: v starts at 1/2, threshold 1, charge x / up."""

        def __init__(self) -> None:
            super().__init__()
            self.v: dict[str, torch.Tensor] = {}

        def fire(self, act: QCFS, x: torch.Tensor) -> torch.Tensor:
            up = float(act.threshold) * act.levels
            v = self.v.get(act.name, torch.full_like(x, 0.5)) + x / up
            spike = (v >= 1).double()
            self.v[act.name] = v - spike
            return up * spike

    engine, total = Plain(), torch.zeros(3, 5, dtype=torch.float64)
    with torch.no_grad():
        for step in range(4):
            total += model.run(x, engine)
            assert torch.allclose(total, sums[step], atol=1e-6)


def test_modes_and_steps_are_checked() -> None:
    model, x = network(), torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    with pytest.raises(ValueError, match="unknown mode 'spiking'"):
        model.logits(x, "spiking")
    with pytest.raises(ValueError, match="steps of at least 1, not 0"):
        model.logits(x, "stepwise", 0)


def test_verify_points_have_their_names_shapes_and_range() -> None:
    counts = network().counts(network().normalise(images(2)))
    blocks = ["s0.b0", "s0.b1", "s1.b0"]
    points = ["act1", "q", "k", "v", "scores", "out", "proj", "act2", "fc1", "fc2"]
    assert set(counts) == {"embed", "s0.merge"} | {f"{b}.{p}" for b in blocks for p in points}
    assert counts["s0.b1.q"].shape == counts["s0.b1.proj"].shape == (2, 64, 8)
    assert counts["s0.b1.scores"].shape == (2, 4, 2, 16, 16)
    assert counts["s1.b0.fc1"].shape == (2, 16, 32)
    for name, value in counts.items():
        assert value.dtype == torch.int64, name
        assert value.min() >= 0 and value.max() <= 7, name
    assert max(int(value.max()) for value in counts.values()) == 7


def test_verify_points_are_in_raster_order() -> None:
    """Recompute q of a shifted block from act1, token by token."""
    model = network()
    counts = model.counts(model.normalise(images(2)))
    block = model.get_submodule("stages.0.blocks.1")
    y = counts["s0.b1.act1"].double() * block.act1.threshold  # type: ignore[operator, union-attr]
    q = block.attn.qkv_norm(block.attn.qkv(y.view(-1, 8)))[:, :8].view(2, 64, 8)  # type: ignore[operator, union-attr]
    wanted = torch.round(block.attn.q_act(q) / block.attn.q_act.threshold)  # type: ignore[operator, union-attr]
    assert torch.equal(counts["s0.b1.q"], wanted.long())


def test_masks_are_those_of_the_specification() -> None:
    model = network(MASKED)
    given: dict[str, torch.Tensor] = {}
    engine_masks = model._masks(2, torch.tensor([9, 4]))

    class Spy(Engine):
        def mask(self, name, x, rows, arrange=None):  # type: ignore[no-untyped-def]
            given[name] = super().mask(name, torch.ones_like(x), rows, arrange)
            return given[name]

    with torch.no_grad():
        model.run(model.normalise(images(2)), Spy(engine_masks))
    mask, rows, which = SpikeMask.of(MASKED), mask_rows(CONFIG)["s0.b1"], np.array([9, 4])
    block = model.get_submodule("stages.0.blocks.1")
    for site, name, first, count, columns, start in [
            ("q", "q", rows.qkv, 64, 8, 0), ("k", "k", rows.qkv, 64, 8, 8),
            ("scores", "scores", rows.scores, 128, 16, 0),
            ("fc1", "act2", rows.fc1, 64, 8, 0), ("fc2", "fc1", rows.fc2, 64, 16, 0)]:
        wanted = mask.keep(site, which, first, count, columns, start)
        found = given[f"s0.b1.{name}"]
        if name in "qk":
            found = block.attn.from_heads(found)  # type: ignore[operator, union-attr]
        assert wanted is not None
        assert np.array_equal(found.reshape(wanted.shape).numpy().astype(bool), wanted), site
        assert 0.2 < wanted.mean() < 0.3


def test_masks_change_with_image_step_and_ratio() -> None:
    x = network().normalise(images(2))
    masked = network(MASKED)
    assert torch.equal(masked(x), masked(x, torch.tensor([0, 1])))
    assert not torch.equal(masked(x), masked(x, torch.tensor([0, 2])))
    assert not torch.equal(masked(x), network()(x))
    assert torch.equal(network(dataclasses.replace(MASKED, ratio=0.0))(x), network()(x))
    sums = masked.logits(x, "stepwise", 2)
    assert not torch.equal(sums[1] - sums[0], sums[0])
    masked.train()
    assert not torch.equal(masked(x), masked(x))  # training draws afresh


def test_stepwise_state_starts_at_half_a_threshold() -> None:
    neuron = IFNeuron(torch.tensor(2.0))
    assert neuron.step(torch.tensor([0.999, 1.0])).tolist() == [0, 1]


def test_default_configuration_is_small_enough() -> None:
    from pathlib import Path

    from model.config import load
    config = load(Path(__file__).parents[1] / "configs" / "cifar10-tiny.toml")
    model = MST(config.model, config.masking)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 300_000
    assert config.model.planes == 3
