"""The compiler: an integer network becomes a program (descriptors) and memory images for one machine.

A layer becomes one descriptor per tile of `lanes` output channels (attention: one). Tiles are outermost and tokens inner, so
each weight row is fetched for one tile at a time. Here everything lies on chip, and spike buffers alternate between the two
ends of the scratchpad: a layer reads one and writes the other. `hwgen.streaming` is the compiler for external memory.
"""

import dataclasses

import numpy as np

from hwgen import gemm_desc
from hwgen.attention_cycles import AttentionShape
from hwgen.attention_desc import attention_fields, pack_attention
from hwgen.config import POTENTIALS, MachineConfig, fitted
from hwgen.descriptors import DESCRIPTOR_WORDS, GEMM, HEADER, IMAGE, PROGRAM_BITS, SYNC, After, Fields, Kind, pack
from hwgen.layout import Buffer, dense_map, slot_map
from hwgen.limits import CompileError, check_fits, needs
from hwgen.shapes import Images
from hwgen.steps import Ints, Part, Program, Step
from hwgen.tiles import fire_parameters, tile_rows, weight_rows
from model.config import CONV_SITE, MaskingConfig, ModelConfig
from model.lfsr import LEAP, ROW_DRAWS, jump_polynomial
from model.masking import conv_rows, mask_rows
from quantize.layers import Attention, Gemm, Network

__all__ = ["CompileError", "Compiler", "Program", "Step", "compile_network", "demands", "sized", "with_depths"]


def compile_network(network: Network, machine: MachineConfig, masking: MaskingConfig) -> Program:
    """Compile; CompileError when a memory or a parameter of the machine is too small, with the parameter to raise."""
    if machine.memory_bits:
        if not isinstance(network.model, ModelConfig):
            raise CompileError(f"memory_bits = {machine.memory_bits}: chunks of a map would lack the rows beside them, which a "
                               "convolution reads: set [machine] memory_bits = 0, everything on chip")
        from hwgen.streaming import StreamingCompiler  # it builds on this module's Compiler

        return StreamingCompiler(network, machine, masking).run()
    return Compiler(network, machine, masking).run()


def sized(machine: MachineConfig, program: Program) -> MachineConfig:
    """`machine` with every depth of 0 set to what `program` needs."""
    need = demands(program)
    return with_depths(machine, {name: amount for name, amount in need.items() if getattr(machine, name) == 0})


def with_depths(machine: MachineConfig, depths: dict[str, int]) -> MachineConfig:
    """`machine` with other memory depths."""
    return dataclasses.replace(machine, **depths)  # type: ignore[arg-type]


def demands(program: Program) -> dict[str, int]:
    """Words that the program needs of each memory of the machine, by the name of its knob."""
    if program.machine.memory_bits:
        return {name: getattr(program.machine, name) for name in MEMORY_KNOBS} | {
            "descriptors": len(program.steps), "transfers": max(len(program.reads), len(program.writes)) + 1}
    images, buffers = program.images, list(program.buffers.values())
    stepwise = program.machine.stepwise
    streams = [words * program.network.layer(name).tokens for name, words in program.stream_words.items()]
    return {
        "weight_rows": max(len(images.weights), 1),
        "spike_words": _spike_words(buffers, stepwise),
        "stream_words": max(streams, default=1),
        "param_words": max(len(images.params), len(images.branches), 1),
        "rom_words": max(len(images.rom), 1),
        "descriptors": len(program.steps),
        **(program.potentials if stepwise else {}),
    }


MEMORY_KNOBS = ("weight_rows", "spike_words", "stream_words", "param_words", "rom_words")


def _spike_words(buffers: list[Buffer], stepwise: bool) -> int:
    """Words for each two buffers that follow each other; stepwise, the image stays beside all others."""
    kept, others = (buffers[0].size, buffers[1:]) if stepwise else (0, buffers)
    return kept + max((a.size + b.size for a, b in zip(others, others[1:], strict=False)), default=sum(b.size for b in others))


class Compiler:
    """One network on one machine, everything on chip; `run` once."""

    def __init__(self, network: Network, machine: MachineConfig, masking: MaskingConfig) -> None:
        self.network, self.machine, self.masking = network, fitted(machine, **needs(network, machine)), masking
        self.model = network.model
        self.planes = 1 if machine.stepwise else network.model.planes  # of a count
        self.images = Images()
        self.steps: list[Step] = []
        self.potentials = dict.fromkeys(POTENTIALS, 0)
        self.mask_rows, self.conv_rows = mask_rows(self.model), conv_rows(self.model)
        check_fits(network, self.machine)

    def run(self) -> Program:
        """The whole program."""
        self.buffers = buffers = self._placed(self._buffers())
        self.stream_words: dict[str, int] = {}
        self._place_weights()
        image = buffers["image"]
        self._image(image, self._part(image), more=False)
        source = image
        for layer in self.network.layers:
            if isinstance(layer, Attention):
                self._attention(layer, source)
            else:
                self._gemm(layer, source)
            source = buffers.get(layer.name, source)
        self._add("end", Kind.END, 0, {})
        self._emit_words()
        return self._checked(Program(self.machine, self.network, self.steps, self.images, buffers, self.stream_words,
                                     potentials=self.potentials))

    @staticmethod
    def _part(buffer: Buffer) -> Part:
        return Part(buffer.name, buffer.base, np.arange(buffer.tokens))

    def _checked(self, program: Program) -> Program:
        for name, amount in demands(program).items():
            have = getattr(self.machine, name)
            if have and amount > have:
                raise CompileError(
                    f"{name}: the network needs {amount}, the machine has {have}: "
                    f"set [machine] {name} = {amount} or more (0: sized to the network)"
                )
        return program

    # -- memory --------------------------------------------------------------------------------------------------

    def _buffers(self) -> dict[str, Buffer]:
        m, model = self.machine, self.model
        pixels = model.patch**2 * model.in_channels
        out = {"image": Buffer("image", model.side(0) ** 2, model.in_bits, False, m.planes, dense_map(pixels, m.lanes))}
        for layer in self.network.layers:
            if isinstance(layer, Attention):
                channels = slot_map(layer.heads, layer.head_size, m.lanes)
            elif layer.kind == "head" or not layer.hands_on:
                continue
            elif layer.kind == "qkv":
                attention = self.network.layer(layer.name.replace("qkv", "attn"))
                assert isinstance(attention, Attention)
                channels = slot_map(3 * attention.heads, attention.head_size, m.lanes)
            else:
                channels = dense_map(layer.outputs, m.lanes)
            planes = None if isinstance(layer, Attention) else layer.requantise
            bits, is_signed = (planes.bits, True) if planes else (m.planes, False)
            out[layer.name] = Buffer(layer.name, layer.tokens, bits, is_signed, m.planes, channels)
        return out

    def _place_weights(self) -> None:
        """Weight rows of every tile, the tiles with few channels last: the last banks of the memory may then be narrow."""
        self.weight_bases: dict[tuple[str, int], int] = {}
        tiles = []
        source = self.buffers["image"]
        for layer in self.network.layers:
            if isinstance(layer, Gemm):
                tiles += [((layer.name, tile), int((channels >= 0).sum()), weight_rows(self.machine, layer, source, channels))
                          for tile, channels in enumerate(self._out_map(layer))]
            source = self.buffers.get(layer.name, source)
        for key, _, rows in sorted(tiles, key=lambda entry: -entry[1]):
            self.weight_bases[key] = len(self.images.weights)
            self.images.weights += rows

    def _placed(self, buffers: dict[str, Buffer]) -> dict[str, Buffer]:
        """Every other buffer moves to the far end of the scratchpad, so that a layer never writes what it reads."""
        stepwise = self.machine.stepwise
        depth = self.machine.spike_words or _spike_words(list(buffers.values()), stepwise)
        low = buffers["image"].size if stepwise else 0  # every time step reads the image again
        return {
            name: dataclasses.replace(buffer, base=max(low, depth - buffer.size) if index % 2 else low if index else 0)
            for index, (name, buffer) in enumerate(buffers.items())
        }

    # -- layers --------------------------------------------------------------------------------------------------

    def _add(self, layer: str, kind: Kind, payload: int, values: dict[str, int], *, masked: bool = False, draw: int = 0,
             attention: AttentionShape | None = None) -> Step:
        results = kind == Kind.END or values.get("after") == After.LOGITS
        header = {"kind": int(kind), "layer": 0, "last": 0, "masked": int(masked), "results": int(results), "reserved": 0,
                  "jump": jump_polynomial(LEAP * draw)}
        step = Step(layer, kind, values, header, payload, attention)
        self.steps.append(step)
        return step

    def _image(self, image: Buffer, part: Part, *, more: bool) -> Step:
        values = {"base": part.base, "tokens": len(part.tokens), "channels": image.channels, "groups": image.groups,
                  "words": image.words, "token_words": image.token_words, "more": int(more)}
        step = self._add("image", Kind.IMAGE, self._packed("image", IMAGE, values), values)
        step.outputs = part
        return step

    def _block(self, layer: Gemm) -> str:
        """What a mask ratio of its own names: a block, or a convolution."""
        return layer.name if layer.name in self.conv_rows else layer.name.rpartition(".")[0]

    def _site(self, layer: Gemm) -> tuple[tuple[str, ...], int]:
        """Mask sites that this layer's output carries and the configuration masks, and their first mask row."""
        sites: tuple[str, ...] = ()
        block, row = self._block(layer), 0
        if layer.name in self.conv_rows and layer.hands_on:
            sites, row = (CONV_SITE,), self.conv_rows[layer.name]
        elif layer.norm is not None and layer.norm.site:
            sites, row = (layer.norm.site,), self.mask_rows[block].fc1
        elif layer.kind == "qkv":
            sites, row = ("q", "k"), self.mask_rows[block].qkv
        elif layer.kind == "fc1":
            sites, row = ("fc2",), self.mask_rows[block].fc2
        sites = tuple(site for site in sites if self.masking.carries(site, block))
        columns = (1 + ("k" in sites)) * layer.outputs // 3 if layer.kind == "qkv" else layer.outputs
        if sites and columns > ROW_DRAWS:  # the next row's draws would come twice
            raise CompileError(f"{layer.name}: the spike mask draws {ROW_DRAWS} times a token, not for {columns} channels: "
                               f"leave {' and '.join(sites)} of {block} out of [masking] sites")
        return sites, row

    def _out_map(self, layer: Gemm) -> Ints:
        """Output channels by tile and lane."""
        target = self.buffers.get(layer.name)
        return target.channel_map if target else dense_map(layer.outputs, self.machine.lanes)

    def _tile(self, layer: Gemm, tile: int, inputs: Part, rows: int, outputs: Part | None, bases: dict[str, int],
              stream_base: int = 0) -> Step:
        """The descriptor of one tile: `rows` rows of the input map, `outputs` its whole output (every tile's words).

        `bases`: weight_base, neuron_base, branch_base; out_base of a layer that hands nothing on. `stream_base`: residual word of
        the output's first token.
        """
        m, source, target = self.machine, self.buffers[inputs.name], self.buffers.get(layer.name)
        channels = self._out_map(layer)[tile]
        sites, mask_row = self._site(layer)
        values = {
            **gemm_desc.walk(m, layer, source, inputs.base, rows, self.planes),
            **gemm_desc.fire(m, layer, target, tile, int((channels >= 0).sum()), self.planes,
                             {site: self.masking.ratio256_of(site, self._block(layer)) for site in sites}),
            **self._step_fields(layer, tile),
            "stream_base": stream_base + tile * m.lanes // m.fire_lanes,
            "out_base": outputs.base + tile if outputs else 0,
            **bases,
        }
        token = int(outputs.tokens[0]) if outputs else 0
        step = self._add(layer.name, Kind.GEMM, self._packed(layer.name, GEMM, values), values, masked=bool(sites),
                         draw=ROW_DRAWS * (mask_row + token) + int(channels[0]))
        step.inputs, step.outputs = inputs, outputs
        if layer.residual is not None:
            step.residual = Part(layer.name, stream_base, outputs.tokens if outputs else np.arange(layer.tokens))
            self.stream_words[layer.name] = values["stream_step"]
        return step

    def _step_fields(self, layer: Gemm, tile: int) -> dict[str, int]:
        """Where a stepwise machine keeps the potentials of the layer's tile: groups of `fire_lanes`, token by token."""
        m = self.machine
        if not m.stepwise:
            return {"scaled": 0, "potential_base": 0, "norm_base": 0, "potential_step": 0}
        # one a tile: heads that do not fill their words take more tiles than `outputs` would
        words = len(self._out_map(layer)) * (m.lanes // m.fire_lanes)
        if tile == 0:
            self.layer_bases = {name: self.potentials[name] for name in ("neuron_potentials", "norm_potentials")}
            self.potentials["neuron_potentials"] += layer.tokens * words
            self.potentials["norm_potentials"] += layer.tokens * words if layer.norm else 0
        first = tile * m.lanes // m.fire_lanes
        return {"scaled": int(self.network.takes_spikes(layer)), "potential_step": words,
                "potential_base": self.layer_bases["neuron_potentials"] + first,
                "norm_base": self.layer_bases["norm_potentials"] + first}

    def _gemm(self, layer: Gemm, source: Buffer) -> None:
        target = self.buffers.get(layer.name)
        inputs, outputs = self._part(source), self._part(target) if target else None
        rows = layer.side
        for tile, channels in enumerate(self._out_map(layer)):
            bases = {"weight_base": self.weight_bases[layer.name, tile], "neuron_base": len(self.images.params),
                     "branch_base": len(self.images.branches)}
            if not layer.hands_on:
                bases["out_base"] = self._unread_word(source)
            step = self._tile(layer, tile, inputs, rows, outputs, bases)
            step.weight_rows = tile_rows(layer, source)
            neurons, branches = fire_parameters(self.machine, layer, channels, step.fields["groups"] + 1, self._site(layer)[0])
            self.images.params += neurons
            self.images.branches += branches

    def _unread_word(self, source: Buffer) -> int:
        """Where a layer that reads `source` and hands nothing on leaves its words, one over the other.

        The fire unit writes one for each token of a tile, whatever follows; the next layer writes there before anybody reads it.
        """
        names = list(self.buffers)
        return self.buffers[names[names.index(source.name) + 1]].base

    def _attend(self, layer: Attention, shape: AttentionShape, inputs: Part, outputs: Part, rom_base: int) -> Step:
        """The descriptor of (a part of) an attention layer."""
        block = layer.name.rpartition(".")[0]
        used = self.masking.carries("scores", block)
        fields = attention_fields(self.machine, shape, in_base=inputs.base, out_base=outputs.base,
                                  score_threshold=layer.score_threshold, rom_base=rom_base,
                                  mask_ratio=self.masking.ratio256_of("scores", block) if used else 0,
                                  scores_first=self.potentials["score_potentials"] == 0,
                                  potential_base=self.potentials["output_potentials"])
        if self.machine.stepwise:  # a word for each key of each pass, and for each row
            passes = shape.jobs * shape.passes(self.machine)
            self.potentials["score_potentials"] += passes * shape.tokens
            self.potentials["output_potentials"] += passes * self.machine.attention_rows
        row = self.mask_rows[block].scores
        row += shape.window_row * shape.windows_per_side * shape.heads * shape.tokens
        step = self._add(layer.name, Kind.ATTENTION, pack_attention(fields), {}, masked=used, draw=ROW_DRAWS * row,
                         attention=shape)
        step.inputs, step.outputs = inputs, outputs
        return step

    def _shape(self, layer: Attention, window_row: int = 0, window_rows: int = 0) -> AttentionShape:
        return AttentionShape(layer.side, layer.window, layer.shift, layer.heads, layer.head_size, self.planes,
                              window_row, window_rows)

    def _rom(self, layer: Attention) -> list[int]:
        num, den = layer.rom_num, layer.rom_den
        if self.machine.stepwise:  # a score is 0 or L
            num, den = num[:, :, ::self.model.levels], den[:, :, ::self.model.levels]
        entries = den.ravel() << self.machine.rom_bits | num.ravel()
        return [int(entry) for entry in entries]

    def _attention(self, layer: Attention, source: Buffer) -> None:
        self._attend(layer, self._shape(layer), self._part(source), self._part(self.buffers[layer.name]), len(self.images.rom))
        self.images.rom += self._rom(layer)

    @staticmethod
    def _packed(layer: str, table: Fields, values: dict[str, int]) -> int:
        try:
            return pack(table, values)
        except ValueError as error:
            raise CompileError(f"{layer}: {error}: the network is too large for one descriptor") from None

    # -- program memory ------------------------------------------------------------------------------------------

    def _emit_words(self) -> None:
        order = {name: index for index, name in enumerate(dict.fromkeys(step.layer for step in self.steps))}
        for index, step in enumerate(self.steps):
            following = self.steps[index + 1].layer if index + 1 < len(self.steps) else ""
            step.header |= {"layer": order[step.layer], "last": int(following != step.layer)}
            sync = pack(SYNC, {"reads": step.reads, "writes": step.writes, "reserved": 0})
            word = pack(HEADER, step.header) | sync << PROGRAM_BITS | step.payload << 2 * PROGRAM_BITS
            self.images.program += [word >> PROGRAM_BITS * part & (1 << PROGRAM_BITS) - 1 for part in range(DESCRIPTOR_WORDS)]
