"""What emission writes and when: memory contents bit by bit, the bytes of Amaranth's own conversion, and only what changed."""
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from amaranth.back import verilog as amaranth_verilog
from amaranth.hdl import Elaboratable, Fragment

import hwgen.emit as emission
import hwgen.verilog as conversion
from hwgen.config import MachineConfig
from hwgen.emit import Build, emit
from hwgen.layout import Buffer, dense_map, slot_map
from hwgen.memory import RowMemory, Scratchpad
from hwgen.parameters import BRANCH, NEURON, pack_channels
from hwgen.tiles import fire_parameters, weight_rows
from model.config import MaskingConfig, ModelConfig
from quantize.layers import Gemm, Network
from quantize.random_network import random_network

MODEL = ModelConfig(image_size=8, in_channels=3, classes=5, patch=2, embedding=8, depths=(1, 1), heads=(1, 2), window=2,
                    mlp_ratio=2.0, levels=7)
MACHINE = MachineConfig(lanes=8, fire_lanes=4)
NETWORK = random_network(MODEL, 3)


def gemm(name: str) -> Gemm:
    layer = NETWORK.layer(name)
    assert isinstance(layer, Gemm)
    return layer


def changed(network: Network, name: str) -> Network:
    """`network` with one weight of a layer changed, which moves no depth."""
    layer = network.layer(name)
    assert isinstance(layer, Gemm)
    weight = layer.weight.copy()
    weight[1, 2] = 1 if weight[1, 2] != 1 else 2
    other = dataclasses.replace(layer, weight=weight)
    return dataclasses.replace(network, layers=tuple(other if entry is layer else entry for entry in network.layers))


# -- contents ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("name", "channels"), [
    ("s0.b0.fc1", dense_map(8, 8)), ("s1.b0.fc2", dense_map(32, 8)), ("s0.merge", dense_map(8, 8)),
    ("s1.b0.proj", slot_map(3, 5, 8)), ("s1.b0.proj", slot_map(2, 8, 8))])
def test_weight_rows_hold_each_weight_in_its_lane(bits: int, name: str, channels: np.ndarray) -> None:
    """Against plain loops over Python integers; lanes and rows without a channel hold 0."""
    layer = gemm(name)
    source = Buffer("x", 4, 3, False, 3, channels)
    if layer.kind != "merge":
        first = layer.weight[:, :1].repeat(source.channels, axis=1)
        layer = dataclasses.replace(layer, weight=first + np.arange(source.channels) % 5)
    low = -(1 << bits - 1)
    layer = dataclasses.replace(layer, weight=np.clip(layer.weight, low, -low - 1))
    outputs = np.array([3, 0, 1, -1, 4, 2, -1, -1])
    rows = weight_rows(dataclasses.replace(MACHINE, weight_bits=bits), layer, source, outputs)
    phases = layer.inputs // source.channels
    assert len(rows) == phases * source.rows
    expected = [0] * len(rows)
    for phase in range(phases):
        for word, lanes in enumerate(channels):
            for at, channel in enumerate(lanes):
                for lane, output in enumerate(outputs):
                    if channel >= 0 and output >= 0:
                        value = int(layer.weight[output, phase * source.channels + channel]) & (1 << bits) - 1
                        expected[phase * source.rows + word * source.row_step + at] |= value << bits * lane
    assert rows == expected


def test_fire_parameters_are_what_the_layouts_read() -> None:
    """Each lane of each word, read through Amaranth's own layout."""
    for name, sites in (("embed", ()), ("s0.b0.qkv", ("q", "k")), ("s0.b0.qkv", ("k",)), ("s0.b0.proj", ("fc1",)),
                        ("s0.b0.fc2", ()), ("head", ())):
        layer = gemm(name)
        channels = np.append(np.arange(7) * (layer.outputs - 1) // 6, -1)
        neurons, branches = fire_parameters(MACHINE, layer, channels, 2, sites)
        assert len(neurons) == 2
        assert len(branches) == (2 if layer.residual else 0)
        for lane, channel in enumerate(channels):
            word = neurons[lane // 4] >> lane % 4 * NEURON.size & (1 << NEURON.size) - 1
            found = NEURON.from_bits(word)
            threshold = 1 if channel < 0 or layer.threshold is None else int(layer.threshold[channel])
            half = 0 if layer.threshold is None else threshold >> 1
            assert found.threshold == threshold
            assert found.offset == (-1 if channel < 0 else int(layer.bias[channel]) + half)
            part = channel * 3 // layer.outputs
            site = ("q", "k", "v")[part] if layer.kind == "qkv" and channel >= 0 else "fc1"
            wanted = {"q": 1, "k": 2}.get(site, 1) if channel >= 0 and site in sites else 0
            assert found.select == wanted
            if layer.residual is None:
                continue
            branch = BRANCH.from_bits(branches[lane // 4] >> lane % 4 * BRANCH.size & (1 << BRANCH.size) - 1)
            assert branch.gain == (0 if channel < 0 else int(layer.residual.gain[channel]))
            norm = layer.norm if channel >= 0 else None
            assert branch.negate == (int(norm.negate[channel]) if norm else 0)
            assert branch.threshold == (int(norm.threshold[channel]) if norm else 1)
            assert branch.offset == (int(norm.bias[channel] + (norm.threshold[channel] >> 1)) if norm else -1)


def test_a_parameter_that_does_not_fit_is_named() -> None:
    good = {"offset": np.array([0, 1]), "threshold": np.array([1, 2]), "select": np.array([0, 3])}
    assert pack_channels(NEURON, good).shape == (2, NEURON.size)
    with pytest.raises(ValueError, match="fire parameter select is 4: it does not fit 2 bits"):
        pack_channels(NEURON, good | {"select": np.array([3, 4])})
    with pytest.raises(ValueError, match="fire parameter offset is -268435457"):
        pack_channels(NEURON, good | {"offset": np.array([-(1 << 28) - 1, 4])})


# -- conversion --------------------------------------------------------------------------------------------------

MEMORIES = [
    lambda: RowMemory(width=5, depth=3, init=[1, 31]),
    lambda: RowMemory(width=70, depth=5, loadable=False, init=[(1 << 70) - 2]),
    lambda: Scratchpad(width=1, depth=9),
    lambda: Scratchpad(width=33, depth=2, init=[7, 1 << 32]),
]


@pytest.mark.parametrize("make", MEMORIES)
def test_verilog_has_the_bytes_of_amaranths_own_conversion(make: object) -> None:
    def plain() -> str:
        design = make()  # type: ignore[operator]
        text: str = amaranth_verilog.convert(design, name="top", emit_src=False, strip_internal_attrs=True)
        return text

    assert conversion.converted(make(), "top") == plain()  # type: ignore[operator]
    with conversion._fast_memories():
        assert amaranth_verilog.rtlil.ModuleEmitter.emit_memory is conversion._emit_memory
    assert amaranth_verilog.rtlil.ModuleEmitter.emit_memory is not conversion._emit_memory, "the method is put back"


def test_a_wrong_content_would_be_seen() -> None:
    right = conversion.convert(RowMemory(width=5, depth=3, init=[1, 31]), "top")
    assert conversion.convert(RowMemory(width=5, depth=3, init=[31, 1]), "top") != right


# -- only what changed -------------------------------------------------------------------------------------------


def stamps(build: Build) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in build.folder.iterdir()}


def test_a_changed_weight_rewrites_images_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = emit(NETWORK, MACHINE, MaskingConfig(), tmp_path)
    before = stamps(first)
    assert first.regenerated

    def refuse(design: Elaboratable, _: str) -> str:
        Fragment.get(design, None)  # Amaranth warns of a design that nobody used
        raise AssertionError("the hardware was generated again")

    monkeypatch.setattr(emission, "convert", refuse)
    again = emit(NETWORK, MACHINE, MaskingConfig(), tmp_path)
    assert stamps(again) == before
    second = emit(changed(NETWORK, "s0.b0.fc1"), MACHINE, MaskingConfig(), tmp_path)
    assert not second.regenerated
    assert second.design_id == first.design_id
    assert second.build_id != first.build_id
    after = stamps(second)
    assert {name for name in after if after[name] != before[name]} == {"weights.hex", "manifest.json"}
    with pytest.raises(AssertionError, match="generated again"):
        emit(NETWORK, dataclasses.replace(MACHINE, queue_depth=8), MaskingConfig(), tmp_path)


def test_a_changed_weight_that_is_built_in_makes_new_hardware(tmp_path: Path) -> None:
    built_in = dataclasses.replace(MACHINE, weights="initialised")
    first = emit(NETWORK, built_in, MaskingConfig(), tmp_path)
    text = first.verilog.read_text()
    second = emit(changed(NETWORK, "s0.b0.fc1"), built_in, MaskingConfig(), tmp_path)
    assert second.regenerated
    assert second.design_id != first.design_id
    assert second.verilog.read_text() != text


def test_the_compiler_is_no_part_of_the_design() -> None:
    """What decides the Verilog is in the design's identity, what only fills memories or measures is not."""
    names = {path.stem for path in emission.hardware_sources()}
    assert {"top", "fire", "extract", "lfsr", "dma_read", "formats", "registers"} <= names
    assert not {"program", "streaming", "schedule", "synth", "traffic", "tiles"} & names
    assert not {"masking", "resnet", "train_config", "layers"} & names, "a training's key would make another placement"


def test_words_are_no_part_of_the_design() -> None:
    """A comment or docstring may change without a new design, so without another placement; a number may not."""
    source = '"""What it is."""\nPORTS = 2  # why\n\nclass Unit:\n    "1"\n    depth: int = 4\n    """words"""\n    a = "#1"\n'
    kept = emission.statements(source)
    assert kept.splitlines() == ["PORTS = 2", "class Unit:", "    depth: int = 4", '    a = "#1"']
    reworded = source.replace("What it is", "It is\nwhat it was").replace("# why", "# two").replace('    """words"""\n', "")
    assert reworded != source and emission.statements(reworded) == kept
    assert emission.statements(source.replace("= 4", "= 5")) != kept
    beside = 'class Unit: "one"\n"two"; depth = 4\n'
    assert emission.statements(beside) == beside.strip(), "a string with code on its line counts"
