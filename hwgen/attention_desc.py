"""The attention unit's descriptor: one packed structure a layer, every product already taken by the compiler."""
from amaranth.lib import data

from hwgen.attention_cycles import AttentionShape
from hwgen.config import MachineConfig
from model.errors import ConfigError

ADDRESS_BITS = 20
"""Bits of a scratchpad or ROM address in a descriptor: `spike_words` and `rom_words` go up to 2^20."""
THRESHOLD_BITS = 20
NO_EDGE = 255


class WalkFields(data.Struct):
    """Where a map of tokens lies; all in spike words."""

    base: ADDRESS_BITS      # word of token 0
    token: 12               # words of a token
    row: ADDRESS_BITS       # words of a row of tokens: side * token
    origin_x: 16            # shift * token
    origin_y: ADDRESS_BITS  # base + shift * row


class SlotFields(data.Struct):
    """Where the first head's slice of k or v lies in a token."""

    word: 12
    slot: 8  # place in the word
    lane: 8  # slot * head_size


class AttentionDescriptor(data.Struct):
    """A whole attention layer. `x_last` is the number of x, less one. Filled by `attention_fields`."""

    input: WalkFields
    output: WalkFields
    side_last: 8
    window_last: 4
    windows_last: 8         # windows along x
    window_rows_last: 8     # rows of windows
    edge_row: 8             # the row of windows that meets the map's lower edge; NO_EDGE: not among them
    shift: 4
    shift_y: 4              # shift, or 0 where the rows lie in the rolled map's order
    split: 5                # window - shift: where the regions of an edge window meet
    keys_last: 8
    passes_last: 8
    pass_last: 9            # cycles of a pass
    row_last: 6             # cycles in which a row fires, or is divided
    heads_last: 8
    head_size: 8
    slots_last: 8           # head slices in a word
    parts_last: 4           # words in a head slice
    k: SlotFields
    v: SlotFields
    planes_enable: 4        # bit p: phase p fires
    score_threshold: THRESHOLD_BITS
    rom_start: ADDRESS_BITS  # entry of head 0 for query 0, key 0, score 0
    rom_head: ADDRESS_BITS   # words of a head: (2W-1)^2 * (L+1)
    rel_step: 5             # L + 1
    rel_wrap: 9             # W * (L + 1)
    mask_ratio: 8           # in 1/256; 0 masks nothing
    scores_first: 1         # stepwise: the program's first layer: score potentials begin here
    potential_base: ADDRESS_BITS  # stepwise: word of the first output row's potentials


def _walk(shape: AttentionShape, base: int, token: int) -> dict[str, int]:
    row = shape.side * token
    return {"base": base, "token": token, "row": row,
            "origin_x": shape.shift * token, "origin_y": base + _shift_y(shape) * row}


def _shift_y(shape: AttentionShape) -> int:
    return 0 if shape.window_rows else shape.shift


def _edge_row(shape: AttentionShape) -> int:
    edge = shape.windows_per_side - 1 - shape.window_row
    return edge if edge < shape.rows_of_windows else NO_EDGE


def _slot(shape: AttentionShape, lanes: int, first: int) -> dict[str, int]:
    words, slot = divmod(first, shape.heads_per_word(lanes))
    return {"word": words * shape.words_per_head(lanes), "slot": slot, "lane": slot * shape.head_size}


def attention_fields(m: MachineConfig, shape: AttentionShape, *, in_base: int, out_base: int, score_threshold: int,
                     rom_base: int, mask_ratio: int, scores_first: bool = False, potential_base: int = 0) -> dict[str, object]:
    """The descriptor's fields, ready for `AttentionDescriptor.const`.

    `in_base`, `out_base`: spike words of token 0 (the regions must not overlap). `rom_base`: ROM word of this layer's
    head 0, rel 0, score 0. `mask_ratio`: in 1/256. `scores_first`, `potential_base`: of a stepwise machine.
    ConfigError if the machine is too small or a value does not fit its
    field.
    """
    shape.check(m)
    if score_threshold < 1:
        raise ConfigError(f"attention: score_threshold must be at least 1, not {score_threshold}")
    lanes, w, step = m.lanes, shape.window, 1 << shape.planes
    fields: dict[str, object] = {
        "input": _walk(shape, in_base, shape.token_words(lanes, 3 * shape.heads)),
        "output": _walk(shape, out_base, shape.token_words(lanes, shape.heads)),
        "side_last": shape.side - 1, "window_last": w - 1, "windows_last": shape.windows_per_side - 1,
        "window_rows_last": shape.rows_of_windows - 1, "edge_row": _edge_row(shape), "shift_y": _shift_y(shape),
        "shift": shape.shift, "split": w - shape.shift, "keys_last": shape.tokens - 1,
        "passes_last": shape.passes(m) - 1, "pass_last": shape.pass_cycles(m) - 1, "row_last": shape.row_cycles(m) - 1,
        "heads_last": shape.heads - 1, "head_size": shape.head_size,
        "slots_last": shape.heads_per_word(lanes) - 1, "parts_last": shape.words_per_head(lanes) - 1,
        "k": _slot(shape, lanes, shape.heads), "v": _slot(shape, lanes, 2 * shape.heads),
        "planes_enable": step - 1, "score_threshold": score_threshold,
        "rom_start": rom_base + 2 * w * (w - 1) * step, "rom_head": (2 * w - 1) ** 2 * step,
        "rel_step": step, "rel_wrap": w * step, "mask_ratio": mask_ratio,
        "scores_first": int(scores_first), "potential_base": potential_base,
    }
    _fits(AttentionDescriptor.as_shape(), fields, "attention")
    return fields


def _fits(layout: data.Layout, fields: dict[str, object], name: str) -> None:
    for key, value in fields.items():
        shape = layout[key].shape
        if isinstance(value, dict):
            _fits(shape.as_shape(), value, f"{name}.{key}")
        elif not isinstance(value, int) or not 0 <= value < 1 << shape:
            raise ConfigError(f"{name}.{key}: {value} does not fit {shape} bits of a descriptor: use a smaller network")


def pack_attention(fields: dict[str, object]) -> int:
    """The descriptor as an integer, first field in the low bits."""
    return int(AttentionDescriptor.as_shape().const(fields).as_bits())
