"""The packed network: one file that a board's firmware loads. Its format is stated here, and only here.

All numbers are little-endian u32. A header of the words of HEADER, then a section table of `sections` entries (SECTION words
each), then the sections' bytes, each from a multiple of four on. A section for a load target is the packet for that memory, as
the input stream takes it; one for EXTERNAL is what lies in external memory from MEMORY_BASE on. A machine with built-in weights
(`weights = "initialised"`) has no sections: the file then says what the machine holds.
"""
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwgen.config import MachineConfig
from hwgen.emit import design_digest, image_words
from hwgen.loader import beats_per_word
from hwgen.program import compile_network, demands, sized
from hwgen.registers import REGISTERS, VERSION, address_map, constants
from hwgen.shapes import memory_shapes
from hwgen.steps import Program
from model.config import MaskingConfig
from quantize.layers import Network

PACKED_MAGIC = 0x4D53544E
"""The first word: "MSTN", highest byte first."""
PACKED_FORMAT = 2
"""Version of this format."""
EXTENSION = ".bin"
EXTERNAL = 0x100
"""A section's target: external memory."""

HEADER: Mapping[str, str] = {
    "magic": "\"MSTN\"",
    "format": "version of this format",
    "size": "bytes of the file",
    "crc": "CRC-32 (IEEE 802.3) of all that follows this word",
    "map_version": "the VERSION register that the program is for",
    "build_id": "the BUILD_ID register it was packed for; must be equal where weights are built in",
    "cap_array": "what CAP_ARRAY must hold",
    "cap_attention": "what CAP_ATTENTION must hold",
    "cap_format": "what CAP_FORMAT must hold",
    "cap_memory": "what CAP_MEMORY must hold",
    "cap_firing": "what CAP_FIRING must hold",
    "weight_rows": "least CAP_WEIGHT_ROWS",
    "spike_words": "least CAP_SPIKE_WORDS",
    "stream_words": "least CAP_STREAM_WORDS",
    "param_words": "least CAP_PARAM_WORDS",
    "rom_words": "least CAP_ROM_WORDS",
    "descriptors": "least CAP_DESCRIPTORS",
    "transfers": "least CAP_TRANSFERS",
    "image_side": "pixels of an image's side",
    "image_channels": "bytes of a pixel",
    "patch": "pixels of a patch's side",
    "classes": "logits of an image",
    "mask_seed": "MASK_SEED as configured",
    "mask_ctrl": "MASK_CTRL as configured",
    "external_bytes": "bytes of external memory that a run uses, from MEMORY_BASE on; 0: none",
    "sections": "entries of the section table",
}
SECTION: Mapping[str, str] = {
    "target": "a LOAD_TARGET, or 0x100 for external memory",
    "offset": "first byte, from the start of the file",
    "bytes": "how many, a multiple of four",
}
SAME = ("cap_array", "cap_attention", "cap_format", "cap_memory", "cap_firing")
"""Header words that name a capability register which must hold just that."""
DEPTHS = ("weight_rows", "spike_words", "stream_words", "param_words", "rom_words", "descriptors")
"""Header words that name the least depth of a memory; the capability register of each is CAP_<NAME>."""


class PackedError(ValueError):
    """Not a packed network: the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed network taken apart. `header`: by the names of HEADER; `sections`: target -> bytes."""

    header: dict[str, int]
    sections: dict[int, bytes]


def word_packet(words: Sequence[int], width: int, bus_bytes: int) -> bytes:
    """The load packet of memory words of `width` bits: each in whole beats, lowest byte first; ValueError if one does not fit."""
    size = beats_per_word(bus_bytes, width) * bus_bytes
    for index, word in enumerate(words):
        if not 0 <= word < 1 << width:
            raise ValueError(f"word {index} ({word:#x}) does not fit {width} bits")
    return b"".join(word.to_bytes(size, "little") for word in words)


def compiled(network: Network, machine: MachineConfig, masking: MaskingConfig) -> tuple[Program, MachineConfig, str]:
    """(program, sized machine, design id) without any Verilog; CompileError when the network does not fit."""
    program = compile_network(network, machine, masking)
    machine = program.machine = sized(program.machine, program)
    return program, machine, design_digest(machine, program.images)


def pack(program: Program, machine: MachineConfig, masking: MaskingConfig, build_id: int) -> bytes:
    """The packed network of `program` for sized `machine`, whose BUILD_ID register holds `build_id`."""
    registers, values, model = address_map(), constants(machine, build_id), program.network.model
    held = {register.name.lower(): sum(field.put(values[register.name, field.name]) for field in register.fields)
            for register in REGISTERS if register.name.startswith("CAP_")}
    mask = registers["MASK_CTRL"]
    need = demands(program)
    header = {
        "magic": PACKED_MAGIC, "format": PACKED_FORMAT, "map_version": VERSION, "build_id": build_id,
        **{name: held[name] for name in SAME},
        **{name: need[name] for name in DEPTHS}, "transfers": need.get("transfers", 0),
        "image_side": model.image_size, "image_channels": model.in_channels, "patch": model.patch, "classes": model.classes,
        "mask_seed": masking.seed, "mask_ctrl": mask.field("enable").put(1),
        "external_bytes": program.external_beats * machine.memory_bits // 8,
    }
    sections: dict[int, bytes] = {}
    if machine.weights == "loadable":
        for memory, (bits, _) in memory_shapes(machine).items():
            sections[memory] = word_packet(image_words(program.images, memory), bits, machine.bus_bytes)
        sections[EXTERNAL] = program.images.external + bytes(-len(program.images.external) % 4)
    sections = {target: data for target, data in sections.items() if data}
    header["sections"] = len(sections)
    at = 4 * (len(HEADER) + len(SECTION) * len(sections))
    table = b""
    for target, data in sections.items():
        table += struct.pack("<3I", target, at, len(data))
        at += len(data)
    header["size"] = at
    words = list(HEADER)
    behind = words[words.index("crc") + 1:]
    body = struct.pack(f"<{len(behind)}I", *(header[name] for name in behind)) + table + b"".join(sections.values())
    return struct.pack("<4I", PACKED_MAGIC, PACKED_FORMAT, at, zlib.crc32(body)) + body


def unpack(data: bytes) -> Packed:
    """Take a packed network apart; PackedError says what is wrong with it."""
    fixed = 4 * len(HEADER)
    if len(data) < fixed:
        raise PackedError(f"has {len(data)} bytes, less than the header's {fixed}: it is cut short")
    header = dict(zip(HEADER, struct.unpack_from(f"<{len(HEADER)}I", data), strict=True))
    if header["magic"] != PACKED_MAGIC:
        raise PackedError(f"begins with {header['magic']:#010x}, not {PACKED_MAGIC:#010x}: not a packed network")
    if header["format"] != PACKED_FORMAT:
        raise PackedError(f"has format {header['format']}, this reader knows {PACKED_FORMAT}: pack it again")
    if header["size"] != len(data):
        raise PackedError(f"has {len(data)} bytes, its header says {header['size']}: it is cut short or was added to")
    if header["crc"] != zlib.crc32(data[16:]):
        raise PackedError("has another CRC than its header says: it was damaged, pack it again")
    sections: dict[int, bytes] = {}
    end = fixed + 4 * len(SECTION) * header["sections"]
    for index in range(header["sections"]):
        if fixed + 4 * len(SECTION) * (index + 1) > len(data):
            raise PackedError(f"names {header['sections']} sections, more than fit its {len(data)} bytes: pack it again")
        target, offset, size = struct.unpack_from("<3I", data, fixed + 4 * len(SECTION) * index)
        if offset % 4 or size % 4 or offset + size > len(data):
            raise PackedError(f"section {index} lies at {offset} with {size} bytes, outside the file of {len(data)}")
        if offset != end or target in sections:  # as `pack` writes them; so no byte is taken twice
            raise PackedError(f"section {index} (target {target:#x}) lies at {offset}, not at {end}, or is there twice: "
                              "pack it again")
        end += size
        sections[target] = data[offset:offset + size]
    return Packed(header, sections)
