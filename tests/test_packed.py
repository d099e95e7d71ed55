"""The packed network: what is in it, what is refused, and the command that makes it."""
import dataclasses
import struct
import zlib
from pathlib import Path

import pytest

from firmware.__main__ import main
from hwgen.config import MachineConfig
from hwgen.emit import emit, image_words
from hwgen.packed import EXTERNAL, HEADER, PACKED_FORMAT, Packed, PackedError, compiled, pack, unpack
from hwgen.program import demands
from hwgen.registers import VERSION, LoadTarget
from hwgen.shapes import memory_shapes
from model.config import MaskingConfig, ModelConfig
from quantize.random_network import random_network

MODEL = ModelConfig(image_size=8, in_channels=3, classes=10, patch=2, embedding=16, depths=(1,), heads=(2,), window=2,
                    mlp_ratio=2.0, levels=7)
MACHINE = MachineConfig(lanes=8, fire_lanes=4, attention_rows=1, planes=0, head_lanes=0, window_tokens=0, acc_bits=0)
MASKING = MaskingConfig(ratio=0.25)


def packed(machine: MachineConfig) -> tuple[bytes, Packed, object, MachineConfig]:
    program, sized, design = compiled(random_network(MODEL, 1), machine, MASKING)
    data = pack(program, sized, MASKING, int(design[:8], 16))
    return data, unpack(data), program, sized


def test_contents() -> None:
    data, found, program, machine = packed(MACHINE)
    assert list(found.header) == list(HEADER)
    assert found.header["size"] == len(data) and found.header["crc"] == zlib.crc32(data[16:])
    assert found.header["map_version"] == VERSION and found.header["mask_seed"] == MASKING.seed
    assert [found.header[name] for name in ("image_side", "image_channels", "patch", "classes")] == [8, 3, 2, 10]
    for name, need in demands(program).items():  # type: ignore[arg-type]
        assert found.header[name] == need
    for target, (bits, _) in memory_shapes(machine).items():
        words = image_words(program.images, target)  # type: ignore[attr-defined]
        size = -(-bits // 64) * 8
        assert found.sections[target] == b"".join(word.to_bytes(size, "little") for word in words), target
    assert set(found.sections) == set(memory_shapes(machine))


def test_built_in_weights() -> None:
    data, found, _, _ = packed(dataclasses.replace(MACHINE, weights="initialised"))
    assert found.sections == {} and len(data) == 4 * len(HEADER) and found.header["build_id"] != 0


def test_external_memory() -> None:
    _, found, program, machine = packed(dataclasses.replace(MACHINE, memory_bits=64, weight_rows=64, spike_words=256,
                                                            stream_words=128, param_words=16, rom_words=512))
    assert set(found.sections) == {LoadTarget.PROGRAM, LoadTarget.READS, LoadTarget.WRITES, EXTERNAL}
    assert found.sections[EXTERNAL].startswith(program.images.external)  # type: ignore[attr-defined]
    assert found.header["external_bytes"] == program.external_beats * 8  # type: ignore[attr-defined]
    assert found.header["transfers"] <= machine.transfers


@pytest.mark.parametrize(("change", "message"), [
    (lambda data: data[:40], "has 40 bytes, less than the header's 104: it is cut short"),
    (lambda data: data[:-4], "its header says"),
    (lambda data: b"\0" + data[1:], "not a packed network"),
    (lambda data: data[:4] + struct.pack("<I", 9) + data[8:], f"has format 9, this reader knows {PACKED_FORMAT}"),
    (lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:], "it was damaged"),
])
def test_refused(change: object, message: str) -> None:
    data, *_ = packed(MACHINE)
    with pytest.raises(PackedError, match=message):
        unpack(change(data))  # type: ignore[operator]


CONFIG = """
[model]
image_size = 8
in_channels = 3
classes = 10
patch = 2
embedding = 16
depths = [1]
heads = [2]
window = 2
mlp_ratio = 2.0
levels = 7
[machine]
lanes = 8
fire_lanes = 4
attention_rows = 1
"""


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For the configuration's own machine, and for the one of a build, with the same bytes; twice the same file."""
    config, one, other = tmp_path / "small.toml", tmp_path / "one.bin", tmp_path / "other.bin"
    config.write_text(CONFIG)
    assert main(["pack", "--config", str(config), "--random-weights", "1", "-o", str(one)]) == 0
    assert f"{one}: {one.stat().st_size} bytes, 8x8x3 -> 10 classes, for build 0x" in capsys.readouterr().out
    build = emit(random_network(MODEL, 1), MACHINE, MaskingConfig(), tmp_path / "build")
    assert main(["pack", "--config", str(config), "--random-weights", "1", "--machine", str(build.folder / "manifest.json"),
                 "-o", str(other)]) == 0
    assert one.read_bytes() == other.read_bytes() and unpack(one.read_bytes()).header["build_id"] == build.id32


@pytest.mark.parametrize(("arguments", "message"), [
    (["--config", "none.toml"], "none.toml"),
    (["--machine", "none.json"], "none.json: no such manifest"),
    (["--machine", "README.md"], "README.md: not a build's manifest"),
    (["-o", "README.md/x"], "README.md/x: cannot be written"),
])
def test_command_refuses(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "small.toml"
    config.write_text(CONFIG)
    assert main(["pack", "--config", str(config), "--random-weights", "1", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
