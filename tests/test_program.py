"""The compiler: layout, limits, and what it refuses."""
import contextlib
import dataclasses
import re

import numpy as np
import pytest

import hwgen.program
from hwgen.config import MachineConfig, machine_config
from hwgen.descriptors import DESCRIPTOR_WORDS, GEMM, HEADER, PROGRAM_BITS, Kind, pack, unpack, width
from hwgen.layout import Buffer, dense_map, slot_map
from hwgen.parameters import NEURON, pack_channel
from hwgen.program import CompileError, Program, compile_network, demands, sized
from hwgen.schedule import layer_table, predict, predicted_cycles, rate_line
from model.config import ConfigError, MaskingConfig, ModelConfig
from model.lfsr import jump_polynomial
from model.masking import mask_rows
from quantize.layers import Network
from quantize.random_network import random_network

MODEL = ModelConfig(image_size=8, in_channels=3, classes=5, patch=2, embedding=16, depths=(1, 1), heads=(1, 2), window=2,
                    mlp_ratio=2.0, levels=7)
MACHINE = MachineConfig(lanes=16, fire_lanes=4)


@pytest.fixture(scope="module")
def network() -> Network:
    return random_network(MODEL, 3)


def compiled(network: Network, **knobs: object) -> Program:
    return compile_network(network, dataclasses.replace(MACHINE, **knobs), MaskingConfig())


@pytest.mark.parametrize(("bits", "signed"), [(3, False), (8, False), (8, True), (9, True)])
def test_buffer_pack_and_unpack_are_inverse(bits: int, signed: bool) -> None:
    rng = np.random.default_rng(1)
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    buffer = Buffer("x", 5, bits, signed, 3, slot_map(3, 6, 16))
    values = rng.integers(low, high, (2, 5, 18))
    words = buffer.pack(values)
    assert words.shape == (2, buffer.size, 16)
    assert words.max() < 8
    assert (words.reshape(2, 5, buffer.groups, 2, 16)[:, :, :, 1, 6:] == 0).all(), "lanes without a channel hold 0"
    assert (buffer.unpack(words) == values).all()


def test_slots_do_not_cross_words() -> None:
    assert (slot_map(3, 6, 16) >= 0).sum(axis=1).tolist() == [12, 6]
    wide = slot_map(2, 24, 16)
    assert (wide >= 0).sum(axis=1).tolist() == [16, 8, 16, 8]
    assert wide[2, 0] == 24
    assert sorted(dense_map(20, 8)[dense_map(20, 8) >= 0].tolist()) == list(range(20))


def test_descriptor_fields_round_trip_and_refuse() -> None:
    values = {name: min(3, (1 << bits) - 1) for name, (bits, _) in GEMM.items()}
    assert unpack(GEMM, pack(GEMM, values)) == values
    assert width(HEADER) == PROGRAM_BITS
    with pytest.raises(ValueError, match="tokens_x is 1024: it does not fit 10 bits"):
        pack(GEMM, values | {"tokens_x": 1024})
    with pytest.raises(ValueError, match="fields differ"):
        pack(GEMM, {})
    with pytest.raises(ValueError, match="threshold is -1"):
        pack_channel(NEURON, {"offset": 0, "threshold": -1, "select": 0})


def test_every_weight_is_stored_once_and_headers_jump_to_the_first_draw(network: Network) -> None:
    program = compiled(network)
    layer = network.layer("s1.b0.qkv")
    tiles = [step for step in program.steps if step.layer == "s1.b0.qkv"]
    stored = np.zeros_like(layer.weight)
    source, target = program.buffers["s0.merge"], program.buffers["s1.b0.qkv"]
    for tile, step in enumerate(tiles):
        for row in range(source.rows):
            word = program.images.weights[step.fields["weight_base"] + row]
            lanes = np.frombuffer(word.to_bytes(16, "little"), np.int8)
            used = target.channel_map[tile] >= 0
            stored[target.channel_map[tile][used], row] = lanes[used]
    assert (stored == layer.weight).all()
    rows = mask_rows(MODEL)["s1.b0"].qkv
    assert [step.header["jump"] for step in tiles] == [
        jump_polynomial(8 * (4096 * rows + int(channels[0]))) for channels in target.channel_map]
    assert len(program.images.program) == len(program.steps) * DESCRIPTOR_WORDS
    assert program.steps[-1].kind == Kind.END


def test_auto_depths_are_what_the_network_needs(network: Network) -> None:
    program = compiled(network)
    machine = sized(MACHINE, program)
    assert demands(program) == {name: getattr(machine, name) for name in demands(program)}
    assert sized(dataclasses.replace(MACHINE, rom_words=5000), program).rom_words == 5000


@pytest.mark.parametrize("knob", ["weight_rows", "spike_words", "stream_words", "param_words", "rom_words", "descriptors"])
def test_a_network_too_large_names_memory_amount_and_knob(network: Network, knob: str) -> None:
    need = demands(compiled(network))[knob]
    compiled(network, **{knob: need})
    with pytest.raises(CompileError, match=rf"{knob}: the network needs {need}, the machine has {need - 1}: "
                                           rf"set \[machine\] {knob} = {need} or more"):
        compiled(network, **{knob: need - 1})


def test_machine_parameters_too_small_are_named(network: Network) -> None:
    for knobs, message in (({"planes": 2}, r"set \[machine\] planes = 3"), ({"acc_bits": 20}, r"set \[machine\] acc_bits = 2\d"),
                           ({"head_lanes": 15}, r"set \[machine\] head_lanes = 16"),
                           ({"rom_bits": 8}, r"set \[machine\] rom_bits = 12"),
                           ({"weight_bits": 4}, r"set \[machine\] weight_bits = 8")):
        with pytest.raises(CompileError, match=message):
            compiled(network, **knobs)
    wide = dataclasses.replace(MODEL, window=4, image_size=16)
    with pytest.raises(CompileError, match=r"set \[machine\] window_tokens = 16"):
        compile_network(random_network(wide, 1), dataclasses.replace(MACHINE, window_tokens=9), MaskingConfig())


def test_fire_lanes_too_few_for_a_tile_are_named(network: Network) -> None:
    compiled(network, lanes=256, fire_lanes=1)  # no layer has more than 128 channels
    wide = random_network(dataclasses.replace(MODEL, image_size=2, depths=(1,), heads=(1,), mlp_ratio=8.5), 1)  # 136
    compile_network(wide, dataclasses.replace(MACHINE, lanes=256, fire_lanes=2), MaskingConfig())
    with pytest.raises(CompileError, match=r"fc1: 136 channels at once, fire_lanes = 1 takes 128: set .* fire_lanes = 2 or"):
        compile_network(wide, dataclasses.replace(MACHINE, lanes=256, fire_lanes=1), MaskingConfig())


@pytest.mark.parametrize(("draws", "sites", "refused"), [
    (32, ("q",), ""), (32, ("scores",), ""), (32, ("fc1",), ""),
    (63, ("q", "k"), "s1.b0.qkv: .* draws 63 .*, not for 64 channels: leave q and k of s1.b0 out"),
    (63, ("fc2",), r"s1.b0.fc1: .* 64 channels: leave fc2 of s1.b0 out of \[masking\] sites"),
    (64, ("q", "k", "scores", "fc1", "fc2"), "")])
def test_a_mask_that_needs_more_draws_than_a_row_has_is_refused(network: Network, monkeypatch: pytest.MonkeyPatch, draws: int,
                                                                sites: tuple[str, ...], refused: str) -> None:
    """One row's draws would be the next one's. Stage 1 has 32 channels, q and k together 64, its hidden layer 64."""
    monkeypatch.setattr(hwgen.program, "ROW_DRAWS", draws)
    with pytest.raises(CompileError, match=refused) if refused else contextlib.nullcontext():
        compile_network(network, MACHINE, MaskingConfig(sites, 0.5))


@pytest.mark.parametrize(("table", "message"), [
    ({"lanes": 12}, "lanes must be a power of two from 8 to 256, not 12"),
    ({"lanes": 4}, "not 4"), ({"fire_lanes": 3}, "fire_lanes must be a power of two"), ({"fire_lanes": 128}, "not 128"),
    ({"rows_per_cycle": 3}, "rows_per_cycle must be 1 or 2, not 3"), ({"planes": 5}, "planes must be 0 .auto. to 4, not 5"),
    ({"attention_rows": 3}, "attention_rows must be 1, 2 or 4, not 3"),
    ({"queue_depth": 1}, "queue_depth must be 2 to 64, not 1"),
    ({"weights": "flash"}, "'loadable' or 'initialised', not 'flash'"), ({"bus_bytes": 16}, "bus_bytes must be 4 or 8, not 16"),
    ({"spike_words": -1}, "spike_words must be 0 .auto. to 2.20, not -1"), ({"lane": 8}, "no key 'lane'; known keys: lanes"),
    ({"lanes": "64"}, "lanes must be int, not '64'"), ({"lanes": True}, "lanes must be int, not True"),
    ({"acc_bits": 40}, "acc_bits must be 0 .auto. or 20 to 32, not 40"), ({"weight_bits": 5}, "not 5"),
    ({"rom_bits": 4}, "not 4"), ({"head_lanes": -1}, "not -1"), ({"window_tokens": 2}, "not 2")])
def test_bad_machine_tables_are_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        machine_config(table)


@pytest.mark.parametrize("levels", [1, 15])
def test_a_file_that_leaves_knobs_out_gets_a_machine_that_fits(levels: int) -> None:
    wide = dataclasses.replace(MODEL, levels=levels, embedding=64, heads=(1, 1))
    other = random_network(wide, 1)
    machine = compile_network(other, machine_config({"lanes": 8}), MaskingConfig()).machine
    assert (machine.planes, machine.head_lanes, machine.window_tokens) == (wide.planes, 128, 4)
    assert (machine.weight_bits, machine.rom_bits) == (8, other.rom_bits)
    assert 20 <= machine.acc_bits <= 32
    with pytest.raises(CompileError, match=r"set \[machine\] head_lanes = 128"):
        compile_network(other, machine_config({"lanes": 8, "head_lanes": 64}), MaskingConfig())


def test_layer_table_lists_every_layer(network: Network) -> None:
    text = layer_table(compiled(network))
    assert all(layer.name in text for layer in network.layers)


def test_prediction_grows_with_events(network: Network) -> None:
    program = compiled(network)
    silent = {name: np.zeros((buffer.tokens, buffer.channels), np.int64) for name, buffer in program.buffers.items()}
    full = {name: np.full_like(values, -1 if program.buffers[name].signed else (1 << program.buffers[name].bits) - 1)
            for name, values in silent.items()}
    low, high = predict(program, silent), predict(program, full)
    assert [entry.layer for entry in low] == ["image", *(layer.name for layer in network.layers)]
    assert sum(entry.events for entry in low) == 0
    for quiet, loud in zip(low, high, strict=True):
        assert loud.cycles >= max(quiet.cycles, loud.bound)


def rows_of(table: str) -> dict[str, list[str]]:
    """Layer -> least, predicted, most, as `layer_table` prints them."""
    return {line.split()[0]: line.split()[-3:] for line in table.splitlines()[1:] if re.match(r"\S+ +\d+ +\d+ ", line)}


@pytest.mark.parametrize("knobs", [{}, {"memory_bits": 64}])
def test_the_tables_total_is_the_sum_of_all_its_rows(network: Network, knobs: dict[str, object]) -> None:
    """The image's transfer and attention count too; at no events and at all of them it is what `predict` says."""
    whole = dataclasses.replace(network, notes={"activity": {layer.name: 0.0 for layer in network.layers}})
    program = compiled(whole, **knobs)
    rows = rows_of(layer_table(program))
    assert list(rows) == ["image", *(layer.name for layer in network.layers), "total"]
    for column in range(3):
        assert sum(int(cells[column]) for name, cells in rows.items() if name != "total") == int(rows["total"][column])
    silent = {name: np.zeros((buffer.tokens, buffer.channels), np.int64) for name, buffer in program.buffers.items()}
    assert [int(cells[1]) for name, cells in rows.items() if name != "total"] \
        == [entry.cycles for entry in predict(program, silent)]
    assert predicted_cycles(program) == int(rows["total"][1])


def test_a_layer_without_recorded_activity_leaves_no_total(network: Network) -> None:
    half = {layer.name: 1.0 for layer in network.layers if layer.name != "s0.b0.fc1"}
    program = compiled(dataclasses.replace(network, notes={"activity": half}))
    table = layer_table(program)
    rows = rows_of(table)
    assert rows["s0.b0.fc1"][1] == rows["total"][1] == "-"
    assert "records no activity of s0.b0.fc1" in table
    assert predicted_cycles(program) is None
    least, most = rows["total"][0], rows["total"][2]
    assert rate_line(program, 50) == (f"{least} to {most} cycles/image, {int(least) / 5e4:.3f} to {int(most) / 5e4:.3f} ms "
                                      "at 50 MHz")


def test_the_prediction_is_told_as_a_time(network: Network) -> None:
    program = compiled(dataclasses.replace(network, notes={"activity": {layer.name: 1.0 for layer in network.layers}}))
    cycles = predicted_cycles(program)
    assert cycles is not None
    assert rate_line(program, 80) == (f"predicted: {cycles} cycles/image, {cycles / 8e4:.3f} ms, {8e7 / cycles:.1f} images/s "
                                      "at 80 MHz")
