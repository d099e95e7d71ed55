"""The compiler for machines with external memory: the same descriptors, run chunk by chunk, and the transfers beside them.

A job is one chunk of rows of one layer, its tiles inside. Weights, parameters and ROM come a tile ahead of use; the next
job's inputs come while this one computes; outputs leave while the next one does. Whatever may not happen yet is said by
counts: a transfer waits for descriptors (`steps`) and writes, a descriptor for reads and writes (`hwgen.dma`). Every count
refers to something earlier in the program, so nothing can wait for ever.
"""
import dataclasses

import numpy as np

from hwgen.config import MachineConfig
from hwgen.descriptors import TRANSFER, Kind, Memory, pack
from hwgen.external import beats, pack_words
from hwgen.jobs import Constant, Job, Loaded, Tensor
from hwgen.limits import CompileError
from hwgen.pool import Pool, Space
from hwgen.program import Compiler
from hwgen.shapes import local_shapes
from hwgen.steps import Part, Program, Step, Transfer
from hwgen.tiles import fire_parameters, weight_rows
from hwgen.tiling import Cut, Tiling, stage_of
from model.config import MaskingConfig
from quantize.layers import Attention, Gemm, Layer, Network

CONSTANTS = (Memory.WEIGHTS, Memory.PARAMS, Memory.BRANCHES, Memory.ROM)
KNOBS = {Memory.WEIGHTS: "weight_rows", Memory.PARAMS: "param_words", Memory.BRANCHES: "param_words", Memory.ROM: "rom_words",
         Memory.SPIKES: "spike_words", Memory.STREAM: "stream_words"}
COUNT_LIMIT = 1 << 16


class StreamingCompiler(Compiler):
    """One network on one machine with external memory; `run` once."""

    def __init__(self, network: Network, machine: MachineConfig, masking: MaskingConfig) -> None:
        super().__init__(network, machine, masking)
        self.buffers = self._buffers()
        self.stream_words: dict[str, int] = {}
        self.reads: list[Transfer] = []
        self.writes: list[Transfer] = []
        self.beats = 0
        self._external: list[tuple[int, bytes]] = []
        self.constants: dict[tuple[str, int, Memory], Constant] = {}
        names = ["image", *(layer.name for layer in network.layers)]
        self.source = dict(zip(names[1:], names, strict=False))
        self._store_constants()
        self.machine = self._depths(self.machine)
        self.tiling = Tiling(network, self.machine, self.buffers, {
            layer.name: self._layer_words(layer, Memory.WEIGHTS) for layer in network.layers})
        self.pools = {memory: Pool(knob, getattr(self.machine, knob)) for memory, knob in KNOBS.items()}
        self.loaded: dict[tuple[str, int, Memory], Loaded] = {}
        streamed = [stage for stage, resident in enumerate(self.tiling.resident) if not resident]
        self.tensors = {name: self._tensor(Memory.SPIKES, self.model.side(stage_of(name)), buffer.token_words)
                        for name, buffer in self.buffers.items() if name != "image" and stage_of(name) in streamed}
        self.residuals = {stage: self._tensor(Memory.STREAM, self.model.side(stage), self.tiling.residual_words(stage))
                          for stage in streamed}
        self.spaces: dict[str, Space] = {}
        self.stage_residual: Space | None = None

    # -- sizes ---------------------------------------------------------------------------------------------------

    def _width(self, memory: Memory) -> int:
        return local_shapes(self.machine)[memory][0]

    def _beats(self, words: int, memory: Memory) -> int:
        return beats(words, self._width(memory), self.machine.memory_bits)

    def _reserve(self, size: int) -> int:
        """External space for `size` beats, from a burst's first beat on."""
        burst = self.machine.memory_burst
        at = -(-self.beats // burst) * burst
        self.beats = at + size
        return at

    def _tensor(self, memory: Memory, side: int, words: int) -> Tensor:
        row = self._beats(side * words, memory)
        whole = self._beats(side * side * words, memory) == side * row
        return Tensor(memory, self._reserve(side * row), side, words, row, whole, np.zeros(side * side, np.int64))

    def _store(self, key: tuple[str, int, Memory], words: list[int]) -> None:
        address = self._reserve(self._beats(len(words), key[2]))
        self._external.append((address, pack_words(words, self._width(key[2]), self.machine.memory_bits)))
        self.constants[key] = Constant(address, len(words))

    def _store_constants(self) -> None:
        """Lay every layer's constants into external memory."""
        for layer in self.network.layers:
            if isinstance(layer, Attention):
                self._store((layer.name, 0, Memory.ROM), self._rom(layer))
                continue
            source = self.buffers[self.source[layer.name]]
            for tile, channels in enumerate(self._out_map(layer)):
                weights = weight_rows(self.machine, layer, source, channels)
                groups = -(-int((channels >= 0).sum()) // self.machine.fire_lanes)
                neurons, branches = fire_parameters(self.machine, layer, channels, groups, self._site(layer)[0])
                self._store((layer.name, tile, Memory.WEIGHTS), weights)
                self._store((layer.name, tile, Memory.PARAMS), neurons)
                if branches:
                    self._store((layer.name, tile, Memory.BRANCHES), branches)

    def _layer_words(self, layer: Layer, memory: Memory) -> int:
        """Words of all tiles of a layer."""
        return sum(constant.words for (name, _, kind), constant in self.constants.items()
                   if name == layer.name and kind == memory)

    def _depths(self, machine: MachineConfig) -> MachineConfig:
        """Depths of 0: room for two of the largest tile, for the last stage, and for two of the smallest chunks elsewhere."""
        need = dict.fromkeys(KNOBS.values(), 1)
        for (_, _, memory), constant in self.constants.items():
            need[KNOBS[memory]] = max(need[KNOBS[memory]], 2 * constant.words)
        last = len(self.model.depths) - 1
        for layer in self.network.layers:
            source, target = self.buffers[self.source[layer.name]], self.buffers.get(layer.name)
            words = source.size + (target.size if target else 0)
            unit = layer.window if isinstance(layer, Attention) else 2 if layer.kind == "merge" else 1
            share = 2 * unit / layer.side
            whole = stage_of(layer.name) == last
            if target is not None and whole and stage_of(source.name) != last:
                words = target.size + int(share * source.size)
            elif not whole:
                words = int(share * words)
            need["spike_words"] = max(need["spike_words"], words)
            if isinstance(layer, Gemm) and layer.residual is not None:
                residual = layer.tokens * -(-layer.outputs // machine.fire_lanes)
                need["stream_words"] = max(need["stream_words"], residual if whole else int(2 * residual / layer.side) + 1)
        return dataclasses.replace(machine, **{  # type: ignore[arg-type]
            name: words for name, words in need.items() if getattr(machine, name) == 0})

    # -- transfers -----------------------------------------------------------------------------------------------

    def _read(self, memory: Memory, base: int, words: int, address: int, steps: int, writes: int, layer: str) -> int:
        self.reads.append(Transfer(memory, base, words, address, self._beats(words, memory), steps, writes, layer))
        return len(self.reads)

    def _write(self, memory: Memory, base: int, words: int, address: int, layer: str) -> int:
        self.writes.append(Transfer(memory, base, words, address, self._beats(words, memory), len(self.steps), 0, layer))
        return len(self.writes)

    def _constant(self, layer: Layer, tile: int, memory: Memory) -> Loaded | None:
        """The constant on chip: read now unless it is there."""
        key = (layer.name, tile, memory)
        if key not in self.constants:
            return None
        if key not in self.loaded:
            constant = self.constants[key]
            space = self.pools[memory].must(constant.words, f"a tile of {layer.name}")
            reads = self._read(memory, space.base, constant.words, constant.address, space.steps, space.writes, layer.name)
            self.loaded[key] = Loaded(space, reads)
        return self.loaded[key]

    def _drop(self, layer: Layer, tile: int, last: bool) -> None:
        """A tile's constants have been used; those that a later chunk uses again stay where the whole layer's have room."""
        for memory in CONSTANTS:
            if not last and 2 * self._layer_words(layer, memory) <= self.pools[memory].depth:
                continue
            loaded = self.loaded.pop((layer.name, tile, memory), None)
            if loaded is not None:
                self.pools[memory].give(loaded.space, len(self.steps))

    # -- jobs ----------------------------------------------------------------------------------------------------

    def _tokens(self, job: Job, output: bool = False) -> np.ndarray:
        """Tokens of the job's input (or output) in on-chip order."""
        layer, side = job.layer, job.layer.side
        rows = np.array(job.rows)
        if isinstance(layer, Attention) and not self._cut(job).resident_in:
            rows = (rows + layer.shift) % side
        elif layer.kind == "merge" and output:
            rows, side = rows[::2] // 2, side // 2
        return (rows[:, None] * side + np.arange(side)[None, :]).reshape(-1)

    def _cut(self, job: Job) -> Cut:
        return self.tiling.cuts[job.layer.name]

    def _residual_read(self, job: Job) -> bool:
        layer = job.layer
        return isinstance(layer, Gemm) and layer.residual is not None and not layer.residual.fresh \
            and stage_of(layer.name) in self.residuals

    def prepare(self, job: Job) -> bool:
        """Bring the job's inputs and residual; False where there is no room yet, or they are not written yet."""
        name, tokens = self.source[job.layer.name], self._tokens(job)
        tensor = self.tensors.get(name)
        residual = self.residuals[stage_of(job.layer.name)] if self._residual_read(job) else None
        if not all(needed.written[tokens].all() for needed in (tensor, residual) if needed is not None):
            return False
        if not self._reserve_output(job):
            return False
        if residual is not None:
            job.residual = self.pools[Memory.STREAM].take(len(tokens) * residual.words)
            if job.residual is None:
                return False
        if not self._make_room(job):
            if job.residual is not None:
                self.pools[Memory.STREAM].give(job.residual, job.residual.steps, job.residual.writes)
            job.residual = None
            return False
        if residual is not None and job.residual is not None:
            self._bring(job, residual, job.residual)
        if tensor is not None and job.inputs is not None:
            self._bring(job, tensor, job.inputs)
        job.prepared = True
        return True

    def _make_room(self, job: Job) -> bool:
        """Room for the chunk's input and for its output, where they do not stay on chip: both or none."""
        name, target, pool = self.source[job.layer.name], self.buffers.get(job.layer.name), self.pools[Memory.SPIKES]
        need_in = len(self._tokens(job)) * self.buffers[name].token_words
        need_out = len(self._tokens(job, output=True)) * target.token_words if target else 0
        takes_in = name == "image" or name in self.tensors
        takes_out = target is not None and not self._cut(job).resident_out
        if takes_in and takes_out:
            both = pool.take_both(need_in, need_out)
            job.inputs, job.output = both if both else (None, None)
        elif takes_in:
            job.inputs = pool.take(need_in)
        elif takes_out:
            job.output = pool.take(need_out)
        return (job.inputs is not None or not takes_in) and (job.output is not None or not takes_out)

    def _reserve_output(self, job: Job) -> bool:
        """Room for a whole output tensor that stays on chip: at the end of the scratchpad where its input is not."""
        target = self.buffers.get(job.layer.name)
        if target is None or not self._cut(job).resident_out or target.name in self.spaces:
            return True
        below = self.spaces.get(self.source[target.name])
        space = self.pools[Memory.SPIKES].take(target.size, end="high" if below is None or below.base == 0 else "low")
        if space is not None:
            self.spaces[target.name] = space
        return space is not None

    def _bring(self, job: Job, tensor: Tensor, space: Space) -> None:
        for place, token, count in tensor.runs(self._tokens(job)):
            writes = max(space.writes, int(tensor.written[token:token + count].max()))
            job.reads = self._read(tensor.memory, space.base + place * tensor.words, count * tensor.words, tensor.at(token),
                                   space.steps, writes, job.layer.name)

    def _recent(self, job: Job) -> bool:
        """Whether the job reads what the last write brings: better read late than in the way of the weights."""
        tensor = self.tensors.get(self.source[job.layer.name])
        return tensor is not None and int(tensor.written[self._tokens(job)].max(initial=0)) >= len(self.writes) > 0

    def execute(self, job: Job, following: Job | None) -> None:
        """All tiles of a job; the following one is prepared as soon as it does not hinder this one."""
        layer, cut = job.layer, self._cut(job)
        if not job.prepared and not self.prepare(job):
            raise CompileError(f"{layer.name}: {len(job.rows)} rows find no room on chip: set [machine] spike_words "
                               f"and stream_words higher than {self.machine.spike_words} and {self.machine.stream_words}")
        inputs = self._inputs(job)
        target = self.buffers.get(layer.name)
        space = None
        if target is not None:
            tokens = self._tokens(job, output=True)
            if cut.resident_out:
                space = self.spaces[layer.name]
                base = space.base + int(tokens[0]) * target.token_words
            else:
                assert job.output is not None
                space, base = job.output, job.output.base
            outputs = Part(layer.name, base, tokens)
        tiles = 1 if isinstance(layer, Attention) else len(self._out_map(layer))
        if isinstance(layer, Gemm):
            self._hold_residual(job)
        late = following is not None and self._recent(following)
        for tile in range(tiles):
            step = self._attend_chunk(job, inputs, outputs) if isinstance(layer, Attention) else \
                self._gemm_tile(job, tile, inputs, outputs if target else None)
            step.writes = max(step.writes, space.writes if space else 0)
            if following is not None and not following.prepared and tile >= (tiles - 2 if late else 0):
                self.prepare(following)
            self._drop(layer, tile, job.last)
        self._finish(job, space, outputs if target else None)

    def _inputs(self, job: Job) -> Part:
        """Where the job's input tokens are; the image's chunk is fetched from the host here."""
        name, tokens = self.source[job.layer.name], self._tokens(job)
        buffer = self.buffers[name]
        if name == "image":
            assert job.inputs is not None
            part = Part(name, job.inputs.base, tokens)
            step = self._image(buffer, part, more=not job.last)
            step.writes = job.inputs.writes
            return part
        if job.inputs is not None:
            return Part(name, job.inputs.base, tokens)
        return Part(name, self.spaces[name].base + int(tokens[0]) * buffer.token_words, tokens)

    def _hold_residual(self, job: Job) -> None:
        """Room for the residual of a layer that begins one."""
        layer = job.layer
        assert isinstance(layer, Gemm)
        if layer.residual is None or job.residual is not None:
            return
        stage = stage_of(layer.name)
        words, pool = self.tiling.residual_words(stage), self.pools[Memory.STREAM]
        if stage in self.residuals:
            job.residual = pool.must(len(self._tokens(job, output=True)) * words, f"a chunk of {layer.name}'s residual")
        elif layer.residual.fresh and job.first:
            self.stage_residual = pool.must(layer.tokens * words, f"the residual of {layer.name}")

    def _gemm_tile(self, job: Job, tile: int, inputs: Part, outputs: Part | None) -> Step:
        layer = job.layer
        assert isinstance(layer, Gemm)
        found = {memory: self._constant(layer, tile, memory) for memory in (Memory.WEIGHTS, Memory.PARAMS, Memory.BRANCHES)}
        bases = {field: loaded.space.base if (loaded := found[memory]) else 0
                 for field, memory in (("weight_base", Memory.WEIGHTS), ("neuron_base", Memory.PARAMS),
                                       ("branch_base", Memory.BRANCHES))}
        stream_base = 0
        if layer.residual is not None and outputs is not None:
            if job.residual is not None:
                stream_base = job.residual.base
            elif self.stage_residual is not None:
                stage = stage_of(layer.name)
                stream_base = self.stage_residual.base + int(outputs.tokens[0]) * self.tiling.residual_words(stage)
        step = self._tile(layer, tile, inputs, len(job.rows), outputs, bases, stream_base)
        step.weight_rows = self.constants[layer.name, tile, Memory.WEIGHTS].words
        step.reads = max([job.reads, *(loaded.reads for loaded in found.values() if loaded)])
        step.writes = job.residual.writes if job.residual else 0
        return step

    def _attend_chunk(self, job: Job, inputs: Part, outputs: Part) -> Step:
        layer = job.layer
        assert isinstance(layer, Attention)
        rom = self._constant(layer, 0, Memory.ROM)
        assert rom is not None
        window, whole = layer.window, self._cut(job).resident_in
        shape = self._shape(layer) if whole else self._shape(layer, job.rows[0] // window, len(job.rows) // window)
        step = self._attend(layer, shape, inputs, outputs, rom.space.base)
        step.reads = max(job.reads, rom.reads)
        return step

    def _finish(self, job: Job, space: Space | None, outputs: Part | None) -> None:
        """Write what leaves the chip, and give back what is no longer needed."""
        layer, cut, steps = job.layer, self._cut(job), len(self.steps)
        name, spikes, stream = self.source[layer.name], self.pools[Memory.SPIKES], self.pools[Memory.STREAM]
        if job.inputs is not None:
            spikes.give(job.inputs, steps)
        elif job.last and name in self.spaces:
            spikes.give(self.spaces.pop(name), steps)
        stage = stage_of(layer.name)
        if outputs is not None and space is not None and not cut.resident_out:
            spikes.give(space, steps, self._take_away(layer, self.tensors[layer.name], space, outputs))
        if isinstance(layer, Gemm) and layer.residual is not None and outputs is not None:
            ends = layer.requantise is not None
            if job.residual is not None:
                writes = 0 if ends else self._take_away(layer, self.residuals[stage], job.residual, outputs)
                stream.give(job.residual, steps, writes)
            elif ends and job.last and self.stage_residual is not None:
                stream.give(self.stage_residual, steps)
                self.stage_residual = None

    def _take_away(self, layer: Layer, tensor: Tensor, space: Space, outputs: Part) -> int:
        for place, token, count in tensor.runs(outputs.tokens):
            self._write(tensor.memory, space.base + place * tensor.words, count * tensor.words, tensor.at(token), layer.name)
        tensor.written[outputs.tokens] = len(self.writes)
        return len(self.writes)

    # -- the whole -----------------------------------------------------------------------------------------------

    def run(self) -> Program:
        """The whole program."""
        jobs = [Job(layer, rows, index == 0, index == len(cut.rows) - 1)
                for layer in self.network.layers for cut in (self.tiling.cuts[layer.name],)
                for index, rows in enumerate(cut.rows)]
        for job, following in zip(jobs, [*jobs[1:], None], strict=True):
            self.execute(job, following)
        end = self._add("end", Kind.END, 0, {})
        end.reads, end.writes = len(self.reads), len(self.writes)
        if max(len(self.steps), len(self.reads), len(self.writes)) >= COUNT_LIMIT:
            raise CompileError(f"the program has {len(self.steps)} descriptors and {len(self.reads)} reads, the counters count "
                               f"to {COUNT_LIMIT - 1}: set [machine] lanes, spike_words or weight_rows higher")
        self._emit_words()
        self.images.reads, self.images.writes = _entries(self.reads), _entries(self.writes)
        image = bytearray()
        for address, data in self._external:
            image += bytes(address * self.machine.memory_bits // 8 - len(image)) + data
        self.images.external = bytes(image)
        return self._checked(Program(self.machine, self.network, self.steps, self.images, self.buffers, self.stream_words,
                                     self.reads, self.writes, self.beats))


def _entries(transfers: list[Transfer]) -> list[int]:
    """A transfer program's words, its end included."""
    end = pack(TRANSFER, dict.fromkeys(TRANSFER, 0))
    return [pack(TRANSFER, {"kind": 1, "memory": int(t.memory), "local": t.local, "words": t.words - 1, "address": t.address,
                            "steps": t.steps, "writes": t.writes, "reserved": 0}) for t in transfers] + [end]
