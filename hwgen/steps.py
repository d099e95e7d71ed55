"""What the compiler makes: descriptors with what the cycle model and the benches need to know of them, and transfers."""
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwgen.attention_cycles import AttentionShape
from hwgen.config import MachineConfig
from hwgen.descriptors import Kind, Memory
from hwgen.layout import Buffer
from hwgen.shapes import Images
from quantize.layers import Network

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Tokens of buffer `name` on chip: token `tokens[i]` (int [n]) of the map lies `i` tokens behind word `base`."""

    name: str
    base: int
    tokens: Ints


@dataclass(slots=True)
class Step:
    """One descriptor.

    `inputs`, `outputs`: what it reads and writes of the spike scratchpad; `residual`: of the residual scratchpad.
    `weight_rows`: rows of its tile in the weight memory. `reads`, `writes`: transfers of the image that must be done before
    it is dispatched.
    """

    layer: str
    kind: Kind
    fields: dict[str, int]
    header: dict[str, int]
    payload: int
    attention: AttentionShape | None = None
    inputs: Part | None = None
    outputs: Part | None = None
    residual: Part | None = None
    weight_rows: int = 0
    reads: int = 0
    writes: int = 0


@dataclass(frozen=True, slots=True)
class Transfer:
    """`words` words between on-chip `memory` (from word `local` on) and external memory (from beat `address` on).

    It starts when `steps` descriptors and (reads only) `writes` writes of the image are done. `layer`: who asked for it.
    """

    memory: Memory
    local: int
    words: int
    address: int
    beats: int
    steps: int
    writes: int
    layer: str


@dataclass(slots=True)
class Program:
    """A compiled network. `buffers[layer]`: the layout of the layer's output (`image`: the pixels), and, where all is on
    chip, its place.
    """

    machine: MachineConfig
    network: Network
    steps: list[Step]
    images: Images
    buffers: dict[str, Buffer]
    stream_words: dict[str, int]
    """residual words of a token, by layer with a residual"""
    reads: list[Transfer] = field(default_factory=list)
    writes: list[Transfer] = field(default_factory=list)
    external_beats: int = 0
    """beats of external memory that the program uses"""
    potentials: dict[str, int] = field(default_factory=dict)
    """words of each potential memory that a stepwise machine keeps, by the name of its depth's knob"""

    @property
    def layers(self) -> list[str]:
        """Layer names in execution order, `image` first."""
        return list(dict.fromkeys(step.layer for step in self.steps if step.kind != Kind.END))
