"""Operation counts against loops that count one by one, and against the cycle model."""
import numpy as np
import pytest

from hwgen.config import MachineConfig
from hwgen.program import Program, compile_network, sized
from hwgen.schedule import predict
from model.config import SITES, MaskingConfig, ModelConfig
from model.masking import SpikeMask
from quantize.layers import Attention, Gemm
from quantize.random_network import random_images, random_network
from sim.golden.network import Trace
from sim.golden.network import run as run_golden
from sim.ops import LayerOps, count, mean, memories, plane_spikes
from sim.verify import stored

MODEL = ModelConfig(image_size=8, in_channels=1, classes=3, patch=2, embedding=8, depths=(2, 1), heads=(2, 4), window=2,
                    mlp_ratio=2.0, levels=7)
MACHINE = MachineConfig(lanes=8, fire_lanes=4, head_lanes=4, window_tokens=4)
MASKING = MaskingConfig(sites=SITES, ratio=0.75)
NETWORK = random_network(MODEL, 4)
IMAGES = random_images(MODEL, 9, 2)


def compiled(machine: MachineConfig = MACHINE) -> Program:
    program = compile_network(NETWORK, machine, MASKING)
    program.machine = sized(machine, program)
    return program


PROGRAM = compiled()
PLAIN = run_golden(NETWORK, IMAGES)
MASKED = run_golden(NETWORK, IMAGES, mask=SpikeMask.of(MASKING))


@pytest.fixture(scope="module", params=["plain", "masked"])
def case(request: pytest.FixtureRequest) -> tuple[Trace, list[list[LayerOps]]]:
    trace = PLAIN if request.param == "plain" else MASKED
    return trace, count(PROGRAM, trace, IMAGES)


def ones(value: int, bits: int) -> int:
    return bin(int(value) & (1 << bits) - 1).count("1")


def predictions(trace: Trace, index: int, **changed: np.ndarray) -> list:
    values = {name: found[index] for name, found in stored(trace, PROGRAM, IMAGES).items()}
    return predict(PROGRAM, values | changed)


def test_events_and_cycles_are_those_of_the_cycle_model(case: tuple[Trace, list[list[LayerOps]]]) -> None:
    trace, found = case
    for index, layers in enumerate(found):
        wanted = predictions(trace, index)
        assert [(layer.name, layer.events, layer.cycles) for layer in layers] == [
            (layer.layer, layer.events, layer.cycles) for layer in wanted]
        assert sum(layer.events for layer in layers) > 0


def test_gemm_operations_one_by_one(case: tuple[Trace, list[list[LayerOps]]]) -> None:
    """Spikes of the golden's own inputs; the head's are those of every token, before pooling."""
    trace, found = case
    for layer in NETWORK.layers:
        if not isinstance(layer, Gemm):
            continue
        values = trace.outputs["s1.b0.fc2"]["planes"][1] if layer.kind == "head" else trace.inputs[layer.name][1]
        bits = 8 if layer.kind in ("embed", "merge", "head") else 3
        spikes = sum(ones(value, bits) for value in values.ravel())
        ops = next(entry for entry in found[1] if entry.name == layer.name)
        tiles = len([step for step in PROGRAM.steps if step.layer == layer.name])
        assert tiles >= -(-layer.outputs // 8)
        assert (ops.spikes, ops.events, ops.sops) == (spikes, spikes * tiles, spikes * layer.outputs)
        assert ops.dense_macs == layer.tokens * layer.weight.size
        assert ops.rate_spikes == (None if bits == 8 else int(values.sum()))
        assert ops.memory_bits["weights"] == ops.events * 8 * 8
        assert ops.dense_sops == bits * values.size * layer.outputs


def test_attention_operations_one_by_one(case: tuple[Trace, list[list[LayerOps]]]) -> None:
    """Straight from docs/semantics.md, 3.4; the second layer has a shifted window."""
    trace, found = case
    layer = NETWORK.layer("s0.b1.attn")
    assert isinstance(layer, Attention) and layer.shift == 1
    side, window, d = layer.side, layer.window, layer.head_size
    counts = trace.inputs[layer.name][0]
    sops = 0
    for corner in range(layer.windows):
        wy, wx = divmod(corner, side // window)
        places = [divmod(i, window) for i in range(window * window)]
        tokens = [(wy * window + iy + 1) % side * side + (wx * window + ix + 1) % side for iy, ix in places]
        for head in range(layer.heads):
            for i, (iy, ix) in enumerate(places):
                for j, (jy, jx) in enumerate(places):
                    apart = (wy == side // window - 1 and (iy < 1) != (jy < 1)) or (
                        wx == side // window - 1 and (ix < 1) != (jx < 1))
                    for c in range(head * d, (head + 1) * d):
                        q, k = counts[tokens[i], c], counts[tokens[j], layer.heads * d + c]
                        sops += ones(q, 3) * ones(k, 3)
                        sops += 0 if apart else ones(counts[tokens[j], 2 * layer.heads * d + c], 3)
    ops = next(entry for entry in found[0] if entry.name == layer.name)
    assert ops.sops == sops > 0
    assert ops.events == ops.masked_events == 0
    assert ops.dense_macs == 2 * layer.windows * layer.heads * window**4 * d
    assert ops.spikes == sum(ones(v, 3) for v in (*counts.ravel(), *trace.scores[layer.name][0].ravel()))
    assert ops.rate_spikes == counts.sum() + trace.scores[layer.name][0].sum()


def test_masked_events_are_what_the_mask_removed() -> None:
    found = count(PROGRAM, MASKED, IMAGES)
    for index, layers in enumerate(found):
        actual = predictions(MASKED, index)
        for layer, before in ((name, MASKED.before[name][index]) for name in ("s0.b0.fc1", "s0.b1.fc2", "s1.b0.fc1")):
            source = PROGRAM.layers[PROGRAM.layers.index(layer) - 1]
            whole = predictions(MASKED, index, **{source: before})
            at = PROGRAM.layers.index(layer)
            assert layers[at].masked_events == whole[at].events - actual[at].events > 0
            assert layers[at].mask_skipped_cycles == whole[at].cycles - actual[at].cycles > 0
        attention = layers[PROGRAM.layers.index("s0.b0.attn")]
        removed = sum(ones(v, 3) for v in MASKED.before["s0.b0.attn"][index].ravel())
        removed += sum(ones(v, 3) for v in MASKED.scores_before["s0.b0.attn"][index].ravel())
        assert attention.masked_spikes == removed - attention.spikes > 0
        assert {layer.name for layer in layers if layer.masked_events} == {
            f"{block}.{part}" for block in ("s0.b0", "s0.b1", "s1.b0") for part in ("fc1", "fc2")}
    for layers in count(PROGRAM, PLAIN, IMAGES):
        assert all(layer.masked_events == layer.masked_spikes == layer.mask_skipped_cycles == 0 for layer in layers)


def test_skipped_cycles_add_up_to_the_dense_walk(case: tuple[Trace, list[list[LayerOps]]]) -> None:
    for layers in case[1]:
        for layer in layers:
            assert layer.cycles + layer.mask_skipped_cycles + layer.zero_skipped_cycles == layer.dense_cycles
            assert layer.zero_skipped_cycles >= 0 and layer.mask_skipped_cycles >= 0
            assert 0 <= layer.utilisation <= 1
            assert layer.sops <= layer.dense_sops and layer.events <= layer.dense_events
        fc1 = layers[PROGRAM.layers.index("s1.b0.fc1")]
        assert fc1.dense_events == 3 * NETWORK.layer("s1.b0.fc1").inputs * 4 * 4  # type: ignore[union-attr]


@pytest.mark.parametrize("rows", [1, 2])
def test_lane_additions_one_by_one(rows: int) -> None:
    """A cycle takes up to `rows` events of one word, of any plane; two are added to each other first; a token takes one cycle."""
    program = compiled(MachineConfig(lanes=8, fire_lanes=4, head_lanes=4, window_tokens=4, rows_per_cycle=rows))
    ops = count(program, MASKED, IMAGES)[0][program.layers.index("s0.b0.fc2")]
    pairs = updates = 0
    for token in MASKED.inputs["s0.b0.fc2"][0]:
        words = [sum(ones(value, 3) for value in token[at:at + 8]) for at in range(0, len(token), 8)]
        for word, events in enumerate(words):
            taken = -(-events // rows)
            pairs += events - taken
            updates += max(taken, 1) if word == len(words) - 1 else taken
    assert ops.additions == {11: pairs * 8, 30: updates * 8}
    assert (pairs > 0) == (rows == 2)


def test_memory_accesses_of_one_layer() -> None:
    """s0.b0.fc1: 16 tokens of 8 channels into 16, two tiles, no residual behind it."""
    ops = count(PROGRAM, PLAIN, IMAGES)[0][PROGRAM.layers.index("s0.b0.fc1")]
    neuron, branch = 4 * (29 + 20 + 2), 4 * (16 + 1 + 29 + 20)
    assert ops.memory_bits == {
        "program": 2 * 9 * 64, "weights": ops.events * 64, "spikes": 2 * 16 * (1 + 1) * 24,
        "residual": 0, "neurons": 2 * 16 * 3 * neuron, "branches": 0}
    proj = count(PROGRAM, PLAIN, IMAGES)[0][PROGRAM.layers.index("s0.b0.proj")].memory_bits
    assert (proj["residual"], proj["branches"]) == (2 * 16 * 2 * 64, 16 * 2 * branch), "read and written, one tile"
    embed = count(PROGRAM, PLAIN, IMAGES)[0][PROGRAM.layers.index("embed")].memory_bits
    assert embed["residual"] == 16 * 2 * 64, "a fresh residual is only written"
    attention = count(PROGRAM, PLAIN, IMAGES)[0][PROGRAM.layers.index("s0.b0.attn")]
    # 8 jobs (4 windows, 2 heads) of 4 tokens in 2 passes; two slices to a word of 8 lanes
    assert attention.memory_bits == {"program": 9 * 64, "spikes": (8 * 12 + 16) * 24, "rom": 8 * 2 * 4 * 2 * 24,
                                     "attention": (8 * 12 + 2 * 8 * 2 * 4 + 8 * 2 * 2) * 12 + 2 * 8 * 4 * 24}
    used = {name for layer in count(PROGRAM, PLAIN, IMAGES)[0] for name in layer.memory_bits}
    assert set(memories(PROGRAM.machine)) == used


def test_a_black_image_has_no_events() -> None:
    black = np.zeros_like(IMAGES[:1])
    embed = count(PROGRAM, run_golden(NETWORK, black), black)[0][1]
    assert (embed.name, embed.events, embed.sops, embed.utilisation, embed.additions[11]) == ("embed", 0, 0, 0, 0)
    assert embed.additions[30] == 16 * 8 * 3  # every group of planes takes a cycle


def test_given_predictions_are_used() -> None:
    wanted = [predictions(PLAIN, index) for index in range(2)]
    assert count(PROGRAM, PLAIN, IMAGES, wanted) == count(PROGRAM, PLAIN, IMAGES)


def test_mean() -> None:
    found = count(PROGRAM, MASKED, IMAGES)
    for one, two, both in zip(*found, mean(found), strict=True):
        assert both.name == one.name and both.capacity == one.capacity and both.macs == one.macs
        assert both.events == (one.events + two.events) / 2
        assert both.memory_bits == {key: (one.memory_bits[key] + two.memory_bits[key]) / 2 for key in one.memory_bits}
        assert (both.rate_spikes is None) == (one.rate_spikes is None)
    with pytest.raises(ValueError, match="^no images to take a mean of: run at least 1$"):
        mean([])


def test_plane_spikes_are_twos_complement() -> None:
    assert plane_spikes(np.array([-1, 0, 5, -128], np.int32), 8) == 8 + 0 + 2 + 1
