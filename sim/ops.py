"""Operation counts of a run, by layer and image, from the golden model's own spikes (never from averages).

Words. A *plane spike* is a set bit of an input value (phase coding; a negative value counts in two's complement). An
*event* is a weight row read: each plane spike of a GEMM's input causes one in every tile of `lanes` output channels. A
*synaptic operation* (SOP) is one addition into one output channel: events times the channels of their tile. Attention
reads no weight rows (0 events): its SOPs are the ones among the AND products of q and k, and for every plane spike of
v one addition for each query that may see it.
"""
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from hwgen.config import MachineConfig
from hwgen.descriptors import DESCRIPTOR_WORDS, PROGRAM_BITS, After, Kind
from hwgen.gemm_cycles import by_pass, inside, vectors
from hwgen.layout import Buffer
from hwgen.parameters import OFFSET_BITS, branch_words, neuron_words
from hwgen.potential import kept_width, output_potential_bits, score_potential_bits
from hwgen.program import Program, Step
from hwgen.schedule import LayerCycles, predict, program_depth
from quantize.formats import GAIN_BITS, SCORE_SHIFT, STREAM_BITS, THRESHOLD_BITS
from quantize.layers import Attention, Gemm
from sim.golden.attention import geometry, heads_of
from sim.golden.network import Trace
from sim.verify import stored

Ints = NDArray[np.int64]
Tally = dict[int, float]
"""Additions (or subtract-and-compares) by their width in bits."""


@dataclass(frozen=True, slots=True)
class Macs:
    """`count` multiply-accumulates of `a` by `b` bits into `acc` bits; a = b = 0: additions only."""

    a: int
    b: int
    acc: int
    count: int


@dataclass(frozen=True, slots=True)
class LayerOps:
    """Counts of one layer for one image (or their mean). `dense`: the same array walking every plane of every channel.

    `dense_macs`: multiply-accumulates of the equivalent dense layer (head: after pooling; attention: q k^T and a v, all
    pairs of a window). `spikes`: plane spikes of the input, each once (attention: of q, k, v and the scores);
    `masked_spikes`: those that the spike mask removed; `rate_spikes`: what a unary rate code would send (None where the
    input is no spike count). `masked_events`: weight rows not read because of the mask. `cycles`: predicted, of these
    spikes, of the same without this layer's mask, and of the dense walk. `capacity`: additions that the unit could do
    in a cycle. `additions`: of the sums; `fire_additions`: of all behind them (neurons, residual, softmax sums).
    `memory_bits`: read and written, by memory, as the machine does it.
    """

    name: str
    kind: str
    dense_macs: float = 0
    sops: float = 0
    dense_sops: float = 0
    events: float = 0
    dense_events: float = 0
    masked_events: float = 0
    spikes: float = 0
    masked_spikes: float = 0
    rate_spikes: float | None = None
    cycles: float = 0
    unmasked_cycles: float = 0
    dense_cycles: float = 0
    capacity: int = 0
    additions: Tally = field(default_factory=dict)
    dense_additions: Tally = field(default_factory=dict)
    fire_additions: Tally = field(default_factory=dict)
    memory_bits: dict[str, float] = field(default_factory=dict)
    dense_weight_bits: float = 0
    macs: tuple[Macs, ...] = ()

    @property
    def utilisation(self) -> float:
        """Useful additions over those that the unit could have done in the layer's cycles, 0 to 1."""
        return self.sops / (self.cycles * self.capacity) if self.cycles and self.capacity else 0.0

    @property
    def mask_skipped_cycles(self) -> float:
        """Cycles that the same image would take more if nothing of this layer's input were masked."""
        return self.unmasked_cycles - self.cycles

    @property
    def zero_skipped_cycles(self) -> float:
        """Cycles that the dense walk would take beyond those of the unmasked spikes."""
        return self.dense_cycles - self.unmasked_cycles


def count(program: Program, trace: Trace, images: NDArray[np.uint8],
          predicted: Sequence[Sequence[LayerCycles]] | None = None) -> list[list[LayerOps]]:
    """Counts [image][layer] of `images` uint8 [B, H, W, C]; layers in execution order, "image" first.

    `trace`: of the golden model on these images, with `keep`. `predicted`: `hwgen.schedule.predict` of each image, if
    it is at hand.
    """
    return _Counter(program, trace, images).run(predicted)


def mean(images: Sequence[Sequence[LayerOps]]) -> list[LayerOps]:
    """Means over images, layer by layer. ValueError without images."""
    if not images:
        raise ValueError("no images to take a mean of: run at least 1")
    return [_mean(layer) for layer in zip(*images, strict=True)]


def memories(m: MachineConfig) -> dict[str, int]:
    """Bits that each memory of a sized machine holds, by the names that `LayerOps.memory_bits` uses."""
    depth = 1 << (m.window_tokens - 1).bit_length()
    return {"weights": m.weight_rows * m.lanes * m.weight_bits, "spikes": m.spike_words * m.word_bits,
            "residual": m.stream_words * m.fire_lanes * STREAM_BITS, "neurons": m.param_words * neuron_words(m).size,
            "branches": m.param_words * branch_words(m).size, "rom": m.rom_words * 2 * m.rom_bits,
            "attention": 2 * depth * m.head_lanes * m.planes,
            "program": m.descriptors * DESCRIPTOR_WORDS * PROGRAM_BITS,
            **({"potentials": sum(getattr(m, name) * bits for name, bits in kept_width(m).items())} if m.stepwise else {})}


def per_image(layers: Sequence[LayerOps], steps: int) -> list[LayerOps]:
    """Counts of an image from the means of its `steps` time steps; the dense ANN it is compared with still runs once."""
    out = []
    for layer in layers:
        found: dict[str, object] = {}
        for entry in fields(LayerOps):
            value = getattr(layer, entry.name)
            if entry.name not in ("name", "kind", "capacity", "macs", "dense_macs") and value is not None:
                value = {key: amount * steps for key, amount in value.items()} if isinstance(value, dict) else value * steps
            found[entry.name] = value
        out.append(LayerOps(**found))  # type: ignore[arg-type]
    return out


def plane_spikes(values: NDArray[np.integer], bits: int) -> int:
    """Set bits of `values` in two's complement of `bits` bits."""
    return int(np.bitwise_count(values.astype(np.int64) & (1 << bits) - 1).sum(dtype=np.int64))


def _mean(layers: Sequence[LayerOps]) -> LayerOps:
    first, share = layers[0], 1 / len(layers)
    out: dict[str, object] = {}
    for entry in fields(LayerOps):
        values = [getattr(layer, entry.name) for layer in layers]
        if entry.name in ("name", "kind", "capacity", "macs") or values[0] is None:
            out[entry.name] = values[0]
        elif isinstance(values[0], dict):
            out[entry.name] = {key: sum(value.get(key, 0) for value in values) * share for key in
                               sorted({key for value in values for key in value})}
        else:
            out[entry.name] = sum(values) * share
    assert all(layer.name == first.name for layer in layers)
    return LayerOps(**out)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class _Walk:
    """Events of one tile: events, pairs of them taken in one cycle, and updates of the accumulators."""

    events: int
    pairs: int
    updates: int

    @classmethod
    def of(cls, counts: Ints, rows: int) -> "_Walk":
        """From events per [token, pass, word]; a pass's last word goes through the array even without an event."""
        total, taken = int(counts.sum()), int((-(-counts // rows)).sum())
        empty = int((counts[:, :, -1] == 0).sum())
        return cls(total, total - taken, taken + empty)


class _Counter:
    def __init__(self, program: Program, trace: Trace, images: NDArray[np.uint8]) -> None:
        self.program, self.trace, self.machine = program, trace, program.machine
        self.values = stored(trace, program, images)
        self.images = len(images)
        self.memory = np.zeros((program_depth(program), self.machine.lanes), np.int64)
        full = {name: np.full((buffer.tokens, buffer.channels), -1 if buffer.signed else (1 << buffer.bits) - 1)
                for name, buffer in program.buffers.items()}
        self.full = full
        self.dense = {layer.layer: layer for layer in predict(program, full)}
        self.steps = {name: [step for step in program.steps if step.layer == name] for name in program.layers}
        self.sources: dict[str, str] = {}
        for name in program.layers[1:]:
            self.sources[name] = next(before for before in reversed(program.layers[:program.layers.index(name)])
                                      if before in program.buffers)
        self.dense_walks = {name: self._walk(name, full[self.sources[name]]) for name, steps in self.steps.items()
                            if steps[0].kind == Kind.GEMM}

    def run(self, predicted: Sequence[Sequence[LayerCycles]] | None) -> list[list[LayerOps]]:
        out = []
        for index in range(self.images):
            values = {name: found[index] for name, found in self.values.items()}
            known = predicted[index] if predicted else predict(self.program, values)
            cycles = {layer.layer: layer for layer in known}
            unmasked = cycles
            if self.trace.before:
                # Each layer's own input without its mask; what comes before it stays as it ran.
                before = values | {self.sources[name]: found[index] for name, found in self.trace.before.items()}
                unmasked = {layer.layer: layer for layer in predict(self.program, before)}
            out.append([self._layer(name, index, values, cycles[name], unmasked[name]) for name in self.program.layers])
        return out

    def _layer(self, name: str, index: int, values: dict[str, NDArray[np.integer]], cycles: LayerCycles,
               unmasked: LayerCycles) -> LayerOps:
        found: dict[str, object] = {"cycles": cycles.cycles, "unmasked_cycles": unmasked.cycles,
                                    "dense_cycles": self.dense[name].cycles}
        memory: dict[str, float] = {"program": len(self.steps[name]) * DESCRIPTOR_WORDS * PROGRAM_BITS}
        if name == "image":
            memory["spikes"] = self.program.buffers[name].size * self.machine.word_bits
            return LayerOps(name, "image", memory_bits=memory, **found)  # type: ignore[arg-type]
        layer = self.program.network.layer(name)
        more = self._attention(layer, index, memory) if isinstance(layer, Attention) else self._gemm(
            layer, index, values[self.sources[name]], memory)
        return LayerOps(name, layer.kind, memory_bits=memory, **found, **more)  # type: ignore[arg-type]

    # -- GEMM ----------------------------------------------------------------------------------------------------

    def _walk(self, name: str, values: NDArray[np.integer]) -> _Walk:
        buffer: Buffer = self.program.buffers[self.sources[name]]
        self.memory[buffer.base:buffer.base + buffer.size] = buffer.pack(values[None])[0]
        fields, m = self.steps[name][0].fields, self.machine
        return _Walk.of(by_pass(fields, m, vectors(fields, m, self.memory)), m.rows_per_cycle)

    def _gemm(self, layer: Gemm, index: int, values: NDArray[np.integer],
              memory: dict[str, float]) -> dict[str, object]:
        m, steps = self.machine, self.steps[layer.name]
        bits = self.program.buffers[self.sources[layer.name]].bits
        tiles, row = len(steps), m.lanes * m.weight_bits
        walk, dense = self._walk(layer.name, values), self.dense_walks[layer.name]
        spikes = plane_spikes(values, bits)
        before = self.trace.before.get(layer.name)
        masked = 0 if before is None else plane_spikes(before[index], bits) - spikes
        masked_reads = masked
        if layer.gather is not None and before is not None:  # a convolution reads a spike once for each tap that sees it
            masked_reads = self._walk(layer.name, before[index]).events - walk.events
        for step in steps:
            self._gemm_memory(step, layer, memory)
        memory["weights"] = walk.events * tiles * row
        macs = [Macs(layer.in_bits, m.weight_bits, m.acc_bits, layer.tokens * layer.inputs * layer.outputs)]
        if layer.kind == "head":
            macs.append(Macs(0, 0, layer.in_bits, values.size))  # a dense machine pools first
        source = self.program.buffers[self.sources[layer.name]]
        counted = layer.kind != "head" and source.name != "image" and not source.signed
        return {
            "dense_macs": macs[0].count, "sops": walk.events * layer.outputs, "dense_sops": dense.events * layer.outputs,
            "events": walk.events * tiles, "dense_events": dense.events * tiles, "masked_events": masked_reads * tiles,
            "spikes": spikes, "masked_spikes": masked, "rate_spikes": int(values.sum()) if counted else None,
            "capacity": m.lanes * m.rows_per_cycle, "macs": tuple(macs),
            "dense_weight_bits": dense.events * tiles * row,
            "additions": self._lane_additions(walk, layer), "dense_additions": self._lane_additions(dense, layer),
            "fire_additions": self._fire_additions(layer)}

    def _lane_additions(self, walk: _Walk, layer: Gemm) -> Tally:
        m = self.machine
        return _tally((m.weight_bits + m.planes, walk.pairs * layer.outputs), (m.acc_bits, walk.updates * layer.outputs))

    def _fire_additions(self, layer: Gemm) -> Tally:
        m, values = self.machine, layer.tokens * layer.outputs
        potential = max(m.acc_bits, OFFSET_BITS) + 1
        found = [(potential, values)]
        if m.stepwise:  # L-fold charge and threshold, what was kept, the comparison; L-fold gains
            neurons = values * (1 if layer.norm is None else 2)
            found += [(potential, values * int(self.program.network.takes_spikes(layer))), (m.potential_bits, 2 * neurons),
                      (THRESHOLD_BITS + m.level_bits, neurons), (GAIN_BITS + m.level_bits, values * (layer.residual is not None))]
        elif layer.threshold is not None:
            found.append((potential, values * m.planes))
        if layer.residual is not None:
            found += [(GAIN_BITS + m.planes, values * (m.planes - 1)), (STREAM_BITS, values)]
        if layer.norm is not None:
            found.append((OFFSET_BITS + 1, values * (1 if m.stepwise else 1 + m.planes)))
        if layer.requantise is not None:
            found.append((STREAM_BITS + 1, values * 3))  # rounding, and two bounds
        return _tally(*found)

    def _gemm_memory(self, step: Step, layer: Gemm, memory: dict[str, float]) -> None:
        """Adds what one descriptor accesses beside weights."""
        m, f = self.machine, step.fields
        tokens, groups = (f["tokens_x"] + 1) * (f["tokens_y"] + 1), f["groups"] + 1
        words = (f["passes_less_one"] + 1) * int(inside(f).sum())
        if f["after"] != After.LOGITS:
            words += tokens * (f["out_words"] + 1)
        reads = 0 if layer.residual is None or layer.residual.fresh else 1
        writes = 0 if layer.residual is None else 1
        stream = tokens * groups * (reads + writes)
        if m.stepwise:  # every neuron's potential is read and written, in the first step too
            neurons = tokens * groups * (1 if layer.norm is None else 2)
            memory["potentials"] = memory.get("potentials", 0) + 2 * neurons * m.fire_lanes * m.potential_bits
        for name, amount in (("spikes", words * m.word_bits), ("residual", stream * m.fire_lanes * STREAM_BITS),
                             ("neurons", tokens * (groups + 1) * neuron_words(m).size),  # one group is fetched ahead
                             ("branches", tokens * groups * writes * branch_words(m).size)):
            memory[name] = memory.get(name, 0) + amount

    # -- attention -----------------------------------------------------------------------------------------------

    def _attention(self, layer: Attention, index: int, memory: dict[str, float]) -> dict[str, object]:
        m, (step,) = self.machine, self.steps[layer.name]
        shape = step.attention
        assert shape is not None
        where, b, n, d = geometry(layer), shape.planes, shape.tokens, layer.head_size
        q, k, v = heads_of(self.trace.inputs[layer.name][index:index + 1], layer, where)
        score = self.trace.scores[layer.name][index]
        ones = [np.bitwise_count(part[0]).astype(np.int64) for part in (q, k, v)]
        seen = where.allowed.sum(axis=1)  # [windows, n]: queries that see key j
        scored = int((ones[0].sum(axis=2) * ones[1].sum(axis=2)).sum())
        summed = int((ones[2].sum(axis=3) * seen[:, None]).sum())
        spikes = sum(int(part.sum()) for part in ones) + plane_spikes(score, b)
        masked = 0
        before, unmasked = self.trace.before.get(layer.name), self.trace.scores_before.get(layer.name)
        if before is not None:
            masked += plane_spikes(before[index], b) - plane_spikes(self.trace.inputs[layer.name][index], b)
        if unmasked is not None:
            masked += plane_spikes(unmasked[index], b) - plane_spikes(score, b)
        pairs, allowed = layer.windows * layer.heads * n * n, int(where.allowed.sum()) * layer.heads
        self._attention_memory(step, layer, memory)
        bits = _attention_bits(m)
        dense_scored, dense_summed = pairs * d * b * b, allowed * d * b
        outputs = layer.tokens * layer.heads * d
        return {
            "dense_macs": 2 * pairs * d, "sops": scored + summed, "dense_sops": dense_scored + dense_summed,
            "spikes": spikes, "masked_spikes": masked,
            "rate_spikes": sum(int(part.sum(dtype=np.int64)) for part in (q, k, v, score)),
            "capacity": m.attention_rows * m.head_lanes * (m.planes**2 + m.planes),
            "macs": (Macs(b, b, bits["score"], pairs * d),
                     Macs(b, self.program.network.rom_bits, bits["sum"], pairs * d)),
            "additions": _tally((bits["score"], scored), (bits["sum"], summed)),
            "dense_additions": _tally((bits["score"], dense_scored), (bits["sum"], dense_summed)),
            "fire_additions": _tally((bits["charge"], pairs * (3 if m.stepwise else 1 + m.planes)), (bits["row"], allowed),
                                     *([(bits["row"], outputs * m.current_bits), (output_potential_bits(m), outputs * 2)]
                                       if m.stepwise else [(bits["potential"], outputs * (1 + m.planes))]))}

    def _attention_memory(self, step: Step, layer: Attention, memory: dict[str, float]) -> None:
        """Loads; then at each key k, v and a ROM word for every row of the pass, idle ones too; q of each row."""
        m, shape = self.machine, step.attention
        assert shape is not None
        keys = shape.jobs * shape.passes(m) * shape.tokens
        loads = 3 * shape.jobs * shape.tokens * shape.words_per_head(m.lanes)
        slices = 3 * shape.jobs * shape.tokens + 2 * keys + shape.jobs * shape.passes(m) * m.attention_rows
        merged = 2 * shape.jobs * shape.tokens * shape.words_per_head(m.lanes)  # output: read and written once a head
        memory["spikes"] = (loads + self.program.buffers[layer.name].size) * m.word_bits
        memory["attention"] = slices * m.head_lanes * m.planes + merged * m.word_bits
        if m.stepwise:
            rows = shape.jobs * shape.passes(m) * m.attention_rows
            memory["potentials"] = 2 * (keys * m.attention_rows * score_potential_bits(m)
                                        + rows * m.head_lanes * output_potential_bits(m))
        memory["rom"] = keys * m.attention_rows * 2 * m.rom_bits


def _attention_bits(m: MachineConfig) -> dict[str, int]:
    """Widths of the attention unit's adders."""
    score = m.head_lanes * m.levels**2
    row = m.window_tokens * ((1 << m.rom_bits) - 1)
    charge = score_potential_bits(m) if m.stepwise else max(score.bit_length() + SCORE_SHIFT, THRESHOLD_BITS)
    return {"score": score.bit_length(), "charge": charge + 1,
            "sum": (row * m.levels).bit_length(), "row": row.bit_length(),
            "potential": (row * m.levels + row // 2).bit_length()}


def _tally(*found: tuple[int, int]) -> Tally:
    out: Tally = {}
    for bits, amount in found:
        out[bits] = out.get(bits, 0) + amount
    return out
