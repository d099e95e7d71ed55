"""A second golden model: plain loops over Python integers, written from docs/semantics.md alone.

Shares nothing with `sim.golden`: neurons subtract spike by spike, and the LFSR is stepped here. For small networks.
"""
from typing import Any

Grid = list[list[int]]


class Lfsr:
    """The mask stream of one image. Rows are reached with powers of the step's matrix over GF(2)."""

    def __init__(self, seed: int, image: int) -> None:
        self.start = seed ^ image
        if self.start == 0:
            self.start = 1
        matrix = [self.step(1 << bit) for bit in range(32)]
        for _ in range(15):  # 2^15 steps: 4096 draws of 8 steps
            matrix = [self.times(matrix, column) for column in matrix]
        self.row_matrix = matrix
        self.row_states = [self.start]

    @staticmethod
    def step(s: int) -> int:
        """One shift."""
        fed = (s >> 31 & 1) ^ (s >> 21 & 1) ^ (s >> 1 & 1) ^ (s & 1)
        return (s << 1 | fed) % 2**32

    @staticmethod
    def times(matrix: list[int], state: int) -> int:
        """Matrix (a list of columns) times state."""
        total = 0
        for bit in range(32):
            if state >> bit & 1:
                total ^= matrix[bit]
        return total

    def row(self, row: int, columns: int) -> list[int]:
        """The first `columns` draws of a row."""
        while len(self.row_states) <= row:
            self.row_states.append(self.times(self.row_matrix, self.row_states[-1]))
        state, drawn = self.row_states[row], []
        for _ in range(columns):
            for _ in range(8):
                state = self.step(state)
            drawn.append(state & 255)
        return drawn


def spikes(v: int, threshold: int, levels: int) -> int:
    """Fire while v >= threshold, at most `levels` times, subtracting the threshold."""
    assert threshold >= 1
    count = 0
    while v >= threshold and count < levels:
        v -= threshold
        count += 1
    return count


def spikes_by_phase(v: int, threshold: int, levels: int) -> int:
    """The same, heaviest phase first."""
    count = 0
    for phase in reversed(range(levels.bit_length())):
        if v >= threshold << phase:
            v -= threshold << phase
            count += 1 << phase
    return count


def run(network: Any, image: Any, number: int, seed: int, ratios: dict[str, int]) -> dict[str, dict[str, Any]]:
    """All boundaries of one image, masked by the `ratios` of sites or of blocks' sites ("s0.b1.q"), in 1/256.

    Layer -> {inputs, before, what the layer stores, scores, scores_before}.
    """
    model = network.model
    levels, patch = model.levels, model.patch
    lfsr = Lfsr(seed, number)
    side = model.image_size // patch
    values: Grid = []
    for y in range(side):
        for x in range(side):
            values.append([int(image[y * patch + dy][x * patch + dx][c]) for dy in range(patch) for dx in range(patch)
                           for c in range(model.in_channels)])
    stream: Grid = []
    before: Grid | None = None
    row = 0
    trace: dict[str, dict[str, Any]] = {}
    block = ""

    def ratio(site: str) -> int:
        return ratios.get(f"{block}.{site}", ratios.get(site, 0))

    def masked(grid: Grid, first_row: int, sites: list[tuple[str, int, int]]) -> tuple[Grid, Grid | None]:
        if not any(ratio(site) for site, _, _ in sites):
            return grid, None
        result = [list(line) for line in grid]
        for r, line in enumerate(result):
            drawn = lfsr.row(first_row + r, max(stop for _, _, stop in sites))
            for site, start, stop in sites:
                for column in range(start, stop):
                    if drawn[column] < ratio(site):
                        line[column] = 0
        return result, grid

    for layer in network.layers:
        if layer.kind == "merge":
            half = layer.side // 2
            phases = ((0, 0), (1, 0), (0, 1), (1, 1))
            values = [sum((values[(2 * y + dy) * layer.side + 2 * x + dx] for dy, dx in phases), [])
                      for y in range(half) for x in range(half)]
        if layer.kind == "head":
            values = [[sum(token[c] for token in values) for c in range(len(values[0]))]]
        found: dict[str, Any] = {"inputs": values}
        if before is not None:
            found["before"] = before
        before = None
        trace[layer.name] = found
        tokens = len(values)
        block = layer.name.rpartition(".")[0]
        if layer.kind == "attn":
            attend(layer, values, levels, row + tokens, lfsr, ratio("scores"), found)
            values = found["counts"]
            continue
        counts: Grid = []
        for t in range(tokens):
            line = []
            for o in range(len(layer.weight)):
                v = sum(int(layer.weight[o][i]) * values[t][i] for i in range(len(values[t]))) + int(layer.bias[o])
                if layer.kind == "head":
                    line.append(v)
                else:
                    threshold = int(layer.threshold[o])
                    line.append(spikes(v + (threshold >> 1), threshold, levels))
            counts.append(line)
        if layer.kind == "head":
            found["logits"] = counts[0]
            continue
        if layer.residual is None:
            values = counts
        else:
            gain = [int(g) for g in layer.residual.gain]
            if layer.kind in ("embed", "merge"):
                stream = [[0] * len(gain) for _ in range(tokens)]
            stream = [[stream[t][c] + gain[c] * counts[t][c] for c in range(len(gain))] for t in range(tokens)]
            found["stream"] = stream
            if layer.norm is not None:
                values = []
                for t in range(tokens):
                    line = []
                    for c in range(len(gain)):
                        threshold = int(layer.norm.threshold[c])
                        v = -stream[t][c] if layer.norm.negate[c] else stream[t][c]
                        line.append(spikes(v + int(layer.norm.bias[c]) + (threshold >> 1), threshold, levels))
                    values.append(line)
            else:
                shift, top = layer.requantise.shift, 2 ** (layer.requantise.bits - 1)
                half_step = (1 << shift) >> 1
                values = [[max(-top, min(top - 1, (s + half_step) // 2**shift)) for s in line] for line in stream]
        if layer.kind == "qkv":
            block_heads = model.heads[int(layer.name[1])]
            width = len(layer.weight) // 3
            values, before = masked(values, row, [("q", 0, width), ("k", width, 2 * width)])
        elif layer.kind == "proj":
            values, before = masked(values, row + tokens + tokens * block_heads, [("fc1", 0, len(values[0]))])
        elif layer.kind == "fc1":
            values, before = masked(values, row + 2 * tokens + tokens * block_heads, [("fc2", 0, len(values[0]))])
        elif layer.kind == "fc2":
            row += 3 * tokens + tokens * block_heads
        found["planes" if layer.requantise is not None else "counts" if layer.residual is None else "next"] = values
    return trace


def attend(layer: Any, qkv: Grid, levels: int, first_row: int, lfsr: Lfsr, ratio: int, found: dict[str, Any]) -> None:
    """Windowed attention of `layer` on counts [T][3C]; adds counts, scores and scores_before to `found`."""
    side, window, shift, heads, d = layer.side, layer.window, layer.shift, layer.heads, layer.head_size
    width, across, n = heads * d, side // window, window * window
    out = [[0] * width for _ in range(side * side)]
    scores: list[list[list[Grid]]] = []
    unmasked: list[list[list[Grid]]] = []
    for w in range(across * across):
        wy, wx = w // across, w % across
        scores.append([])
        unmasked.append([])
        place = [(i // window, i % window) for i in range(n)]
        token = [(wy * window + iy + shift) % side * side + (wx * window + ix + shift) % side for iy, ix in place]
        for head in range(heads):
            grid, plain = [], []
            for i in range(n):
                q = qkv[token[i]][head * d:(head + 1) * d]
                line = []
                for j in range(n):
                    k = qkv[token[j]][width + head * d:width + (head + 1) * d]
                    s = sum(q[c] * k[c] for c in range(d))
                    line.append(spikes((s << 8) + (layer.score_threshold >> 1), layer.score_threshold, levels))
                plain.append(line)
                if ratio:
                    drawn = lfsr.row(first_row + (w * heads + head) * n + i, n)
                    line = [0 if drawn[j] < ratio else line[j] for j in range(n)]
                grid.append(line)
                numerator, denominator = [0] * d, 0
                for j in range(n):
                    (iy, ix), (jy, jx) = place[i], place[j]
                    if shift and wy == across - 1 and (iy < window - shift) != (jy < window - shift):
                        continue
                    if shift and wx == across - 1 and (ix < window - shift) != (jx < window - shift):
                        continue
                    entry = (head, (iy - jy + window - 1) * (2 * window - 1) + ix - jx + window - 1, line[j])
                    denominator += int(layer.rom_den[entry])
                    for c in range(d):
                        numerator[c] += int(layer.rom_num[entry]) * qkv[token[j]][2 * width + head * d + c]
                for c in range(d):
                    out[token[i]][head * d + c] = spikes(numerator[c] + (denominator >> 1), denominator, levels)
            scores[w].append(grid)
            unmasked[w].append(plain)
    found["counts"], found["scores"] = out, scores
    if ratio:
        found["scores_before"] = unmasked
