"""Windows, their mask and bias, and the whole block against a plain element-by-element computation."""
import math

import pytest
import torch

from model.attention import WINDOW_MASK, initial_bias, partition, relative_index, unpartition, window_mask
from model.config import ModelConfig
from model.neuron import Engine
from model.swin import Block

torch.set_num_threads(1)


@pytest.mark.parametrize("side, window, shift", [(4, 4, 0), (8, 4, 0), (8, 4, 2), (6, 2, 1), (14, 7, 3)])
def test_partition_is_inverted_and_follows_the_stated_order(side: int, window: int, shift: int) -> None:
    x = torch.arange(2 * side * side * 3).view(2, side * side, 3)
    windows = partition(x, side, window, shift)
    assert torch.equal(unpartition(windows, side, window, shift), x)
    across = side // window
    for w in range(across**2):
        for i in range(window**2):
            y = (w // across * window + i // window + shift) % side
            column = (w % across * window + i % window + shift) % side
            assert torch.equal(windows[across**2 + w, i], x[1, y * side + column])


@pytest.mark.parametrize("side, window, shift", [(8, 4, 0), (8, 4, 2), (6, 2, 1), (14, 7, 3)])
def test_window_mask_is_the_rule_of_the_semantics(side: int, window: int, shift: int) -> None:
    mask, across = window_mask(side, window, shift), side // window
    for w in range(across**2):
        for i in range(window**2):
            for j in range(window**2):
                sees = True
                if shift and w // across == across - 1:
                    sees &= (i // window < window - shift) == (j // window < window - shift)
                if shift and w % across == across - 1:
                    sees &= (i % window < window - shift) == (j % window < window - shift)
                assert mask[w, i, j] == (0 if sees else WINDOW_MASK)


def test_relative_index_and_initial_bias() -> None:
    index = relative_index(3)
    assert index[0, 0] == 2 * 5 + 2
    assert index[5, 6] == (1 - 2 + 2) * 5 + (2 - 0 + 2)
    bias = initial_bias(3, 4, turn=0.0)
    assert bias.shape == (25, 4)
    assert bias[:, 0].argmax() == 2 * 5 + 3  # offset (0, +1)
    assert bias[:, 1].argmax() == 3 * 5 + 2  # offset (+1, 0)


def naive_block(block: Block, config: ModelConfig, x: list[list[float]], shift: int) -> list[list[float]]:
    """One image through `block` in plain Python; tokens x[token][channel]."""
    side, window, heads, channels = config.side(0), config.window, config.heads[0], config.width(0)
    size, tokens = channels // heads, range(config.side(0)**2)

    def norm(layer: torch.nn.Module, row: list[float]) -> list[float]:
        mean, var = layer.running_mean.tolist(), layer.running_var.tolist()  # type: ignore[union-attr, operator]
        scale, bias = layer.weight.tolist(), layer.bias.tolist()  # type: ignore[union-attr, operator]
        return [(v - m) / math.sqrt(s + 1e-5) * g + b
                for v, m, s, g, b in zip(row, mean, var, scale, bias, strict=True)]

    def linear(layer: torch.nn.Linear, row: list[float]) -> list[float]:
        return [sum(w * v for w, v in zip(weights, row, strict=True)) + bias
                for weights, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)]

    def act(layer: torch.nn.Module, value: float) -> float:
        threshold = float(layer.threshold.detach())  # type: ignore[arg-type]
        return threshold * min(max(math.floor(value / threshold + 0.5), 0), config.levels)

    attn = block.attn
    qkv = []
    for t in tokens:
        row = [act(block.act1, v) for v in norm(block.norm1, x[t])]
        row = linear(attn.qkv, row)
        if attn.qkv_norm is not None:
            row = norm(attn.qkv_norm, row)
        parts = [row[p * channels:(p + 1) * channels] for p in range(3)]
        qkv.append([[act(a, v) for v in part]
                    for a, part in zip((attn.q_act, attn.k_act, attn.v_act), parts, strict=True)])

    def place(t: int) -> tuple[int, int]:
        return (t // side - shift) % side, (t % side - shift) % side

    def region(at: int) -> int:
        return 0 if at < side - window else 1 if at < side - shift else 2

    result = []
    for i in tokens:
        yi, xi = place(i)
        out: list[float] = []
        for h in range(heads):
            weights = []
            for j in tokens:
                yj, xj = place(j)
                same = (yi // window, xi // window) == (yj // window, xj // window)
                if not same or shift and (region(yi), region(xi)) != (region(yj), region(xj)):
                    continue
                score = sum(qkv[i][0][h * size + c] * qkv[j][1][h * size + c] for c in range(size)) / math.sqrt(size)
                row_of_table = (yi % window - yj % window + window - 1) * (2 * window - 1) \
                    + xi % window - xj % window + window - 1
                weights.append((j, math.exp(act(attn.score_act, score) + float(attn.bias_table[row_of_table, h].detach()))))
            total = sum(weight for _, weight in weights)
            out += [act(attn.out_act, sum(w * qkv[j][2][h * size + c] for j, w in weights) / total)
                    for c in range(size)]
        row = linear(attn.proj, out)
        if attn.proj_norm is not None:
            row = norm(attn.proj_norm, row)
        row = norm(block.norm2, [v + act(attn.proj_act, y) for v, y in zip(x[i], row, strict=True)])
        h1 = linear(block.mlp.fc1, [act(block.act2, v) for v in row])
        if block.mlp.norm1 is not None:
            h1 = norm(block.mlp.norm1, h1)
        h2 = linear(block.mlp.fc2, [act(block.mlp.act1, v) for v in h1])
        if block.mlp.norm2 is not None:
            h2 = norm(block.mlp.norm2, h2)
        result.append([v + act(block.mlp.act2, y) for v, y in zip(row, h2, strict=True)])
    return result


@pytest.mark.parametrize("number, norms", [(0, True), (1, True), (1, False)])
def test_block_is_the_naive_computation(number: int, norms: bool) -> None:
    torch.manual_seed(3)
    config = ModelConfig(image_size=8, in_channels=1, classes=2, patch=2, embedding=6, depths=(2,), heads=(2,),
                         window=2, mlp_ratio=1.5, levels=7, mlp_norm=norms, qkv_norm=norms)
    block = Block(config, 0, number).double()
    with torch.no_grad():
        for parameter in block.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-0.5, 1.5)
        block.train()
        block(torch.randn(8, 16, 6, dtype=torch.float64), Engine())  # BatchNorm statistics
        block.eval()
        x = torch.randn(1, 16, 6, dtype=torch.float64)
        found = block(x, Engine())[0]
    wanted = torch.tensor(naive_block(block, config, x[0].tolist(), config.shift_of(0, number)), dtype=torch.float64)
    assert config.shift_of(0, number) == number
    assert torch.allclose(found, wanted, atol=1e-9)
