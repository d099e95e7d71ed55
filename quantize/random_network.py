"""Untrained integer networks of any legal shape, with the activity of trained ones and the formats' corners in use.

Weights are drawn; thresholds and biases come from the spread seen on a few random images, which a small simulation here
carries from layer to layer. It need not equal the golden (it ignores window shift and masks): only the spread matters.
Integer arithmetic and order statistics only, so that a seed gives the same network everywhere.
"""
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.config import AnyModel, ModelConfig, QuantizeConfig
from quantize.check import LayerShape, accumulator_bound, check, shapes
from quantize.formats import BIAS_BITS, LOGIT_BITS, SCORE_SHIFT, STREAM_BITS, THRESHOLD_BITS, limits
from quantize.layers import Attention, Gemm, Ints, Layer, Network, NormFire, Requantise, Residual

IMAGES = 2
"""Images that set the thresholds."""
Activity = Mapping[str, tuple[float, float]]
"""Shares of the spike counts that are not 0, and that have their heaviest bit set, by what fires: the layer's kind (its last
neuron), q, k, v, scores."""
TRAINED: Activity = {
    "embed": (0.385, 0.120), "q": (0.467, 0.168), "k": (0.477, 0.149), "v": (0.446, 0.136), "attn": (0.642, 0.206),
    "scores": (0.789, 0.159), "proj": (0.408, 0.103), "fc1": (0.367, 0.075), "fc2": (0.403, 0.084), "merge": (0.321, 0.068),
}
"""Of the trained configs/cifar10-tiny.mstn on the committed sample images, to three decimals (tests/test_random_activity.py
measures them): L = 7, so that the two fix the counts' spread."""
ROUNDS = 12
"""Rounds in which neurons come to meet an activity."""
_THRESHOLD_TOP = limits(THRESHOLD_BITS, False)[1]


def random_images(model: AnyModel, seed: int, count: int) -> NDArray[np.uint8]:
    """Images uint8 [count, H, W, C]: smooth blocks under noise, so that neighbours are alike as in photographs.

    Of their 8 bits the model's `in_bits` heaviest."""
    rng = np.random.Generator(np.random.PCG64(seed))
    side = model.image_size
    coarse = rng.integers(0, 256, (count, -(-side // 4), -(-side // 4), model.in_channels))
    smooth = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :side, :side]
    return np.clip(smooth + rng.integers(-40, 41, smooth.shape), 0, 255).astype(np.uint8) >> 8 - model.in_bits


def random_network(model: AnyModel, seed: int, quantize: QuantizeConfig | None = None,
                   activity: Activity | None = None) -> Network:
    """An untrained, checked network: a function of the arguments alone, with mean firing rates of about 0.1 to 0.5.

    `activity`, such as TRAINED: thresholds and biases meet these shares on the images drawn here, instead of covering the
    formats' corners; scores and attention, with one threshold for both, meet the share that is not 0. ValueError for a seed
    below 0.
    """
    if seed < 0:
        raise ValueError(f"the seed of random weights must be 0 or more, not {seed}")
    draft = _Draft(model, quantize or QuantizeConfig(), seed, activity)
    layers = tuple(draft.layer(shape) for shape in draft.shapes)
    network = Network(model, layers, draft.quantize.rom_bits, {"random_weights": seed})
    check(network)
    return network


def _quantile(values: Ints, share: Ints | float) -> Ints:
    """Order statistic per column of values [N, C]; `share` scalar or [C]."""
    ordered = np.sort(values, axis=0)
    index = np.minimum((np.asarray(share) * len(values)).astype(np.int64), len(values) - 1)
    return ordered[np.broadcast_to(index, values.shape[1:]), np.arange(values.shape[1])]


def _multiply(values: Ints, weight: Ints) -> Ints:
    """values [N, in] times weight [out, in], exact: every value here is far below 2^53."""
    return (values.astype(np.float64) @ weight.T.astype(np.float64)).astype(np.int64)


@dataclass(slots=True)
class _Budget:
    """What is left of every channel's residual bound, and of the additions that share it."""

    left: Ints
    additions: int


class _Draft:
    """A network under construction: the values that flow, [IMAGES * tokens, C], and the residual beside them."""

    def __init__(self, model: AnyModel, quantize: QuantizeConfig, seed: int, activity: Activity | None) -> None:
        self.model, self.quantize, self.activity = model, quantize, activity
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.levels = model.levels
        self.shapes = shapes(model, self.quantize.stream_bits)
        images = random_images(model, seed, IMAGES).astype(np.int64)
        side, patch = model.side(0), model.patch
        blocks = images.reshape(IMAGES, side, patch, side, patch, model.in_channels)
        self.values: Ints = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(IMAGES * side * side, -1)
        self.stream: Ints = self.values[:, :0]
        self.budget = _Budget(self.values[0, :0], 0)

    def layer(self, shape: LayerShape) -> Layer:
        """The next layer; the values move past it."""
        return self.attention(shape) if shape.kind == "attn" else self.gemm(shape)

    def neuron(self, charge: Ints, kinds: tuple[str, ...] = ()) -> tuple[Ints, Ints, Ints]:
        """Bias and threshold [C] that spread the counts of charge [N, C], and those counts.

        `kinds`: what fires, for equal parts of the channels, where an activity is to be met.
        """
        channels = charge.shape[1]
        if self.activity is not None and kinds and all(kind in self.activity for kind in kinds):
            return self.met(charge, np.array([self.activity[kind] for kind in kinds]).repeat(channels // len(kinds), axis=0).T)
        low = _quantile(charge, self.rng.integers(30, 75, channels) / 100)
        high = _quantile(charge, 0.985)
        # Where most values are equal, the rest set the spread.
        low = np.where(high <= low, charge.min(axis=0), low)
        high = np.maximum(high, low + (charge.max(axis=0) - low) // 2)
        threshold = np.clip((high - low) // self.levels, 1, _THRESHOLD_TOP)
        bias = -low - (threshold >> 1) * self.rng.integers(0, 2, channels)
        # Some channels never fire, some always fire fully.
        state = self.rng.integers(0, 24, channels)
        bias = np.where(state == 0, -charge.max(axis=0) - threshold, bias)
        bias = np.where(state == 1, threshold * self.levels - charge.min(axis=0), bias)
        lowest, highest = limits(BIAS_BITS, True)
        bias = np.clip(bias, lowest, highest)
        return bias, threshold, np.clip((charge + bias + (threshold >> 1)) // threshold, 0, self.levels)

    def met(self, charge: Ints, shares: NDArray[np.float64]) -> tuple[Ints, Ints, Ints]:
        """`neuron`, its counts not 0 in `shares[0]` [C] of the cases and with the heaviest bit in `shares[1]` [C].

        Equal values fire together, so a channel can miss its share: the error is taken off what the next round aims at.
        """
        ordered, heavy = np.sort(charge, axis=0), (self.levels + 1) // 2
        lowest, highest = limits(BIAS_BITS, True)
        aim, parts = shares.copy(), [shares[0] == share for share in np.unique(shares[0])]
        best, least = (charge[0], charge[0], charge), float("inf")
        for _ in range(ROUNDS):
            place = np.clip(((1 - aim) * len(charge)).astype(np.int64), 0, len(charge) - 1)
            one, half = np.take_along_axis(ordered, place, axis=0)
            threshold = np.clip((half - one) // max(1, heavy - 1), 1, _THRESHOLD_TOP)
            bias = np.clip(threshold - one - (threshold >> 1), lowest, highest)
            counts = np.clip((charge + bias + (threshold >> 1)) // threshold, 0, self.levels)
            off = 0.0
            for part in parts:
                for row, level in enumerate((1, heavy)):
                    error = shares[row, part] - int((counts[:, part] >= level).sum()) / counts[:, part].size
                    aim[row, part] = np.clip(aim[row, part] + error / 2, 0, 1)
                    off += float(np.abs(error).max())
            aim[1] = np.minimum(aim[0], aim[1])
            if off < least:
                best, least = (bias, threshold, counts), off
        return best

    def weights(self, outputs: int, inputs: int) -> Ints:
        """Weights [out, in]: bell-shaped, with some rows over the whole range and both extremes present."""
        low, high = limits(self.quantize.weight_bits, True)
        bell = self.rng.integers(low, high + 1, (3, outputs, inputs)).sum(axis=0) // 3
        flat = self.rng.integers(low, high + 1, (outputs, inputs))
        weight = np.where(self.rng.integers(0, 4, (outputs, 1)) == 0, flat, bell)
        weight.flat[self.rng.integers(0, weight.size, 1 + weight.size // 50)] = low
        weight.flat[self.rng.integers(0, weight.size, 1 + weight.size // 50)] = high
        return weight

    def gather(self, shape: LayerShape) -> Ints:
        """The GEMM's input values [IMAGES * tokens, in] from the values that the layer before left."""
        if shape.kind == "merge":
            grid = self.values.reshape(IMAGES, shape.side, shape.side, -1)
            four = [grid[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
            return np.concatenate(four, axis=3).reshape(IMAGES * shape.tokens, -1)
        if shape.gather is not None:
            edge, size = shape.gather.padding, shape.gather.kernel
            grid = np.pad(self.values.reshape(IMAGES, shape.side, shape.side, -1), ((0, 0), (edge, edge), (edge, edge), (0, 0)))
            places = np.arange(shape.gather.out_side(shape.side)) * shape.gather.stride
            taps = [grid[:, places[:, None] + row, places + column] for column in range(size) for row in range(size)]
            return np.concatenate(taps, axis=3).reshape(IMAGES * shape.tokens, -1)
        if shape.kind == "head":
            return self.values.reshape(IMAGES, shape.side**2, -1).sum(axis=1)
        return self.values

    def gemm(self, shape: LayerShape) -> Gemm:
        """A GEMM, its neuron and what follows."""
        weight = self.weights(shape.outputs, shape.inputs)
        charge = _multiply(self.gather(shape), weight)
        fixed = (shape.name, shape.kind, shape.tokens, shape.side, weight)
        if shape.kind == "head":
            head = Gemm(*fixed, self.rng.integers(-5000, 5001, shape.outputs), None, shape.in_bits, shape.in_signed)
            # A sum over very many tokens leaves few bits for the weights.
            while accumulator_bound(head) >= limits(LOGIT_BITS, True)[1] - 5000:
                head = dataclasses.replace(head, weight=head.weight // 2)
            return head
        fires = () if shape.residual else ("q", "k", "v") if shape.kind == "qkv" else (shape.kind,)
        inputs = self.values
        bias, threshold, self.values = self.neuron(charge, fires)
        residual = self.residual(shape) if shape.residual else None
        if shape.residual and not shape.after:
            self.values = inputs
        norm = self.norm(shape, residual) if residual and shape.after == "norm" else None
        requantise = self.requantise() if shape.after == "planes" else None
        return Gemm(*fixed, bias, threshold, shape.in_bits, shape.in_signed, residual, norm, requantise, shape.gather)

    def residual(self, shape: LayerShape) -> Residual:
        """Gains of both signs; in every fourth channel the stage's additions use the whole bound."""
        channels, fresh = shape.outputs, shape.residual == "fresh"
        if fresh:
            top = limits(STREAM_BITS, True)[1] // self.levels
            whole = self.rng.integers(0, 4, channels) == 0
            self.budget = _Budget(np.where(whole, top, self.rng.integers(top // 8, top + 1, channels)),
                                  sum(other.stage == shape.stage and other.residual != "" for other in self.shapes))
        fair = self.budget.left // self.budget.additions
        size = fair if self.budget.additions > 1 else self.budget.left
        size = np.where(self.rng.integers(0, 3, channels) == 0, size // 2, size) if self.budget.additions > 1 else size
        self.budget.left, self.budget.additions = self.budget.left - size, self.budget.additions - 1
        gain = np.where(self.rng.integers(0, 3, channels) == 0, -size, size)
        self.stream = gain * self.values + (0 if fresh else self.stream)
        return Residual(gain, fresh)

    def norm(self, shape: LayerShape, residual: Residual) -> NormFire:
        """Norm fire with about a third of its channels negated; where an activity is to be met, those with a negative gain."""
        negate = (self.rng.integers(0, 3, shape.outputs) == 0).astype(np.int64)
        if self.activity is not None:
            negate = (residual.gain < 0).astype(np.int64)
        bias, threshold, self.values = self.neuron(np.where(negate == 1, -self.stream, self.stream), (shape.kind,))
        return NormFire(negate, bias, threshold, shape.site)

    def requantise(self) -> Requantise:
        """A shift that saturates the largest values only."""
        bits = self.quantize.stream_bits
        largest = int(_quantile(np.abs(self.stream).reshape(-1, 1), 0.95)[0])
        shift = max(0, largest.bit_length() - (bits - 1))
        top = 1 << bits - 1
        self.values = np.clip((self.stream + ((1 << shift) >> 1)) >> shift, -top, top - 1)
        return Requantise(shift, bits)

    def roms(self, heads: int, window: int) -> tuple[Ints, Ints]:
        """ROMs that grow with the score, with entries at both ends of their range."""
        top = limits(self.quantize.rom_bits, False)[1]
        shape = (heads, (2 * window - 1)**2, self.levels + 1)
        if self.activity is not None:
            return self.focused(shape, window), np.ones(shape, np.int64)
        step = self.rng.integers(0, 2 * top // (self.levels + 1), shape)
        num = np.minimum(np.cumsum(step, axis=2), top)
        # The quotient num/den is the gain of the attention output: 1, 2 or 4, and slightly uneven; at L = 1 the
        # mean of the values must pass one half to fire at all.
        least = 1 if self.levels == 1 else 0
        den = (num >> self.rng.integers(least, least + 3, (heads, 1, 1))) + self.rng.integers(0, 3, shape)
        for rom in (num, den):
            rom.flat[self.rng.integers(1, rom.size, 1 + rom.size // 30)] = top
        for rom, low in ((num, 0), (den, 1)):
            rom.flat[self.rng.integers(1, rom.size, rom.size // 60)] = low
            rom.flat[0] = low
        return num, np.clip(den, 1, top)

    def focused(self, shape: tuple[int, int, int], window: int) -> Ints:
        """Numerators of heads that look at one neighbour each, as trained ones do: halved with each unit of squared distance."""
        dy, dx = (grid.reshape(-1) - window + 1 for grid in np.indices((2 * window - 1, 2 * window - 1)))
        y, x = self.rng.integers(-1, 2, (2, shape[0], 1))
        far = np.minimum((dy - y)**2 + (dx - x)**2, 20)
        grown = limits(self.quantize.rom_bits, False)[1] * np.arange(1, shape[2] + 1) // shape[2]
        return grown >> far[..., None]

    def divisor(self, num: Ints, charge: Ints, total: Ints) -> Ints:
        """ROM of denominators: numerators `num` times what makes the wanted share of `charge` [B, heads, n, d] fire.

        `total` [B, heads, n, 1]: the sums of numerators. Fires from charge >= den / 2 on.
        """
        assert self.activity is not None
        twice = (2 << 8) * charge // np.maximum(total, 1)
        heads = twice.transpose(0, 2, 3, 1).reshape(-1, twice.shape[1])
        least = np.maximum(_quantile(heads, 1 - self.activity["attn"][0]), 1)
        return np.clip(num * least[:, None, None] >> 8, 1, limits(self.quantize.rom_bits, False)[1])

    def attention(self, shape: LayerShape) -> Attention:
        """Attention whose scores and outputs spread; the simulation takes consecutive tokens for a window."""
        model, stage = self.model, shape.stage
        assert isinstance(model, ModelConfig)
        heads, window = model.heads[stage], model.window_of(stage)
        n, d = window * window, shape.outputs // heads
        q, k, v = self.values.reshape(-1, n, 3, heads, d).transpose(2, 0, 3, 1, 4)
        dot = (q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2)).astype(np.int64)
        high = int(_quantile(dot.reshape(-1, 1), 0.97)[0])
        threshold = min(max(1, (high << SCORE_SHIFT) // self.levels), _THRESHOLD_TOP)
        if self.activity is not None:
            least = int(_quantile(dot.reshape(-1, 1), 1 - self.activity["scores"][0])[0])
            threshold = min(max(1, least << SCORE_SHIFT + 1), _THRESHOLD_TOP)
        a = np.clip(((dot << SCORE_SHIFT) + (threshold >> 1)) // threshold, 0, self.levels)
        num, den = self.roms(heads, window)
        y, x = np.divmod(np.arange(n), window)
        relative = (y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1
        head = np.arange(heads)[:, None, None]
        charge = (num[head, relative, a].astype(np.float64) @ v.astype(np.float64)).astype(np.int64)
        if self.activity is not None:
            den = self.divisor(num, charge, num[head, relative, a].sum(axis=-1)[..., None])
        row = den[head, relative, a].sum(axis=-1)[..., None]
        out = np.clip((charge + (row >> 1)) // row, 0, self.levels)
        self.values = out.transpose(0, 2, 1, 3).reshape(-1, heads * d)
        shift = model.shift_of(stage, shape.block)
        return Attention(shape.name, shape.side, heads, d, window, shift, threshold, num, den)
