"""Folding and export: float equality of the fold, exactness of thresholds, bounds of the stream, refusals."""
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from model.attention import relative_index, window_mask
from model.config import Config, MaskingConfig, ModelConfig, QuantizeConfig, TrainConfig
from model.mst import MST
from quantize.agreement import agreement, integer_counts
from quantize.export import export
from quantize.fold import Affine, ExportError, FoldedAttention, FoldedNorm, batch_norm, fold
from quantize.formats import BIAS_BITS, THRESHOLD_BITS, limits
from quantize.layers import Attention, Gemm, Network
from quantize.network import digest
from quantize.rounding import counts_after, plain, round_rows
from quantize.stream import Scale, Step, norm_fire, plan_stage
from quantize.torch_integer import IntegerMST

torch.set_num_threads(1)  # tiny tensors: more threads only get in each other's way


def config_of(**shape: object) -> Config:
    base = dict(image_size=16, in_channels=3, classes=5, patch=2, embedding=16, depths=(2, 1), heads=(2, 4), window=4,
                mlp_ratio=2.0, levels=7, qkv_norm=True)
    quantize = {key: shape.pop(key) for key in ("weight_bits", "rom_bits", "stream_bits") if key in shape}
    return Config("test", ModelConfig(**(base | shape)), MaskingConfig(), TrainConfig(),  # type: ignore[arg-type]
                  QuantizeConfig(**quantize), {})  # type: ignore[arg-type]


def images_of(config: Config, count: int, seed: int = 0) -> np.ndarray:
    m = config.model
    return np.random.default_rng(seed).integers(0, 256, (count, m.image_size, m.image_size, m.in_channels), np.uint8)


def random_mst(config: Config, seed: int = 0) -> MST:
    """An untrained float64 MST whose BatchNorms saw random images; some of their scales are negative."""
    torch.manual_seed(seed)
    mst = MST(config.model, config.masking).double()
    images = torch.from_numpy(images_of(config, 48, seed).transpose(0, 3, 1, 2).copy())
    mst.mean.uniform_(0.3, 0.6)
    mst.std.uniform_(0.2, 0.3)
    norms = [module for module in mst.modules() if isinstance(module, nn.BatchNorm1d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = None  # plain average
            norm.weight.uniform_(0.5, 1.2)
            norm.bias.normal_(0, 0.3)
        for norm in [block.norm1 for stage in mst.stages for block in stage.blocks]:  # type: ignore[union-attr]
            norm.weight[::5] *= -1
        for stage in mst.stages:
            stage.blocks[0].norm2.weight[::6] *= -1  # type: ignore[index, union-attr]
        mst.train()
        for part in images.split(16):
            mst(mst.normalise(part))
    return mst.eval()


def float_counts(mst: MST, images: np.ndarray) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    pixels = mst.normalise(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return mst.counts(pixels), mst.logits(pixels)


def folded_run(mst: MST, images: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The folded float layers run plainly in numpy: norm inputs are checked through their counts."""
    levels, m = mst.config.levels, mst.config
    batch = len(images)

    def fire(y: np.ndarray, theta: np.ndarray | float) -> np.ndarray:
        return np.clip(np.floor(y / theta + 0.5), 0, levels)

    side = m.side(0)
    x = images.reshape(batch, side, m.patch, side, m.patch, -1).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(batch, side * side, -1)
    value, stream, found = x.astype(np.float64), np.zeros(0), {}
    for layer in fold(mst):
        if isinstance(layer, FoldedAttention):
            value = folded_attention(layer, value, levels)
            found[layer.name] = value
            continue
        if layer.kind == "merge":
            half = layer.side // 2
            grid = stream.reshape(batch, half, 2, half, 2, -1)
            value = grid.transpose(0, 1, 3, 4, 2, 5).reshape(batch, half * half, -1)
        elif layer.kind == "head":
            return found, stream.mean(1) @ layer.weight.T + layer.bias
        y = (value if layer.theta_in is None else value * layer.theta_in) @ layer.weight.T + layer.bias
        assert layer.theta is not None
        value = fire(y, layer.theta)
        found[layer.name] = value
        if layer.kind in ("embed", "merge", "proj", "fc2"):
            joined = value * layer.theta
            stream = joined if layer.kind in ("embed", "merge") else stream + joined
            if layer.norm is not None:
                y = stream * layer.norm.affine.scale + layer.norm.affine.shift
                value = fire(y, layer.norm.theta)
                found[layer.name + ".next"] = value
                stream = y if layer.norm.moves else stream
    raise AssertionError("no head")


def folded_attention(layer: FoldedAttention, value: np.ndarray, levels: int) -> np.ndarray:
    batch, tokens, _ = value.shape
    order = np.roll(np.arange(tokens).reshape(layer.side, layer.side), (-layer.shift, -layer.shift), (0, 1))
    across, w = layer.side // layer.window, layer.window
    order = order.reshape(across, w, across, w).transpose(0, 2, 1, 3).reshape(-1, w * w)
    parts = value[:, order].reshape(batch, len(order), w * w, 3, layer.heads, layer.head_size)
    parts = parts.transpose(3, 0, 1, 4, 2, 5)
    q, k, v = parts[0] * layer.theta_q, parts[1] * layer.theta_k, parts[2] * layer.theta_v
    a = q @ k.swapaxes(-1, -2) / math.sqrt(layer.head_size)
    a = np.clip(np.floor(a / layer.theta_score + 0.5), 0, levels) * layer.theta_score
    a = a + layer.bias[:, relative_index(w).numpy()] + window_mask(layer.side, w, layer.shift).numpy()[:, None]
    e = np.exp(a)
    out = np.clip(np.floor(e @ v / e.sum(-1, keepdims=True) / layer.theta_out + 0.5), 0, levels)
    result = np.empty((batch, tokens, layer.heads * layer.head_size))
    result[:, order.reshape(-1)] = out.transpose(0, 1, 3, 2, 4).reshape(batch, tokens, -1)
    return result


@pytest.mark.parametrize("shape", [
    {}, {"qkv_norm": False, "mlp_norm": False},
    {"in_channels": 1, "depths": (1,), "heads": (1,), "levels": 3, "window": 2},
])
def test_fold_equals_float_model(shape: dict) -> None:
    config = config_of(**shape)
    mst, images = random_mst(config), images_of(config, 6, seed=9)
    wanted, wanted_logits = float_counts(mst, images)
    found, logits = folded_run(mst, images)
    # A charge within float64's rounding of a threshold may fall on either side: none did for these seeds.
    for name, counts in found.items():
        kind = name.rpartition(".")[2]
        if kind == "qkv":
            want = torch.cat([wanted[name[:-3] + part] for part in "qkv"], -1)
        elif kind == "attn":
            want = wanted[name[:-4] + "out"]
        elif kind == "next":
            want = wanted[next_name(name)] if next_name(name) in wanted else None
        else:
            want = wanted[name]
        np.testing.assert_array_equal(counts, want.numpy(), err_msg=name)
    np.testing.assert_allclose(logits, wanted_logits.numpy(), rtol=1e-9, atol=1e-9)


def next_name(name: str) -> str:
    """Float activation that the norm fire behind a layer is."""
    layer = name.removesuffix(".next")
    if layer == "embed":
        return "s0.b0.act1"
    if layer.endswith("merge"):
        return f"s{int(layer[1]) + 1}.b0.act1"
    if layer.endswith("proj"):
        return layer[:-4] + "act2"
    return f"{layer[:2]}.b{int(layer[4]) + 1}.act1"


@pytest.fixture(scope="module")
def exported() -> tuple[Config, MST, Network]:
    config = config_of()
    mst = random_mst(config)
    return config, mst, export(mst, config)


def test_counts_agree_with_float(exported: tuple[Config, MST, Network]) -> None:
    config, mst, network = exported
    rows = {row.name: row for row in agreement(mst, network, images_of(config, 24, seed=3))}
    # An untrained network magnifies every rounding; the first layers show the rounding itself.
    for name, share in (("embed", 0.97), ("s0.b0.act1", 0.97), ("s0.b0.q", 0.93), ("s0.b0.v", 0.93),
                        ("s0.b0.scores", 0.85), ("s0.b0.out", 0.9), ("s0.b0.proj", 0.8), ("s0.b0.act2", 0.85),
                        ("s0.b0.fc1", 0.75)):
        assert rows[name].equal >= share, rows[name]
    assert all(row.difference < 1.5 for row in rows.values())
    assert all(row.alone > 0.9 for name, row in rows.items() if name != "predicted class"), rows
    assert rows["predicted class"].alone > 0.9


def test_fine_formats_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights of 14 bits the same arithmetic nearly equals the float model to its end: only rounding was lost."""
    config = config_of(depths=(1, 1))
    object.__setattr__(config.quantize, "weight_bits", 14)
    object.__setattr__(config.quantize, "rom_bits", 16)
    object.__setattr__(config.quantize, "stream_bits", 13)
    monkeypatch.setattr("quantize.export.check", lambda network: None)
    mst = random_mst(config)
    rows = agreement(mst, export(mst, config), images_of(config, 24, seed=3))
    assert min(row.equal for row in rows if row.name.startswith("s0.b0")) > 0.98
    assert min(row.alone for row in rows) > 0.98
    later = ("s0.merge", "s1.b0.act1", "s1.b0.q", "s1.b0.v", "s1.b0.out")
    assert all(row.equal > 0.85 for row in rows if row.name in later)


@pytest.mark.parametrize("shape", [
    {"weight_bits": 4}, {"levels": 1}, {"levels": 15, "rom_bits": 8}, {"stream_bits": 4},
    {"in_channels": 1, "image_size": 28, "patch": 4, "depths": (1,), "heads": (3,), "embedding": 24, "window": 7},
    {"image_size": 8, "patch": 1, "depths": (1, 1, 1), "heads": (1, 1, 1), "embedding": 8, "window": 2,
     "mlp_norm": False},
])
def test_every_shape_exports_and_runs(shape: dict) -> None:
    config = config_of(**shape)
    mst = random_mst(config, seed=4)
    network = export(mst, config)  # `check` inside: formats, shapes, residual bound
    outputs = IntegerMST(network).run(images_of(config, 3))
    assert outputs["head"]["logits"].shape == (3, config.model.classes)
    wanted, _ = float_counts(mst, images_of(config, 3))
    counts = integer_counts(network, outputs)
    assert list(counts) and set(counts) == set(wanted)
    assert {name: list(value.shape) for name, value in counts.items()} == {
        name: list(value.shape) for name, value in wanted.items()}
    if shape.get("weight_bits") == 4:
        weights = [layer.weight for layer in network.layers if isinstance(layer, Gemm)]
        assert max(int(np.abs(weight).max()) for weight in weights) == 7
        assert (counts["embed"] == wanted["embed"]).float().mean() > 0.7


def test_export_is_deterministic(exported: tuple[Config, MST, Network]) -> None:
    config, mst, network = exported
    assert digest(export(mst, config)) == digest(network)


def test_exact_weights_give_exact_counts() -> None:
    """Weights that lie on the grid leave nothing to rounding: integer counts equal float counts everywhere."""
    config = config_of(qkv_norm=False, depths=(1,), heads=(2,))
    mst = random_mst(config)
    block = mst.get_submodule("stages.0.blocks.0")
    qkv = mst.get_submodule("stages.0.blocks.0.attn.qkv")
    with torch.no_grad():
        qkv.weight.copy_(torch.randint(-127, 128, qkv.weight.shape) / 512)
        qkv.weight[:, 0] = 127 / 512
        qkv.bias.zero_()
        for path in ("act1", "attn.q_act", "attn.k_act", "attn.v_act"):
            block.get_submodule(path).set_threshold(0.25)  # type: ignore[operator]
    network = export(mst, config)
    layer = network.layer("s0.b0.qkv")
    assert isinstance(layer, Gemm) and layer.threshold is not None
    assert (layer.threshold == 512).all() and (layer.bias == 0).all()
    np.testing.assert_array_equal(layer.weight, np.rint(qkv.weight.detach().numpy() * 512))


def test_negative_scales_become_flags_and_gains(exported: tuple[Config, MST, Network]) -> None:
    _, _, network = exported
    embed, fc2 = network.layer("embed"), network.layer("s0.b0.fc2")
    assert isinstance(embed, Gemm) and embed.norm is not None and 0 < embed.norm.negate.sum() < embed.outputs
    assert isinstance(fc2, Gemm) and fc2.residual is not None and (fc2.residual.gain < 0).any()


def norm_of(scale: list[float], shift: list[float], theta: float = 0.5) -> FoldedNorm:
    size = np.array(scale)
    return FoldedNorm(Affine(size, np.array(shift), np.zeros(len(size)), np.ones(len(size))), theta, False, "")


def test_norm_fire_equals_its_formula() -> None:
    norm = norm_of([1.3, -0.7, 1e-9, 0.0, -1e-8, 0.02], [0.2, 0.9, 1.7, -3.0, 99.0, 0.4])
    stream = Scale(np.full(6, 2e-4), np.array([0.1, -0.4, 0.0, 0.0, 0.0, 2.0]))
    fire = norm_fire(norm, stream, 7)
    x = np.arange(-32768, 32768)[:, None]
    y = norm.affine.scale * (stream.rho * x + stream.offset) + norm.affine.shift
    real = np.clip(np.floor(y / norm.theta + 0.5), 0, 7)
    found = np.clip((np.where(fire.negate > 0, -x, x) + fire.bias + (fire.threshold >> 1)) // fire.threshold, 0, 7)
    # Only next to a threshold may they differ: an integer threshold is off by at most 1/2.
    assert (np.abs(real - found).sum(0) <= [14, 14, 0, 0, 0, 14]).all()
    assert [int(column[0]) for column in found.T[2:5]] == [3, 0, 7]
    assert (fire.threshold[2:5] == limits(THRESHOLD_BITS, False)[1]).all()
    low, high = limits(BIAS_BITS, True)
    assert (fire.bias >= low).all() and (fire.bias <= high).all()


def affine(scale: np.ndarray, mean: float = 0.0, std: float = 1.0) -> Affine:
    return Affine(scale, np.zeros(len(scale)), np.full(len(scale), mean), np.full(len(scale), std))


@pytest.mark.parametrize("levels", [1, 3, 7, 15])
def test_stream_never_leaves_int16(levels: int) -> None:
    random = np.random.default_rng(levels)
    for _ in range(30):
        moves = [affine(random.normal(0, 1, 12) * 10.0 ** random.integers(-3, 2, 12)) for _ in range(3)]
        branches = [step for move in moves for step in (move, None)]
        steps = [Step(0.3, None), *(Step(float(random.uniform(0.05, 2)), move) for move in branches)]
        plan = plan_stage(steps, affine(np.ones(12), 0.5, 2.0), levels, 8)
        assert (sum(np.abs(gain) for gain in plan.gains) * levels <= 32767).all()
        assert (plan.gains[0] >= 1).all()
        for scale in (*plan.before, *plan.after):
            assert np.isfinite(scale.rho).all() and (scale.rho != 0).all()


def test_norm_that_erases_the_shortcut_is_held() -> None:
    zero = affine(np.array([0.0, 1.0]))
    plan = plan_stage([Step(0.3, None), Step(0.3, zero), Step(0.3, None)], affine(np.ones(2), 1.0, 1.0), 7, 8)
    assert plan.held == 1
    # What is left of the old stream moves the channel by much less than one spike of the new branch.
    assert 3 * abs(plan.gains[0][0]) * 7 < plan.gains[2][0]


def test_impossible_thresholds_are_refused() -> None:
    with pytest.raises(ExportError, match=r"residual channel 0: the branches' thresholds differ by a factor of 1e\+06"):
        plan_stage([Step(1e-6, None), Step(1.0, affine(np.ones(1))), Step(1e-6, None)], affine(np.ones(1)), 7, 8)


def test_rom_is_full_and_positive(exported: tuple[Config, MST, Network]) -> None:
    config, _, network = exported
    for layer in network.layers:
        if isinstance(layer, Attention):
            top = np.maximum(layer.rom_num, layer.rom_den).max((1, 2))
            assert (np.abs(top - (2**config.quantize.rom_bits - 1)) <= 1).all()
            assert layer.rom_den[:, (layer.window - 1) * 2 * layer.window].min() >= 1


def test_refusals() -> None:
    config = config_of(depths=(1,), heads=(2,))
    mst = random_mst(config)
    mst.norm = nn.LayerNorm(16).double()  # type: ignore[assignment]
    with pytest.raises(ExportError, match="^norm is a LayerNorm, which no threshold can absorb: set norm and final_norm to"):
        export(mst, config)
    mst = random_mst(config)
    mst.head = nn.Conv1d(16, 5, 1)  # type: ignore[assignment]
    with pytest.raises(ExportError, match="^head is a Conv1d: only a Linear"):
        export(mst, config)
    mst = random_mst(config)
    mst.stages[0].blocks[0].act1 = nn.GELU()  # type: ignore[index, union-attr]
    with pytest.raises(ExportError, match="^s0.b0.act1 is a GELU: only a QCFS"):
        export(mst, config)
    mst = random_mst(config)
    mst.embed.act.levels = 3
    with pytest.raises(ExportError, match="^embed.act has 3 levels and the model 7"):
        export(mst, config)
    mst = random_mst(config)
    with torch.no_grad():
        mst.head.weight[1, 2] = float("nan")
    with pytest.raises(ExportError, match="^head.weight holds nan: the training diverged"):
        export(mst, config)
    mst = random_mst(config)
    with torch.no_grad():
        mst.head.weight.zero_()
    with pytest.raises(ExportError, match="^head: all weights are 0"):
        export(mst, config)
    wide = config_of(depths=(1,), heads=(1,), embedding=32, levels=15)
    mst = random_mst(wide)
    mst.stages[0].blocks[0].attn.score_act.set_threshold(1e5)  # type: ignore[index, union-attr]
    with pytest.raises(ExportError, match=r"^s0.b0.attn: the score threshold \d+ exceeds 1048575"):
        export(mst, wide)
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, classes=6))
    with pytest.raises(ExportError, match="differs from .model. of test"):
        export(random_mst(config), other)
    with pytest.raises(ExportError, match="keeps no running statistics"):
        batch_norm("norm", nn.BatchNorm1d(4, track_running_stats=False))


def test_rounding_beats_plain_rounding_on_inputs_that_move_together() -> None:
    random = np.random.default_rng(0)
    matrix = random.normal(0, 1, (16, 12))
    moments = plain(np.full(12, 120.0), np.full(12, 60.0), 0.9)
    x = random.multivariate_normal(moments.mean, moments.covariance, 4000)
    for top in (7, 127):
        rounded, threshold = round_rows(matrix, top, 2**20 - 1, moments)
        assert np.abs(rounded).max() <= top and (rounded == np.rint(rounded)).all() and (threshold >= 1).all()
        error = matrix - rounded / threshold[:, None]
        clipless = np.floor(top / np.abs(matrix).max(1))[:, None]
        nearest = matrix - np.rint(matrix * clipless) / clipless
        assert (x @ error.T).std(0).mean() < 0.5 * (x @ nearest.T).std(0).mean()


def test_weights_on_the_grid_are_kept() -> None:
    matrix = np.random.default_rng(0).integers(-127, 128, (8, 20)) / 300
    matrix[:, 0] = 127 / 300
    rounded, threshold = round_rows(matrix, 127, 2**20 - 1, plain(np.ones(20), np.ones(20), 0.5))
    assert (threshold == 300).all()
    np.testing.assert_array_equal(rounded, np.rint(matrix * 300))


def test_expected_counts_are_those_of_a_normal_input() -> None:
    norm = Affine(np.array([1.0, -2.0]), np.array([0.3, 0.1]), np.array([0.5, -0.2]), np.array([0.7, 0.4]))
    found = counts_after(norm, 0.2, 7)
    x = np.random.default_rng(0).normal(norm.mean, norm.std, (400_000, 2))
    counts = np.clip(np.floor((x * norm.scale + norm.shift) / 0.2 + 0.5), 0, 7)
    np.testing.assert_allclose(found.mean, counts.mean(0), atol=0.02)
    np.testing.assert_allclose(found.covariance, counts.var(0), atol=0.05)
