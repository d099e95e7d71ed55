"""What stays on chip and how maps are cut: a traffic model chooses, for each layer, the rows of tokens that are run at once.

Only machines with external memory ask. A stage whose tensors fit the scratchpads together stays on chip. In any other stage
each layer runs in chunks of rows; a chunk's inputs are read while the chunk before computes, and its outputs written while
the next one does, so two of each have room. Every weight is fetched once for each chunk (once in all where the whole layer's
weights stay).
"""
from collections.abc import Mapping
from dataclasses import dataclass

from hwgen.config import MachineConfig
from hwgen.external import beats
from hwgen.gemm_desc import residual_words
from hwgen.layout import Buffer
from hwgen.limits import CompileError
from quantize.formats import STREAM_BITS
from quantize.layers import Attention, Layer, Network

EVENTS_PER_CHANNEL = 0.6
"""Plane spikes of an input value, for an estimate of a chunk's cycles; trained networks have 0.5 to 0.7."""
STEP_CYCLES = 40
"""Cycles that a descriptor costs beside its events."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One layer's chunks: input rows of each, whether input and output tensors stay on chip, and bytes moved by the model."""

    rows: tuple[range, ...]
    resident_in: bool
    resident_out: bool
    bytes: int


def stage_of(name: str) -> int:
    """Stage whose map a layer's *output* is on ("image", "embed": 0; "head": -1, the last)."""
    if name in ("image", "embed", "head"):
        return -1 if name == "head" else 0
    stage = int(name.split(".")[0][1:])
    return stage + 1 if name.endswith(".merge") else stage


class Tiling:
    """The cut of every layer of `network`, for the buffers that its tensors would have. `weight_words[layer]`: weight rows.

    CompileError when even the smallest chunk does not fit, with the knob to raise.
    """

    def __init__(self, network: Network, m: MachineConfig, buffers: Mapping[str, Buffer],
                 weight_words: Mapping[str, int]) -> None:
        self.network, self.m, self.buffers, self.weight_words = network, m, buffers, weight_words
        names = ["image", *(layer.name for layer in network.layers)]
        self.source = dict(zip(names[1:], names, strict=False))
        self.resident = self._residency()
        self.cuts = {layer.name: self._cut(layer) for layer in network.layers}

    def _stages(self) -> int:
        return len(self.network.model.depths)

    def _residency(self) -> list[bool]:
        out: list[bool] = []
        for stage in range(self._stages()):
            tensors = [buffer for name, buffer in self.buffers.items() if stage_of(name) == stage]
            before = [buffer for name, buffer in self.buffers.items() if stage_of(name) == stage - 1]
            if before and out[-1]:
                tensors.insert(0, before[-1])
            pairs = [a.size + b.size for a, b in zip(tensors, tensors[1:], strict=False)]
            tokens = next(buffer.tokens for name, buffer in self.buffers.items()
                          if stage_of(name) == stage and name != "image")
            words = tokens * self.residual_words(stage)
            out.append(max(pairs) <= self.m.spike_words and words <= self.m.stream_words)
        if not out[-1]:
            raise CompileError(f"the last stage must stay on chip for the head: set [machine] spike_words and stream_words "
                               f"to at least {max(pairs)} and {words}, not {self.m.spike_words} and {self.m.stream_words}")
        return out

    def residual_words(self, stage: int) -> int:
        """Residual words of a token of `stage`."""
        for layer in self.network.layers:
            if not isinstance(layer, Attention) and layer.residual is not None and stage_of(layer.name) == stage:
                return residual_words(self.m, layer)
        raise KeyError(stage)

    def _cut(self, layer: Layer) -> Cut:
        source, target = self.buffers[self.source[layer.name]], self.buffers.get(layer.name)
        stage_in, stage_out = stage_of(source.name), stage_of(layer.name)
        resident_in, resident_out = self.resident[stage_in], target is None or self.resident[stage_out]
        kind = layer.kind
        unit = layer.window if isinstance(layer, Attention) else 2 if kind == "merge" else 1
        units, side = layer.side // unit, layer.side
        weights = self.weight_words.get(layer.name, 0)
        kept = 2 * weights <= self.m.weight_rows
        if resident_in and resident_out:
            return Cut((range(side),), True, True, self._bytes(weights, self.m.lanes * self.m.weight_bits))
        best: tuple[float, Cut] | None = None
        for chunks in range(1, units + 1):
            size = -(-units // chunks)
            if -(-units // size) != chunks:
                continue  # the same size again
            rows = tuple(range(low * unit, min(low + size, units) * unit) for low in range(0, units, size))
            cut, cost = self._cost(layer, source, target, rows, resident_in, resident_out, kept)
            if cut is not None and (best is None or cost < best[0]):
                best = cost, cut
        if best is None:
            raise CompileError(f"{layer.name}: not even {unit} rows of tokens fit the scratchpads twice: set [machine] "
                               f"spike_words and stream_words higher than {self.m.spike_words} and {self.m.stream_words}")
        return best[1]

    def _cost(self, layer: Layer, source: Buffer, target: Buffer | None, rows: tuple[range, ...], resident_in: bool,
              resident_out: bool, kept: bool) -> tuple[Cut | None, float]:
        """The cut if it fits, and its cycles by the model: of computing or of moving, plus what nothing overlaps."""
        m, side, chunks = self.m, layer.side, len(rows)
        tokens_in = len(rows[0]) * side
        scale = 4 if layer.kind == "merge" else 1
        words_in = tokens_in * source.token_words
        words_out = tokens_in // scale * target.token_words if target else 0
        room = m.spike_words
        for resident, buffer in ((resident_in, source), (resident_out, target)):
            room -= buffer.size if resident and buffer else 0
        twice = 2 if chunks > 1 else 1
        fits = twice * ((not resident_in) * words_in + (not resident_out) * words_out) <= room
        residual = 0
        if not isinstance(layer, Attention) and layer.residual is not None and not resident_out:
            residual = tokens_in // scale * residual_words(m, layer)
            fits &= twice * residual <= m.stream_words
        if not fits:
            return None, 0.0
        weights = self.weight_words.get(layer.name, 0)
        chunk_in = 0 if resident_in or source.name == "image" else self._bytes(words_in, m.word_bits)
        chunk_out = 0 if resident_out else self._bytes(words_out, m.word_bits)
        chunk_residual = self._bytes(residual, m.fire_lanes * STREAM_BITS) * (1 if layer.kind in ("embed", "merge") else 2)
        moved = chunks * (chunk_in + chunk_out + chunk_residual)
        moved += self._bytes(weights, m.lanes * m.weight_bits) * (1 if kept else chunks)
        tiles = 1 if isinstance(layer, Attention) else -(-layer.outputs // m.lanes)
        work = side * side * weights * EVENTS_PER_CHANNEL / m.rows_per_cycle / scale
        bus = m.memory_bits // 8
        cost = max(work, moved / bus) + (chunk_in + chunk_out) / bus + chunks * tiles * STEP_CYCLES
        return Cut(rows, resident_in, resident_out, moved), cost

    def _bytes(self, words: int, width: int) -> int:
        return beats(words, width, self.m.memory_bits) * self.m.memory_bits // 8 if words else 0
