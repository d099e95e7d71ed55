"""The compiler: an integer network becomes a program (descriptors) and memory images for one machine.

A layer becomes one descriptor per tile of `lanes` output channels (attention: one). Tiles are outermost and tokens inner, so
each weight row is fetched for one tile at a time. Spike buffers alternate between the two ends of the scratchpad: a layer
reads one and writes the other.
"""

import dataclasses
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwgen.attention_cycles import AttentionShape
from hwgen.attention_desc import attention_fields, pack_attention
from hwgen.config import MachineConfig, fitted
from hwgen.descriptors import DESCRIPTOR_WORDS, GEMM, HEADER, IMAGE, PROGRAM_BITS, After, Fields, Kind, pack
from hwgen.layout import Buffer, dense_map, slot_map
from hwgen.limits import CompileError, check_fits, needs
from hwgen.tiles import fire_parameters, weight_rows
from model.config import MaskingConfig
from model.masking import LEAP, ROW_DRAWS, jump_polynomial, mask_rows
from quantize.formats import PIXEL_BITS
from quantize.layers import Attention, Gemm, Network

Ints = NDArray[np.int64]


@dataclass(slots=True)
class Step:
    """One descriptor, with what the cycle model and the benches need to know of it."""

    layer: str
    kind: Kind
    fields: dict[str, int]
    header: dict[str, int]
    payload: int
    attention: AttentionShape | None = None


@dataclass(slots=True)
class Images:
    """Contents of the machine's loadable memories, as integers of one word each."""

    program: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    params: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    rom: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Program:
    """A compiled network. `buffers[layer]`: where the layer's output lies (`image`: the pixels)."""

    machine: MachineConfig
    network: Network
    steps: list[Step]
    images: Images
    buffers: dict[str, Buffer]
    stream_words: dict[str, int]
    """residual words of a token, by layer with a residual"""

    @property
    def layers(self) -> list[str]:
        """Layer names in execution order, `image` first."""
        return list(dict.fromkeys(step.layer for step in self.steps if step.kind != Kind.END))


def compile_network(network: Network, machine: MachineConfig, masking: MaskingConfig) -> Program:
    """Compile; CompileError when a memory or a parameter of the machine is too small, with the parameter to raise."""
    return _Compiler(network, machine, masking).run()


def sized(machine: MachineConfig, program: Program) -> MachineConfig:
    """`machine` with every depth of 0 set to what `program` needs."""
    need = demands(program)
    return with_depths(machine, {name: amount for name, amount in need.items() if getattr(machine, name) == 0})


def with_depths(machine: MachineConfig, depths: dict[str, int]) -> MachineConfig:
    """`machine` with other memory depths."""
    return dataclasses.replace(machine, **depths)  # type: ignore[arg-type]


def demands(program: Program) -> dict[str, int]:
    """Words that the program needs of each memory of the machine, by the name of its knob."""
    images, buffers = program.images, list(program.buffers.values())
    streams = [words * program.buffers[name].tokens for name, words in program.stream_words.items()]
    return {
        "weight_rows": len(images.weights),
        "spike_words": _spike_words(buffers),
        "stream_words": max(streams, default=1),
        "param_words": max(len(images.params), len(images.branches), 1),
        "rom_words": max(len(images.rom), 1),
        "descriptors": len(program.steps),
    }


def _spike_words(buffers: list[Buffer]) -> int:
    return max(a.size + b.size for a, b in zip(buffers, buffers[1:], strict=False))


class _Compiler:
    def __init__(self, network: Network, machine: MachineConfig, masking: MaskingConfig) -> None:
        self.network, self.machine, self.masking = network, fitted(machine, **needs(network)), masking
        self.model = network.model
        self.images = Images()
        self.steps: list[Step] = []
        self.mask_rows = mask_rows(self.model)
        check_fits(network, self.machine)

    def run(self) -> Program:
        self.buffers = buffers = self._placed(self._buffers())
        self.stream_words: dict[str, int] = {}
        image = buffers["image"]
        values = {
            "base": image.base,
            "tokens": image.tokens,
            "channels": image.channels,
            "groups": image.groups,
            "words": image.words,
            "token_words": image.token_words,
        }
        self._add("image", Kind.IMAGE, self._packed("image", IMAGE, values), values)
        source = image
        for layer in self.network.layers:
            if isinstance(layer, Attention):
                self._attention(layer, source)
            else:
                self._gemm(layer, source)
            source = buffers.get(layer.name, source)
        self._add("end", Kind.END, 0, {})
        program = Program(self.machine, self.network, self.steps, self.images, buffers, self.stream_words)
        self._emit_words()
        return self._checked(program)

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
        out = {"image": Buffer("image", model.side(0) ** 2, PIXEL_BITS, False, m.planes, dense_map(pixels, m.lanes))}
        for layer in self.network.layers:
            if isinstance(layer, Attention):
                channels = slot_map(layer.heads, layer.head_size, m.lanes)
            elif layer.kind == "head":
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

    def _placed(self, buffers: dict[str, Buffer]) -> dict[str, Buffer]:
        """Every other buffer moves to the far end of the scratchpad, so that a layer never writes what it reads."""
        depth = self.machine.spike_words or _spike_words(list(buffers.values()))
        return {
            name: dataclasses.replace(buffer, base=max(0, depth - buffer.size)) if index % 2 else buffer
            for index, (name, buffer) in enumerate(buffers.items())
        }

    # -- layers --------------------------------------------------------------------------------------------------

    def _add(
        self,
        layer: str,
        kind: Kind,
        payload: int,
        values: dict[str, int],
        *,
        masked: bool = False,
        draw: int = 0,
        attention: AttentionShape | None = None,
    ) -> None:
        results = kind == Kind.END or values.get("after") == After.LOGITS
        header = {
            "kind": int(kind),
            "layer": 0,
            "last": 0,
            "masked": int(masked),
            "results": int(results),
            "reserved": 0,
            "jump": jump_polynomial(LEAP * draw),
        }
        self.steps.append(Step(layer, kind, values, header, payload, attention))

    def _site(self, layer: Gemm) -> tuple[tuple[str, ...], int]:
        """Mask sites that this layer's output carries, and their first mask row."""
        if layer.norm is not None and layer.norm.site:
            return (layer.norm.site,), self.mask_rows[layer.name.rsplit(".", 1)[0]].fc1
        if layer.kind == "qkv":
            return ("q", "k"), self.mask_rows[layer.name.rsplit(".", 1)[0]].qkv
        if layer.kind == "fc1":
            return ("fc2",), self.mask_rows[layer.name.rsplit(".", 1)[0]].fc2
        return (), 0

    def _gemm(self, layer: Gemm, source: Buffer) -> None:
        m = self.machine
        target = self.buffers.get(layer.name)
        out_map = target.channel_map if target else dense_map(layer.outputs, m.lanes)
        sites, mask_row = self._site(layer)
        sites = tuple(site for site in sites if site in self.masking.sites)
        ratio = self.masking.ratio256
        after = (
            After.LOGITS
            if layer.kind == "head"
            else After.NORM
            if layer.norm is not None
            else After.PLANES
            if layer.requantise is not None
            else After.COUNTS
        )
        chunk = -(-layer.outputs // m.fire_lanes)
        if layer.residual is not None:
            self.stream_words[layer.name] = chunk
        for tile, channels in enumerate(out_map):
            used = int((channels >= 0).sum())
            groups = -(-used // m.fire_lanes)
            out_words = target.groups if target else 1
            values = {
                **self._walk(layer, source),
                "weight_base": len(self.images.weights),
                "row_word_step": source.row_step,
                "row_phase_step": source.rows if layer.kind == "merge" else 0,
                "groups": groups - 1,
                "spacing": max(groups, out_words) - 1,
                "neuron_base": len(self.images.params),
                "branch_base": len(self.images.branches),
                "phases": self.model.levels,
                "after": int(after),
                "fresh": int(layer.residual is not None and layer.residual.fresh),
                "shift": layer.requantise.shift if layer.requantise else 0,
                "plane_bits": layer.requantise.bits - 1 if layer.requantise else 0,
                "stream_base": tile * m.lanes // m.fire_lanes,
                "stream_step": chunk,
                "out_base": target.base + tile if target else 0,
                "out_step": target.token_words if target else 0,
                "out_words": out_words - 1,
                "out_word_step": target.words if target else 0,
                "ratio0": ratio if {"q", "fc1", "fc2"} & set(sites) else 0,
                "ratio1": ratio if "k" in sites else 0,
                "count": used,
                "final": int(tile == len(out_map) - 1),
            }
            first = int(channels[0])
            self._add(
                layer.name,
                Kind.GEMM,
                self._packed(layer.name, GEMM, values),
                values,
                masked=bool(sites),
                draw=ROW_DRAWS * mask_row + first,
            )
            self.images.weights += weight_rows(m, layer, source, channels)
            neurons, branches = fire_parameters(m, layer, channels, groups, sites)
            self.images.params += neurons
            self.images.branches += branches

    def _walk(self, layer: Gemm, source: Buffer) -> dict[str, int]:
        """How the extractor walks the input: tokens, gathered tokens, planes."""
        word = source.token_words
        planes = source.bits if layer.kind in ("embed", "merge", "head") else self.model.planes
        top = planes - 1
        common = {
            "in_base": source.base,
            "words": source.words - 1,
            "group_step": source.words,
            "first_group": top // self.machine.planes * source.words,
            "first_bit": top % self.machine.planes,
            "planes_less_one": top,
            "signed": int(source.signed),
        }
        side = layer.side
        if layer.kind == "merge":
            half = side // 2
            return {
                **common,
                "tokens_x": half - 1,
                "tokens_y": half - 1,
                "token_step": 2 * word,
                "row_step": (side + 2) * word,
                "phases_x": 1,
                "phases_y": 1,
                "off_x": word,
                "off_y": side * word,
            }
        if layer.kind == "head":
            return {
                **common,
                "tokens_x": 0,
                "tokens_y": 0,
                "token_step": 0,
                "row_step": 0,
                "phases_x": side - 1,
                "phases_y": side - 1,
                "off_x": word,
                "off_y": side * word,
            }
        rows = int(round(source.tokens**0.5))
        return {
            **common,
            "tokens_x": rows - 1,
            "tokens_y": rows - 1,
            "token_step": word,
            "row_step": word,
            "phases_x": 0,
            "phases_y": 0,
            "off_x": 0,
            "off_y": 0,
        }

    def _attention(self, layer: Attention, source: Buffer) -> None:
        shape = AttentionShape(layer.side, layer.window, layer.shift, layer.heads, layer.head_size, self.model.planes)
        used = "scores" in self.masking.sites
        fields = attention_fields(
            self.machine,
            shape,
            in_base=source.base,
            out_base=self.buffers[layer.name].base,
            score_threshold=layer.score_threshold,
            rom_base=len(self.images.rom),
            mask_ratio=self.masking.ratio256 if used else 0,
        )
        row = self.mask_rows[layer.name.rsplit(".", 1)[0]].scores
        self._add(layer.name, Kind.ATTENTION, pack_attention(fields), {}, masked=used, draw=ROW_DRAWS * row, attention=shape)
        entries = layer.rom_den.ravel() << self.machine.rom_bits | layer.rom_num.ravel()
        self.images.rom += [int(entry) for entry in entries]

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
            word = pack(HEADER, step.header) | step.payload << PROGRAM_BITS
            self.images.program += [word >> PROGRAM_BITS * part & (1 << PROGRAM_BITS) - 1 for part in range(DESCRIPTOR_WORDS)]
