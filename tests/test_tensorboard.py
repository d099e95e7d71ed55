"""TensorBoard's event files, read back by a decoder of their own."""
import struct
from pathlib import Path

import pytest
import torch

from model.tensorboard import EventFile, crc32c

Scalars = list[tuple[str, float, int]]


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def fields(data: bytes) -> dict[int, object]:
    """Field number -> value of one protocol buffer (the last of each)."""
    found, at = {}, 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            found[key >> 3], at = varint(data, at)
        elif key & 7 == 2:
            size, at = varint(data, at)
            found[key >> 3], at = data[at:at + size], at + size
        else:
            size, kind = {1: (8, "<d"), 5: (4, "<f")}[key & 7]
            found[key >> 3], at = struct.unpack(kind, data[at:at + size])[0], at + size
    return found


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read(path: Path) -> tuple[bytes, Scalars]:
    """File version and scalars; asserts both checks of every record."""
    raw, at, events = path.read_bytes(), 0, []
    while at < len(raw):
        size, check = struct.unpack_from("<QI", raw, at)
        assert check == masked(raw[at:at + 8])
        data = raw[at + 12:at + 12 + size]
        assert struct.unpack_from("<I", raw, at + 12 + size)[0] == masked(data)
        events.append(fields(data))
        at += 16 + size
    scalars = []
    for event in events[1:]:
        value = fields(fields(event[5])[1])  # type: ignore[arg-type]
        scalars.append((value[1].decode(), value[2], event[2]))  # type: ignore[union-attr]
    return events[0][3], scalars  # type: ignore[return-value]


def test_crc32c_known_answers() -> None:
    """RFC 3720, appendix B.4."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes([255] * 32)) == 0x62A8AB43


def test_scalars_come_back(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "run")
    assert not (tmp_path / "run").exists(), "nothing is written before there is something to say"
    file.write([("train/loss", 2.5, 0), ("train/loss", -0.25, 300)])
    file.write([("epoch/held_out", 0.5, 1 << 40)])
    assert read(file.path) == (b"brain.Event:2", [
        ("train/loss", 2.5, 0), ("train/loss", -0.25, 300), ("epoch/held_out", 0.5, 1 << 40)])


def test_a_run_logs_each_step_once_though_it_was_resumed(tmp_path: Path) -> None:
    from model.config import Config, MaskingConfig, ModelConfig, QuantizeConfig, TrainConfig
    from model.data import Images
    from model.train import Trainer
    shape = ModelConfig(image_size=8, in_channels=3, classes=3, patch=2, embedding=8, depths=(1,), heads=(2,), window=2,
                        mlp_ratio=2.0, levels=7)
    config = Config("tiny", shape, MaskingConfig(), TrainConfig(epochs=2, batch=8, holdout=8), QuantizeConfig(), {})
    images = Images(torch.randint(256, (24, 3, 8, 8)).to(torch.uint8), torch.randint(3, (24,)))
    Trainer(config, images, tmp_path, compiled=False).run(1)
    stopped = Trainer(config, images, tmp_path, compiled=False)
    stopped.run_epoch()  # ... and killed before it was saved
    run = Trainer(config, images, tmp_path, compiled=False)
    run.run()
    scalars = [entry for path in sorted(tmp_path.glob("events.out.tfevents.*")) for entry in read(path)[1]]
    assert [step for tag, _, step in scalars if tag == "train/loss"] == [0, 1, 2, 3]
    for tag, key in (("epoch/held_out", "held_out"), ("epoch/loss", "loss")):
        assert [(value, step) for name, value, step in scalars if name == tag] == [
            (pytest.approx(entry[key]), entry["epoch"]) for entry in run.log]
