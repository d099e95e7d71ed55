"""The GEMM descriptor's fields: how the extractor walks the input, and what the fire unit does with the sums."""
from hwgen.config import MachineConfig
from hwgen.descriptors import ADDRESS_BITS, GEMM, After
from hwgen.layout import Buffer
from hwgen.limits import CompileError
from quantize.layers import Gemm

NO_EDGE = 1023
"""Field `side` of a walk that stays inside its map."""
FIRE_GROUPS = 1 << GEMM["groups"][0]
"""Fire groups of a token that a descriptor counts."""


def after(layer: Gemm) -> After:
    """What leaves the fire unit."""
    if layer.kind == "head":
        return After.LOGITS
    if layer.norm is not None:
        return After.NORM
    return After.COUNTS if layer.residual is None else After.PLANES  # planes too where nobody reads them


def walk(m: MachineConfig, layer: Gemm, source: Buffer, base: int, rows: int, planes: int) -> dict[str, int]:
    """The input's fields: `rows` rows of the input map, the first token at spike word `base`. `planes`: b of the network."""
    word = source.token_words
    top = (source.bits if source.signed or source.name == "image" else planes) - 1
    fields = {
        "in_base": base, "words": source.words - 1, "group_step": source.words,
        "first_group": top // m.planes * source.words, "first_bit": top % m.planes,
        "passes_less_one": top // m.planes + int(source.signed and top % m.planes > 0), "signed": int(source.signed),
        "tokens_x": layer.side - 1, "tokens_y": rows - 1, "token_step": word, "row_step": word,
        "phases_x": 0, "phases_y": 0, "off_x": 0, "off_y": 0, "stride": 0, "padding": 0, "side": NO_EDGE,
        "row_word_step": source.row_step, "row_phase_step": source.rows if layer.kind in ("merge", "conv") else 0,
    }
    if layer.gather is not None:
        side, stride, padding, last = layer.side, layer.gather.stride, layer.gather.padding, layer.gather.kernel - 1
        end = layer.gather.out_side(side) - 1
        # The first token's first tap may lie before the map, even before word 0: addresses wrap, and no such word is read.
        fields |= {"in_base": (base - padding * (side + 1) * word) % (1 << ADDRESS_BITS), "tokens_x": end, "tokens_y": end,
                   "token_step": stride * word, "row_step": stride * (side - end) * word if end else 0, "phases_x": last,
                   "phases_y": last, "off_x": word, "off_y": side * word, "stride": stride, "padding": padding, "side": side - 1}
    elif layer.kind == "merge":
        fields |= {"tokens_x": layer.side // 2 - 1, "tokens_y": rows // 2 - 1, "token_step": 2 * word,
                   "row_step": (layer.side + 2) * word, "phases_x": 1, "phases_y": 1, "off_x": word, "off_y": layer.side * word}
    elif layer.kind == "head":
        fields |= {"tokens_x": 0, "tokens_y": 0, "token_step": 0, "row_step": 0, "phases_x": layer.side - 1,
                   "phases_y": rows - 1, "off_x": word, "off_y": layer.side * word}
    return fields


def fire(m: MachineConfig, layer: Gemm, target: Buffer | None, tile: int, used: int, planes: int,
         ratios: dict[str, int]) -> dict[str, int]:
    """The fire unit's fields for tile `tile` of `used` output channels; memory bases are the compiler's.

    `ratios`: the mask sites that the output carries, each with its ratio in 1/256.
    """
    groups = -(-used // m.fire_lanes)
    if groups > FIRE_GROUPS:
        raise CompileError(f"{layer.name}: {used} channels at once, fire_lanes = {m.fire_lanes} takes "
                           f"{FIRE_GROUPS * m.fire_lanes}: set [machine] fire_lanes = {m.lanes // FIRE_GROUPS} or fewer lanes")
    out_words = target.groups if target else 1
    return {
        "groups": groups - 1, "spacing": max(groups, out_words) - 1,
        "phases": 0 if m.stepwise and layer.threshold is None else (1 << planes) - 1, "after": int(after(layer)),
        "fresh": int(layer.residual is not None and layer.residual.fresh),
        "shift": layer.requantise.shift if layer.requantise else 0,
        "plane_bits": layer.requantise.bits - 1 if layer.requantise else 0,
        "stream_step": residual_words(m, layer), "out_step": target.token_words if target else 0,
        "out_words": out_words - 1, "out_word_step": target.words if target else 0,
        "ratio0": next((ratio for site, ratio in ratios.items() if site != "k"), 0), "ratio1": ratios.get("k", 0),
        "count": used, "final": int((tile + 1) * m.lanes >= layer.outputs),
    }


def residual_words(m: MachineConfig, layer: Gemm) -> int:
    """Residual words of a token."""
    return -(-layer.outputs // m.fire_lanes)
