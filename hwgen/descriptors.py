"""Descriptors: what the compiler writes into the program memory and the sequencer hands to the units, stated once.

A descriptor is `DESCRIPTOR_WORDS` program words of 64 bits: header, sync, then the payload of its kind. Packing (`pack`)
and the hardware's view (`amaranth.lib.data` layouts) come from the same field tables.
"""
import enum

from amaranth.lib import data

PROGRAM_BITS = 64
DESCRIPTOR_WORDS = 9
PAYLOAD_BITS = PROGRAM_BITS * (DESCRIPTOR_WORDS - 2)
ADDRESS_BITS = 20


class Kind(enum.IntEnum):
    """What a descriptor asks for."""

    END = 0
    IMAGE = 1
    GEMM = 2
    ATTENTION = 3


class After(enum.IntEnum):
    """What leaves the fire unit."""

    COUNTS = 0
    """the neuron's counts, to the spike scratchpad"""
    NORM = 1
    """residual, then a second neuron's counts"""
    PLANES = 2
    """residual, then its requantised bit planes"""
    LOGITS = 3
    """no neuron: the sums, to the result stream"""


class Memory(enum.IntEnum):
    """On-chip memories that transfers reach."""

    WEIGHTS = 0
    PARAMS = 1
    BRANCHES = 2
    ROM = 3
    SPIKES = 4
    STREAM = 5


HEADER = {
    "kind": (4, "Kind"),
    "layer": (12, "index of the layer in the network, for traces and counters"),
    "last": (1, "last descriptor of its layer"),
    "masked": (1, "the unit draws from the mask LFSR"),
    "results": (1, "waits until the results before have left the machine"),
    "reserved": (13, "0"),
    "jump": (32, "x^k modulo the LFSR polynomial: from the image's start state to this descriptor's first draw"),
}

SYNC = {
    "reads": (16, "dispatched when this many reads of external memory are done in the image"),
    "writes": (16, "dispatched when this many writes to external memory are done in the image"),
    "reserved": (32, "0"),
}

IMAGE = {
    "base": (ADDRESS_BITS, "spike word of token 0"),
    "tokens": (20, "patches of the image"),
    "channels": (16, "pixel bytes of a patch"),
    "groups": (4, "spike words that the bits of a pixel take"),
    "words": (8, "words of `lanes` channels of a token"),
    "token_words": (12, "spike words of a token: groups * words"),
    "more": (1, "the image's packet goes on: the next IMAGE descriptor takes what follows"),
}

GEMM = {
    "in_base": (ADDRESS_BITS, "spike word of the first input token"),
    "token_step": (16, "words from one output token's inputs to the next in the row"),
    "row_step": (16, "the same from the last token of a row to the first of the next"),
    "tokens_x": (10, "output tokens in a row, less one"),
    "tokens_y": (10, "rows of output tokens, less one"),
    "phases_x": (8, "gathered tokens along x, less one"),
    "phases_y": (8, "gathered tokens along y (inner), less one"),
    "off_x": (16, "words between gathered tokens along x"),
    "off_y": (16, "words between gathered tokens along y"),
    "stride": (8, "input tokens from one output token to the next, where the map's edge is watched (convolutions); else 0"),
    "padding": (8, "tokens that the first gathered one lies before the map"),
    "side": (10, "side of the input map, less one: gathered tokens outside are 0; 1023 where none can be"),
    "words": (8, "words of one gathered token and group, less one"),
    "group_step": (8, "words between groups of bit planes"),
    "first_group": (12, "word offset of the group that holds the most significant plane"),
    "first_bit": (3, "bit of the most significant plane in its group"),
    "passes_less_one": (4, "walks over a token's words, less one: by group of planes; a sign plane beside others alone"),
    "signed": (1, "the most significant plane subtracts: the first pass takes it alone"),
    "weight_base": (ADDRESS_BITS, "weight row of input channel 0"),
    "row_word_step": (10, "weight rows between words"),
    "row_phase_step": (14, "weight rows between gathered tokens"),
    "groups": (7, "fire groups of a token, less one"),
    "spacing": (7, "least cycles from token to token, less one: fire groups or output words"),
    "neuron_base": (14, "parameter word of the neuron's first group"),
    "branch_base": (14, "parameter word of the residual's first group"),
    "phases": (4, "enabled firing phases: a mask of b bits"),
    "after": (2, "After"),
    "fresh": (1, "the residual starts here"),
    "shift": (4, "requantise shift"),
    "plane_bits": (4, "requantised bits, less one"),
    "stream_base": (ADDRESS_BITS, "residual word of token 0"),
    "stream_step": (12, "residual words of a token"),
    "out_base": (ADDRESS_BITS, "spike word of token 0's result"),
    "out_step": (12, "spike words of a result token"),
    "out_words": (4, "words written per token, less one"),
    "out_word_step": (8, "words between them"),
    "ratio0": (8, "mask ratio of channels that select 1, in 1/256"),
    "ratio1": (8, "mask ratio of channels that select 2"),
    "count": (9, "output channels of this tile (logits)"),
    "final": (1, "last tile of the logits"),
    "scaled": (1, "stepwise: the inputs are spikes, which stand for L counts each"),
    "potential_base": (ADDRESS_BITS, "stepwise: word of the first token's potentials"),
    "norm_base": (ADDRESS_BITS, "stepwise: the same of the neurons behind the residual"),
    "potential_step": (12, "stepwise: words of a token's potentials"),
}

TRANSFER_BITS = 128
TRANSFER = {
    "kind": (2, "0: end of an image's transfers; 1: a transfer"),
    "memory": (3, "Memory"),
    "local": (ADDRESS_BITS, "first word in the on-chip memory"),
    "words": (20, "words, less one"),
    "address": (32, "external address of the first beat, in beats of the memory bus behind MEMORY_BASE"),
    "steps": (16, "starts when this many descriptors of the image's program are done"),
    "writes": (16, "reads only: starts when this many writes of the image are in external memory"),
    "reserved": (19, "0"),
}
"""A transfer between external and on-chip memory: an entry of the read or of the write program."""

Fields = dict[str, tuple[int, str]]


def layout(fields: Fields) -> data.StructLayout:
    """The hardware's view of a field table, first field in the lowest bits."""
    return data.StructLayout({name: width for name, (width, _) in fields.items()})


def pack(fields: Fields, values: dict[str, int]) -> int:
    """Pack `values` (every field, each in range) into one integer; ValueError names the field and the value."""
    if set(values) != set(fields):
        raise ValueError(f"descriptor fields differ: {sorted(set(values) ^ set(fields))}")
    word = shift = 0
    for name, (width, _) in fields.items():
        value = int(values[name])
        if not 0 <= value < 1 << width:
            raise ValueError(f"descriptor field {name} is {value}: it does not fit {width} bits")
        word |= value << shift
        shift += width
    return word


def unpack(fields: Fields, word: int) -> dict[str, int]:
    """The inverse of `pack`."""
    values = {}
    for name, (width, _) in fields.items():
        values[name] = word & (1 << width) - 1
        word >>= width
    return values


def width(fields: Fields) -> int:
    """Bits of a field table."""
    return sum(bits for bits, _ in fields.values())
