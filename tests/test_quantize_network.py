"""The network file: round trip, determinism, every refusal; random networks: legal, active, at the formats' corners."""
import dataclasses
import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.config import ModelConfig, QuantizeConfig
from quantize.check import shapes
from quantize.layers import Attention, Gemm, Network
from quantize.network import EXTENSION, MAGIC, NetworkError, check, digest, encode, load, save
from quantize.random_network import random_images, random_network
from sim.golden import run

ROOT = Path(__file__).resolve().parent.parent
MODEL = ModelConfig(16, 3, 5, 2, 8, (2, 1), (1, 2), 4, 2.0, 7)
NETWORK = dataclasses.replace(random_network(MODEL, 2), notes={"accuracy": {"qcfs": 0.8}, "images": 10000})


def altered(name: str, network: Network = NETWORK, **changes: Any) -> Network:
    """The network with fields of one layer replaced; `residual`, `norm` and `requantise` take dicts of their fields."""
    layers = []
    for layer in network.layers:
        if layer.name == name:
            fields = {key: dataclasses.replace(getattr(layer, key), **value) if isinstance(value, dict) else value
                      for key, value in changes.items()}
            layer = dataclasses.replace(layer, **fields)
        layers.append(layer)
    return dataclasses.replace(network, layers=tuple(layers))


def gemm(name: str) -> Any:
    layer = NETWORK.layer(name)
    assert isinstance(layer, Gemm)
    return layer


def poke(values: np.ndarray, place: Any, value: int) -> np.ndarray:
    """A copy of `values` with one entry set."""
    copy = values.copy()
    copy[place] = value
    return copy


def same(left: Any, right: Any) -> bool:
    """Deep equality of dataclasses, tuples and arrays."""
    if isinstance(left, np.ndarray):
        return isinstance(right, np.ndarray) and left.dtype == right.dtype and np.array_equal(left, right)
    if dataclasses.is_dataclass(left):
        return type(left) is type(right) and all(
            same(getattr(left, field.name), getattr(right, field.name)) for field in dataclasses.fields(left))
    if isinstance(left, tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A written network file."""
    save(tmp_path / f"net{EXTENSION}", NETWORK)
    return tmp_path / f"net{EXTENSION}"


def resealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def with_header(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The file with its header changed and a checksum that fits."""
    length = struct.unpack_from("<I", data, 12)[0]
    header = json.loads(data[16:16 + length])
    change(header)
    text = json.dumps(header).encode()
    return resealed(data[:12] + struct.pack("<I", len(text)) + text + data[16 + length:-32])


def test_round_trip(path: Path) -> None:
    again = load(path)
    assert same(again, NETWORK)
    assert digest(again) == digest(NETWORK)
    assert encode(again) == path.read_bytes() == encode(random_and_noted())
    images = random_images(MODEL, 1, 2)
    assert np.array_equal(run(again, images).logits, run(NETWORK, images).logits)


def random_and_noted() -> Network:
    return dataclasses.replace(random_network(MODEL, 2), notes=NETWORK.notes)


@pytest.mark.parametrize("quantize", [QuantizeConfig(4, 6, 4), QuantizeConfig(8, 8, 12), QuantizeConfig(8, 16, 8)])
def test_round_trip_of_all_widths(tmp_path: Path, quantize: QuantizeConfig) -> None:
    network = random_network(MODEL, 3, quantize)
    save(tmp_path / "n.mstn", network)
    assert same(load(tmp_path / "n.mstn"), network)


def test_layout(path: Path) -> None:
    """The promised bytes: magic, version, header of JSON, smallest types, SHA-256 at the end."""
    data = path.read_bytes()
    assert data[:8] == MAGIC
    version, length = struct.unpack_from("<II", data, 8)
    assert version == 1
    header = json.loads(data[16:16 + length])
    assert data[-32:] == hashlib.sha256(data[:-32]).digest()
    assert len(data) == 16 + length + header["payload"] + 32
    types = {(entry["layer"], entry["name"]): entry["dtype"] for entry in header["tensors"]}
    assert types["embed", "weight"] == "<i1"
    assert types["embed", "bias"] == "<i4"
    assert types["embed", "residual.gain"] == "<i2"
    assert types["s0.b0.attn", "rom_den"] == "<u2"


def test_digest_is_of_the_content_without_notes() -> None:
    assert digest(NETWORK) == digest(dataclasses.replace(NETWORK, notes={}))
    other = altered("head", bias=poke(gemm("head").bias, 0, int(gemm("head").bias[0]) + 1))
    assert digest(NETWORK) != digest(other)
    assert len(digest(NETWORK)) == 64


def test_save_writes_only_changes(path: Path) -> None:
    stamp = path.stat().st_mtime_ns
    assert not save(path, NETWORK)
    assert path.stat().st_mtime_ns == stamp
    assert save(path, dataclasses.replace(NETWORK, notes={}))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_save_refuses_a_bad_network(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="embed: bias"):
        save(tmp_path / "bad.mstn", altered("embed", bias=poke(gemm("embed").bias, 0, 1 << 27)))
    assert list(tmp_path.iterdir()) == []


def test_notes_must_be_json() -> None:
    with pytest.raises(NetworkError, match="not JSON: .*set"):
        encode(dataclasses.replace(NETWORK, notes={"x": {1, 2}}))
    with pytest.raises(NetworkError, match="not JSON"):
        encode(dataclasses.replace(NETWORK, notes={"x": float("nan")}))


def test_loading_needs_no_torch_and_no_pickle(path: Path) -> None:
    code = ("import sys, pickle\nsys.modules['torch'] = None\n"
            "def refuse(*a, **k): raise SystemExit('unpickled')\n"
            "pickle.load = pickle.loads = pickle.Unpickler = refuse\n"
            "from quantize.network import load; print(len(load(sys.argv[1]).layers))")
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(len(NETWORK.layers))), done.stderr


def refusal(path: Path) -> str:
    """The refusal's line: it names the file and fits one line."""
    with pytest.raises(NetworkError) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.mstn") == "no such network file; make it with `make quantize`"


def test_a_folder_is_not_a_network(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "cannot be read: Is a directory"


def test_truncated(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:5000])
    assert refusal(path) == f"truncated: ends at byte 5000, should have at least {16 + header_length(data) + 32}; " \
                            "copy it again or rerun `make quantize`"
    path.write_bytes(data[:-1])
    assert refusal(path).startswith(f"truncated: ends at byte {len(data) - 1}, should have {len(data)};")
    for length in (1, 7, 8, 15, 16, 40, *range(100, len(data), 997)):
        path.write_bytes(data[:length])
        assert refusal(path).startswith(f"truncated: ends at byte {length}, should have ")


def header_length(data: bytes) -> int:
    return int(struct.unpack_from("<I", data, 12)[0])


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 a zip file", b"MSTN\n\n\x1a\n" + bytes(100), b"M!"])
def test_foreign(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert refusal(path).startswith(f"not a network file: starts with {data[:8]!r}; give a .mstn file")


def test_newer_version(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(resealed(data[:8] + struct.pack("<I", 4) + data[12:-32]))
    assert refusal(path) == "is of version 4, this reader knows 1 to 3: update the code, or rerun `make quantize`"


def test_corrupted(path: Path) -> None:
    """Any one flipped bit is refused; outside magic, version and sizes it is called what it is."""
    data = path.read_bytes()
    for place in (*range(12), *range(12, len(data), 211), len(data) - 1):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1:])
        text = refusal(path)
        if place >= 16 + header_length(data):
            assert text == "its checksum does not match: the file is corrupted; rerun `make quantize`"


def test_trailing_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")
    assert refusal(path).startswith("its checksum does not match")
    path.write_bytes(resealed(path.read_bytes()[:-33] + b"xyz"))
    assert refusal(path).startswith("has 3 bytes too many")


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        place: Any = header
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to
    return change


@pytest.mark.parametrize(("change", "message"), [
    (_set("tensors", 0, "shape", to=[8, 6]), "embed: bias begins at byte 96 of the tensors, not at 48"),
    (_set("tensors", 0, "shape", to=[8, -1]), r"embed: weight has shape \[8, -1\] at offset 0"),
    (_set("tensors", 0, "shape", to=[10**9, 10**9]), "embed: weight of shape .* reaches beyond the"),
    (_set("tensors", 0, "dtype", to="<f8"), "embed: weight has the unknown dtype '<f8'"),
    (_set("tensors", 0, "dtype", to="O"), "unknown dtype 'O'"),
    (_set("tensors", 0, "name", to="wait"), "embed: lacks the tensor weight"),
    (_set("tensors", to=7), "its header is broken"),
    (_set("layers", 1, "tokens", to="x"), "s0.b0.qkv: tokens must be int, not 'x'"),
    (_set("layers", 1, "tokens", to=63), "s0.b0.qkv: tokens is 63, but the model needs 64"),
    (_set("layers", 1, "kind", to="fc1"), "s0.b0.qkv: kind is 'fc1', but the model needs 'qkv'"),
    (_set("layers", 1, "name", to="other"), "other: lacks the tensor"),
    (_set("layers", 1, "name", to=7), "its header is broken .*a layer is named 7"),
    (_set("layers", 1, to=7), "its header is broken"),
    (_set("tensors", 0, to={}), "its header is broken .*layer"),
    (_set("layers", to=[]), "the requantised residual must have one width"),
    (_set("model", "levels", to=5), r"its header is broken: \[model\] levels must be 2\^b - 1"),
    (_set("model", "colour", to=5), r"\[model\] has no key 'colour'"),
    (_set("model", "classes", to=6), r"head: weight has shape \[5, 16\], but the model needs \[6, 16\]"),
    (_set("rom_bits", to=20), "rom_bits must be 6 to 16, not 20"),
    (_set("rom_bits", to=7), r"s0.b0.attn: rom_num\[0, \d+, \d+\] is \d+, outside 0..127"),
    (_set("payload", to=-1), "its header is broken"),
    (_set("notes", to=[]), "its header is broken"),
])
def test_header_that_does_not_fit(path: Path, change: Any, message: str) -> None:
    def listed(header: dict[str, Any]) -> None:
        change(header)
        header["model"]["depths"] = list(header["model"]["depths"])

    path.write_bytes(with_header(path.read_bytes(), listed))
    with pytest.raises(NetworkError, match=message):
        load(path)
    refusal(path)


def test_header_that_is_no_json(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(resealed(data[:16] + b"!" + data[17:-32]))
    assert refusal(path).startswith("its header is broken (")


def test_a_value_out_of_format_in_a_file(path: Path) -> None:
    """A sealed file whose 32-bit threshold exceeds its 20-bit format."""
    data = path.read_bytes()
    start = 16 + header_length(data)
    table = json.loads(data[16:start])["tensors"]
    entry = next(entry for entry in table if (entry["layer"], entry["name"]) == ("s0.b0.fc1", "threshold"))
    place = start + entry["offset"] + 4
    path.write_bytes(resealed(data[:place] + struct.pack("<I", 1 << 20) + data[place + 4:-32]))
    assert refusal(path) == "s0.b0.fc1: threshold[1] is 1048576, outside 1..1048575: export the network again"


QKV, PROJ, FC2, LAST, HEAD = "s0.b0.qkv", "s0.b0.proj", "s0.b0.fc2", "s0.b1.fc2", "head"
ATTENTION = NETWORK.layer("s0.b1.attn")
assert isinstance(ATTENTION, Attention)


@pytest.mark.parametrize(("network", "message"), [
    (altered(QKV, weight=poke(gemm(QKV).weight, (1, 2), 128)), r"s0.b0.qkv: weight\[1, 2\] is 128, outside -128..127"),
    (altered(QKV, weight=gemm(QKV).weight[:, :-1]), r"s0.b0.qkv: weight has shape \[24, 7\], .* needs \[24, 8\]"),
    (altered(QKV, weight=gemm(QKV).weight.astype(float)), "s0.b0.qkv: weight is float64, not an integer array"),
    (altered(QKV, weight=[1]), "s0.b0.qkv: weight is list, not an integer array"),
    (altered(QKV, threshold=poke(gemm(QKV).threshold, 3, 0)), r"threshold\[3\] is 0, outside 1..1048575"),
    (altered(QKV, threshold=None), "s0.b0.qkv: having a threshold is False, but the model needs True"),
    (altered(QKV, bias=poke(gemm(QKV).bias, 3, -(1 << 27) - 1)),
     r"bias\[3\] is -134217729, outside -134217728..134217727"),
    (altered(QKV, in_bits=4), "s0.b0.qkv: in_bits is 4, but the model needs 3"),
    (altered(QKV, norm=gemm(PROJ).norm), "s0.b0.qkv: having a norm is True, but the model needs False"),
    (altered(HEAD, threshold=np.ones(5, np.int64)), "head: having a threshold is True, but the model needs False"),
    (altered(HEAD, in_signed=False), "head: in_signed is False, but the model needs True"),
    (altered(HEAD, bias=poke(gemm(HEAD).bias, 0, 1 << 27)), r"head: bias\[0\] is 134217728"),
    (altered(PROJ, residual=None), "s0.b0.proj: having a residual is False, but the model needs True"),
    (altered(PROJ, residual={"fresh": True}), "s0.b0.proj: residual.fresh is True, but the model needs False"),
    (altered(PROJ, residual={"gain": poke(gemm(PROJ).residual.gain, 0, 4682)}),
     "s0: the residual of channel 0 may reach [0-9]+, above 32767"),
    (altered(PROJ, norm={"site": ""}), "s0.b0.proj: norm.site is '', but the model needs 'fc1'"),
    (altered(PROJ, norm={"negate": poke(gemm(PROJ).norm.negate, 0, 2)}), r"norm.negate\[0\] is 2, outside 0..1"),
    (altered(PROJ, norm={"threshold": poke(gemm(PROJ).norm.threshold, 0, -1)}),
     r"s0.b0.proj: norm.threshold\[0\] is -1, outside 1..1048575"),
    (altered(LAST, requantise=None), "s0.b1.fc2: having a requantise is False, but the model needs True"),
    (altered(LAST, requantise={"bits": 9}), r"must have one width of 4 to 12 bits, not \[8, 9\]"),
    (altered(LAST, requantise={"shift": 16}), r"s0.b1.fc2: requantise.shift\[0\] is 16, outside 0..15"),
    (altered("s0.b1.attn", rom_den=poke(ATTENTION.rom_den, (0, (ATTENTION.window - 1) * 2 * ATTENTION.window, 2), 0)),
     r"rom_den\[:, \d+\] holds 0, so a row may have the threshold 0"),
    (altered("s0.b1.attn", rom_num=poke(ATTENTION.rom_num, (0, 1, 2), 4096)),
     r"rom_num\[0, 1, 2\] is 4096, outside 0..4095"),
    (altered("s0.b1.attn", rom_num=ATTENTION.rom_num[..., :4]), r"rom_num has shape \[1, 49, 4\]"),
    (altered("s0.b1.attn", score_threshold=0), r"score_threshold\[0\] is 0, outside 1..1048575"),
    (altered("s0.b1.attn", shift=0), "s0.b1.attn: shift is 0, but the model needs 2"),
    (altered("s0.b1.attn", window=2), "s0.b1.attn: window is 2, but the model needs 4"),
    (dataclasses.replace(NETWORK, layers=NETWORK.layers[:-1]), "layer 17 is nothing, but the model needs head"),
    (dataclasses.replace(NETWORK, layers=NETWORK.layers[1:]), "layer 0 is s0.b0.qkv, but the model needs embed"),
    (dataclasses.replace(NETWORK, rom_bits=17), "rom_bits must be 6 to 16, not 17"),
])
def test_check_refuses(network: Network, message: str) -> None:
    with pytest.raises(NetworkError, match=message) as caught:
        check(network)
    assert "\n" not in str(caught.value)


def test_logits_must_fit_32_bits() -> None:
    wide = random_network(ModelConfig(64, 1, 2, 1, 128, (1,), (1,), 4, 0.25, 1), 1, QuantizeConfig(8, 12, 12))
    full = np.full((2, 128), -128, np.int64)
    with pytest.raises(NetworkError, match="head: a logit may reach [0-9]+, outside 32 bits: scale the head down"):
        check(altered("head", wide, weight=full))


SHAPES = [
    (MODEL, QuantizeConfig()),
    (ModelConfig(32, 3, 10, 2, 32, (2, 2, 1), (2, 4, 8), 4, 2.0, 7), QuantizeConfig()),
    (ModelConfig(28, 1, 10, 4, 24, (2,), (3,), 7, 2.0, 15), QuantizeConfig(4, 8, 6)),
    (ModelConfig(28, 1, 10, 2, 40, (2, 1), (5, 5), 7, 1.0, 3), QuantizeConfig(8, 16, 12)),
    (ModelConfig(8, 3, 2, 2, 16, (2, 1, 1), (1, 2, 2), 2, 3.0, 1), QuantizeConfig(4, 6, 4)),
]


@pytest.mark.parametrize(("model", "quantize"), SHAPES)
def test_random_networks_are_active_and_use_the_corners(model: ModelConfig, quantize: QuantizeConfig) -> None:
    network = random_network(model, 4, quantize)
    assert digest(random_network(model, 4, quantize)) == digest(network)
    assert digest(random_network(model, 5, quantize)) != digest(network)
    trace = run(network, random_images(model, 77, 4))
    rates = []
    for layer, found in trace.outputs.items():
        for key, counts in found.items():
            if key in ("counts", "next"):
                assert counts.min() == 0, layer
                assert counts.max() == model.levels, layer
                rates.append(counts.mean() / model.levels)
    rates += [a.mean() / model.levels for a in trace.scores.values()]
    assert min(rates) > 0.04, rates
    assert max(rates) < 0.9, rates
    assert 0.1 < np.mean(rates) < 0.5
    assert (trace.logits.max(axis=0) != trace.logits.min(axis=0)).all()
    gemms = [layer for layer in network.layers if isinstance(layer, Gemm)]
    low = -(1 << quantize.weight_bits - 1)
    assert all(layer.weight.min() == low and layer.weight.max() == -low - 1 for layer in gemms)
    for stage in range(len(model.depths)):
        table = zip(network.layers, shapes(model, quantize.stream_bits), strict=True)
        gains = [layer.residual.gain for layer, shape in table
                 if isinstance(layer, Gemm) and layer.residual is not None and shape.stage == stage]
        assert min(gain.min() for gain in gains) < 0
        assert sum(np.abs(gain) for gain in gains).max() == 32767 // model.levels
    for layer in network.layers:
        if isinstance(layer, Attention):
            top = (1 << quantize.rom_bits) - 1
            assert (layer.rom_num.min(), layer.rom_num.max()) == (0, top)
            assert (layer.rom_den.min(), layer.rom_den.max()) == (1, top)
    assert any(layer.norm.negate.any() for layer in gemms if layer.norm is not None)
