"""`stepwise` in plain loops over Python integers, written from docs/semantics.md, section 6, alone. For small networks.

`Lfsr` is the one of naive.py; the neurons here are dictionaries of potentials, kept from step to step.
"""
from fractions import Fraction
from typing import Any

Grid = list[list[int]]


class Neurons:
    """Potentials by (layer, neuron): each starts at half its threshold."""

    def __init__(self) -> None:
        self.v: dict[Any, int] = {}

    def step(self, name: Any, charge: int, threshold: int) -> int:
        """Charge, fire at most once, soft reset."""
        v = self.v.get(name, threshold >> 1) + charge
        fires = v >= threshold
        self.v[name] = v - threshold if fires else v
        return int(fires)


def run(lfsr_class: Any, network: Any, image: Any, number: int, seed: int, ratios: dict[str, int], steps: int) -> list[Any]:
    """[(layer -> what it hands on, this step's logits)] of one image."""
    neurons, out = Neurons(), []
    for t in range(steps):
        step_seed = seed ^ (t * 0x9E3779B1) % 2**32
        out.append(one_step(lfsr_class(step_seed, number), network, image, ratios, neurons))
    return out


def one_step(lfsr: Any, network: Any, image: Any, ratios: dict[str, int], neurons: Neurons) -> Any:
    """One time step of one image."""
    model, row = network.model, 0
    levels, patch = model.levels, model.patch
    side = model.image_size // patch
    values: Grid = [[int(image[y * patch + dy][x * patch + dx][c]) for dy in range(patch) for dx in range(patch)
                     for c in range(model.in_channels)] for y in range(side) for x in range(side)]
    stream: Grid = []
    found: dict[str, Grid] = {}

    def hide(grid: Grid, first_row: int, sites: list[tuple[str, int, int]]) -> Grid:
        result = [list(line) for line in grid]
        for site, start, stop in sites:
            if ratios.get(site, 0):
                for r, line in enumerate(result):
                    drawn = lfsr.row(first_row + r, stop)
                    for column in range(start, stop):
                        if drawn[column] < ratios[site]:
                            line[column] = 0
        return result

    for layer in network.layers:
        if layer.kind == "merge":
            half, phases = layer.side // 2, ((0, 0), (1, 0), (0, 1), (1, 1))
            values = [sum((values[(2 * y + dy) * layer.side + 2 * x + dx] for dy, dx in phases), [])
                      for y in range(half) for x in range(half)]
        if layer.kind == "head":
            values = [[sum(token[c] for token in values) for c in range(len(values[0]))]]
        tokens = len(values)
        if layer.kind == "attn":
            values = found[layer.name] = attend(lfsr, layer, values, levels, row + tokens, ratios.get("scores", 0), neurons)
            continue
        worth = 1 if layer.kind in ("embed", "merge", "head") else levels  # a spike stands for a count of L
        given = [[worth * sum(int(layer.weight[o][i]) * line[i] for i in range(len(line))) + int(layer.bias[o])
                  for o in range(len(layer.weight))] for line in values]
        if layer.kind == "head":
            return found, given[0]
        fired = [[neurons.step((layer.name, r, o), line[o], levels * int(layer.threshold[o])) for o in range(len(line))]
                 for r, line in enumerate(given)]
        if layer.residual is None:
            values = fired
        else:
            gain = [int(g) for g in layer.residual.gain]
            if layer.residual.fresh:
                stream = [[0] * len(gain) for _ in range(tokens)]
            stream = [[stream[r][c] + gain[c] * levels * fired[r][c] for c in range(len(gain))] for r in range(tokens)]
            if layer.norm is not None:
                values = [[neurons.step((layer.name, "norm", r, c),
                                        (-stream[r][c] if layer.norm.negate[c] else stream[r][c]) + int(layer.norm.bias[c]),
                                        levels * int(layer.norm.threshold[c])) for c in range(len(gain))] for r in range(tokens)]
            else:
                shift, top = layer.requantise.shift, 2 ** (layer.requantise.bits - 1)
                values = [[max(-top, min(top - 1, (s + ((1 << shift) >> 1)) // 2**shift)) for s in line] for line in stream]
        if layer.kind == "qkv":
            width, heads = len(layer.weight) // 3, model.heads[int(layer.name[1])]
            values = hide(values, row, [("q", 0, width), ("k", width, 2 * width)])
        elif layer.kind == "proj":
            values = hide(values, row + tokens + tokens * heads, [("fc1", 0, len(values[0]))])
        elif layer.kind == "fc1":
            values = hide(values, row + 2 * tokens + tokens * heads, [("fc2", 0, len(values[0]))])
        elif layer.kind == "fc2":
            row += 3 * tokens + tokens * heads
        found[layer.name] = values
    raise AssertionError("a network ends with its head")


def attend(lfsr: Any, layer: Any, qkv: Grid, levels: int, first_row: int, ratio: int, neurons: Neurons) -> Grid:
    """Windowed attention of one step on spikes [T][3C]."""
    side, window, shift, heads, d = layer.side, layer.window, layer.shift, layer.heads, layer.head_size
    width, across, n = heads * d, side // window, window * window
    out = [[0] * width for _ in range(side * side)]
    place = [(i // window, i % window) for i in range(n)]
    for w in range(across * across):
        wy, wx = w // across, w % across
        token = [(wy * window + iy + shift) % side * side + (wx * window + ix + shift) % side for iy, ix in place]
        for head in range(heads):
            for i in range(n):
                numerator, denominator = [0] * d, 0
                drawn = lfsr.row(first_row + (w * heads + head) * n + i, n) if ratio else [255] * n
                for j in range(n):
                    s = sum(qkv[token[i]][head * d + c] * qkv[token[j]][width + head * d + c] for c in range(d))
                    a = neurons.step((layer.name, "scores", w, head, i, j), levels * s << 8, layer.score_threshold)
                    if drawn[j] < ratio:
                        a = 0
                    (iy, ix), (jy, jx) = place[i], place[j]
                    if shift and wy == across - 1 and (iy < window - shift) != (jy < window - shift):
                        continue
                    if shift and wx == across - 1 and (ix < window - shift) != (jx < window - shift):
                        continue
                    entry = (head, (iy - jy + window - 1) * (2 * window - 1) + ix - jx + window - 1, levels * a)
                    denominator += int(layer.rom_den[entry])
                    for c in range(d):
                        numerator[c] += int(layer.rom_num[entry]) * qkv[token[j]][2 * width + head * d + c]
                for c in range(d):
                    current = int(Fraction(numerator[c], denominator) * 2**16 // 1)
                    out[token[i]][head * d + c] = neurons.step((layer.name, w, head, i, c), current, 2**16)
    return out
