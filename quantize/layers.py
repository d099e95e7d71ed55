"""Layer parameters of the integer network, as numpy integers (docs/semantics.md). No torch.

A `Network` is a tuple of layers in execution order; each reads what was handed on last. `Gemm` is every spike GEMM; what follows
its neuron is a `Residual` and a `NormFire`, a `Requantise` or nothing. `Attention` is windowed spike attention with a ROM
softmax.
"""
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.config import AnyModel, ModelConfig

Ints = NDArray[np.int64]


class NetworkError(ValueError):
    """A network that breaks a format or a shape: the message names the layer, the value and the remedy."""


@dataclass(frozen=True, slots=True)
class Residual:
    """stream = (0 if fresh else stream) + gain * count. `gain`: int [C]."""

    gain: Ints
    fresh: bool


@dataclass(frozen=True, slots=True)
class NormFire:
    """BatchNorm and neuron on the stream. `negate`: 0/1 [C]; `bias`, `threshold`: int [C]; `site`: '', 'fc1' or 'conv'."""

    negate: Ints
    bias: Ints
    threshold: Ints
    site: str


@dataclass(frozen=True, slots=True)
class Requantise:
    """The stream as `bits` signed planes after a rounding shift by `shift`."""

    shift: int
    bits: int


@dataclass(frozen=True, slots=True)
class Gather:
    """Tokens that one output token of a convolution reads: kernel x kernel, `stride` apart from token to token.

    Output token (y, x) reads input tokens (y*stride + ky - padding, x*stride + kx - padding); outside the map they are 0.
    """

    kernel: int
    stride: int
    padding: int

    def out_side(self, side: int) -> int:
        """Side of the output map for an input map of `side`."""
        return (side + 2 * self.padding - self.kernel) // self.stride + 1


@dataclass(frozen=True, slots=True)
class Gemm:
    """A spike GEMM: weights [out, in], bias [out], threshold [out] (None for the head).

    `kind`: embed, qkv, proj, fc1, fc2, merge, conv (with its `gather`) or head. `tokens`: output tokens. `side`: side of the
    *input* token map (for embed: of the map of patches). `in_bits`, `in_signed`: bit planes of one input value: `in_bits` of
    the model, b counts, M planes into a merge; the head's input is a sum of tokens, with ceil(log2 tokens) bits more.
    A residual without `norm` and `requantise`: its counts only join the stream.
    """

    name: str
    kind: str
    tokens: int
    side: int
    weight: Ints
    bias: Ints
    threshold: Ints | None
    in_bits: int
    in_signed: bool
    residual: Residual | None = None
    norm: NormFire | None = None
    requantise: Requantise | None = None
    gather: Gather | None = None

    @property
    def hands_on(self) -> bool:
        """Whether it hands anything on; else the next layer reads what this one read."""
        return self.residual is None or self.norm is not None or self.requantise is not None

    @property
    def outputs(self) -> int:
        """Output channels."""
        return int(self.weight.shape[0])

    @property
    def inputs(self) -> int:
        """Input channels (of all gathered tokens, for a merge or a convolution)."""
        return int(self.weight.shape[1])


@dataclass(frozen=True, slots=True)
class Attention:
    """Windowed spike attention. `rom_num`, `rom_den`: unsigned [heads, (2*window-1)^2, L+1]."""

    name: str
    side: int
    heads: int
    head_size: int
    window: int
    shift: int
    score_threshold: int
    rom_num: Ints
    rom_den: Ints
    kind: str = "attn"

    @property
    def tokens(self) -> int:
        """Tokens of the map."""
        return self.side * self.side

    @property
    def windows(self) -> int:
        """Windows of the map."""
        return (self.side // self.window) ** 2


Layer = Gemm | Attention


@dataclass(frozen=True, slots=True)
class Network:
    """An integer network: the model's shape, its layers, notes such as accuracies (JSON values), and the names of the classes
    in the order of the logits, or none."""

    model: AnyModel
    layers: tuple[Layer, ...]
    rom_bits: int
    notes: dict[str, object]
    class_names: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Weights, biases, thresholds, gains and ROM entries held by the network."""
        total = 0
        for layer in self.layers:
            if isinstance(layer, Attention):
                total += layer.rom_num.size + layer.rom_den.size + 1
                continue
            total += layer.weight.size + layer.bias.size
            total += 0 if layer.threshold is None else layer.threshold.size
            total += 0 if layer.residual is None else layer.residual.gain.size
            total += 0 if layer.norm is None else 2 * layer.norm.bias.size
        return total

    def takes_spikes(self, layer: Gemm) -> bool:
        """Whether the inputs of `layer` are spike counts; else they are values: pixels, or planes of the residual."""
        if isinstance(self.model, ModelConfig):
            return layer.kind in ("qkv", "proj", "fc1", "fc2")
        return layer is not self.layers[0]

    def layer(self, name: str) -> Layer:
        """The layer called `name`; KeyError names the known ones."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"no layer {name!r}; known: {', '.join(entry.name for entry in self.layers)}")
