"""The network file (.mstn): one integer network, read and written without torch and without pickle.

    magic 8 bytes | version u32 | header length u32 | header, JSON in UTF-8 | tensors, raw | SHA-256 of all before

Numbers are little-endian. The header holds the model's shape, the layers, the notes and a table of tensors (dtype,
shape, offset from the header's end), and, of a network that was trained on one's own pictures,
`class_names`; equal networks give equal bytes. A format change raises VERSION.
"""
import dataclasses
import hashlib
import json
import math
import os
import struct
from pathlib import Path

import numpy as np

from model.config import FLOAT_ONLY, ConfigError, ModelConfig, described, read_model
from model.table import shown
from quantize.check import check
from quantize.formats import BIAS_BITS, GAIN_BITS, THRESHOLD_BITS, WEIGHT_BITS
from quantize.layers import Attention, Gather, Gemm, Ints, Layer, Network, NetworkError, NormFire, Requantise, Residual

__all__ = ["EXTENSION", "MAGIC", "VERSION", "NetworkError", "check", "digest", "encode", "load", "save"]

EXTENSION = ".mstn"
MAGIC = b"MSTN\r\n\x1a\n"
"""Line ends and an end-of-file mark, so that a transfer in text mode breaks it visibly."""
VERSION = 3
"""3: layers that hand nothing on (a residual without norm and requantise). 2: convolutional backbones (`kind` in the model,
`gather` in the layers). A network is written as the lowest version that holds it."""
_FIXED = struct.Struct("<8sII")
_CHECKSUM = 32


def _dtype(bits: int, signed: bool) -> str:
    """Smallest little-endian numpy type of a format."""
    size = next(size for size in (1, 2, 4, 8) if 8 * size >= bits)
    return f"<{'i' if signed else 'u'}{size}"


_GEMM_TYPES = {
    "weight": _dtype(WEIGHT_BITS, True), "bias": _dtype(BIAS_BITS, True), "threshold": _dtype(THRESHOLD_BITS, False),
    "residual.gain": _dtype(GAIN_BITS, True), "norm.negate": _dtype(1, False), "norm.bias": _dtype(BIAS_BITS, True),
    "norm.threshold": _dtype(THRESHOLD_BITS, False),
}


def _tensors(layer: Layer) -> dict[str, Ints]:
    if isinstance(layer, Attention):
        return {"rom_num": layer.rom_num, "rom_den": layer.rom_den}
    found = {"weight": layer.weight, "bias": layer.bias}
    if layer.threshold is not None:
        found["threshold"] = layer.threshold
    if layer.residual is not None:
        found["residual.gain"] = layer.residual.gain
    if layer.norm is not None:
        found |= {f"norm.{key}": getattr(layer.norm, key) for key in ("negate", "bias", "threshold")}
    return found


def _describe(layer: Layer) -> dict[str, object]:
    """A layer's plain values, for the header."""
    if isinstance(layer, Attention):
        return {key: getattr(layer, key) for key in
                ("name", "kind", "side", "heads", "head_size", "window", "shift", "score_threshold")}
    gather = {} if layer.gather is None else {"gather": dataclasses.asdict(layer.gather)}
    return {
        **gather, **{key: getattr(layer, key) for key in ("name", "kind", "tokens", "side", "in_bits", "in_signed")},
        "threshold": layer.threshold is not None,
        "residual": None if layer.residual is None else {"fresh": layer.residual.fresh},
        "norm": None if layer.norm is None else {"site": layer.norm.site},
        "requantise": None if layer.requantise is None else dataclasses.asdict(layer.requantise),
    }


def encode(network: Network, *, notes: bool = True) -> bytes:
    """The file's bytes; with `notes=False` as if it had no notes. NetworkError where `check` refuses the network."""
    check(network)
    _named(network)
    table, payload = [], bytearray()
    for layer in network.layers:
        for name, values in _tensors(layer).items():
            dtype = _dtype(network.rom_bits, False) if isinstance(layer, Attention) else _GEMM_TYPES[name]
            table.append({"layer": layer.name, "name": name, "dtype": dtype, "shape": list(values.shape),
                          "offset": len(payload)})
            payload += np.ascontiguousarray(values).astype(dtype).tobytes()
    model = {key: value for key, value in described(network.model).items() if key not in FLOAT_ONLY}
    try:
        header = json.dumps({
            "model": model, "rom_bits": network.rom_bits,
            "layers": [_describe(layer) for layer in network.layers], "notes": network.notes if notes else {},
            "tensors": table, "payload": len(payload),
            **({"class_names": list(network.class_names)} if network.class_names and notes else {}),
        }, sort_keys=True, indent=1, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise NetworkError(f"the network's description is not JSON: {error}") from None
    version = 1 if isinstance(network.model, ModelConfig) else 2
    if not all(isinstance(layer, Attention) or layer.hands_on for layer in network.layers):
        version = 3
    body = _FIXED.pack(MAGIC, version, len(header)) + header + bytes(payload)
    return body + hashlib.sha256(body).digest()


def digest(network: Network) -> str:
    """SHA-256 (hex) of the network's content; notes do not count, so that a noted accuracy rebuilds nothing."""
    return hashlib.sha256(encode(network, notes=False)).hexdigest()


def save(path: str | Path, network: Network) -> bool:
    """Write the file, whole or not at all; True if its bytes changed. NetworkError where `check` refuses it."""
    path, data = Path(path), encode(network)
    if path.is_file() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return True


def load(path: str | Path) -> Network:
    """Read a network file, tensors as int64. NetworkError: one line with the file, what is wrong and the remedy."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NetworkError(f"{path}: no such network file; make it with `make quantize`") from None
    except OSError as error:
        raise NetworkError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return _decode(data)
    except NetworkError as error:
        raise NetworkError(f"{path}: {error}") from None


def _decode(data: bytes) -> Network:
    if data[:len(MAGIC)] != MAGIC[:len(data)] or not data:
        raise NetworkError(f"not a network file: starts with {data[:len(MAGIC)]!r}; "
                           f"give a {EXTENSION} file of `make quantize`")
    if len(data) < _FIXED.size:
        raise NetworkError(_truncated(len(data), _FIXED.size, "more than "))
    _, version, length = _FIXED.unpack_from(data)
    if not 1 <= version <= VERSION:
        raise NetworkError(f"is of version {version}, this reader knows 1 to {VERSION}: "
                           "update the code, or rerun `make quantize`")
    start = _FIXED.size + length
    if len(data) < start + _CHECKSUM:
        raise NetworkError(_truncated(len(data), start + _CHECKSUM, "at least "))
    whole = hashlib.sha256(data[:-_CHECKSUM]).digest() == data[-_CHECKSUM:]
    try:
        header = json.loads(data[_FIXED.size:start])
        size = header["payload"]
        if type(size) is not int or size < 0:
            raise ValueError(f"payload is {size!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"its header is broken ({shown(error)})" if whole else "its checksum does not match: the file is corrupted"
        raise NetworkError(f"{reason}; rerun `make quantize`") from None
    if len(data) < start + size + _CHECKSUM:
        raise NetworkError(_truncated(len(data), start + size + _CHECKSUM, ""))
    if not whole:
        raise NetworkError("its checksum does not match: the file is corrupted; rerun `make quantize`")
    if len(data) != start + size + _CHECKSUM:
        raise NetworkError(f"has {len(data) - start - size - _CHECKSUM} bytes too many; rerun `make quantize`")
    try:
        network = _network(header, data[start:start + size])
    except ConfigError as error:
        raise NetworkError(f"its header is broken: {error}") from None
    except NetworkError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise NetworkError(f"its header is broken ({shown(error)}); rerun `make quantize`") from None
    check(network)
    _named(network)
    return network


def _named(network: Network) -> None:
    """NetworkError unless there are no class names, or one for each class."""
    names = network.class_names
    if names and (not all(isinstance(name, str) and name for name in names) or len(set(names)) != network.model.classes
                  or len(names) != network.model.classes):
        raise NetworkError(f"has class names {list(names)[:3]} ..., {len(names)} of them, for {network.model.classes} classes: "
                           "one text for each is wanted; rerun `make quantize`")


def _truncated(length: int, wanted: int, about: str) -> str:
    return f"truncated: ends at byte {length}, should have {about}{wanted}; copy it again or rerun `make quantize`"


def _network(header: dict[str, object], payload: bytes) -> Network:
    tensors: dict[tuple[str, str], Ints] = {}
    table, layers, notes, rom_bits = header["tensors"], header["layers"], header["notes"], header["rom_bits"]
    if type(rom_bits) is not int or not isinstance(table, list) or not isinstance(layers, list) \
            or not isinstance(notes, dict):
        raise TypeError("tensors, layers, notes or rom_bits is of a wrong type")
    names = header.get("class_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("class_names is not a list of texts")
    known = set(_GEMM_TYPES.values()) | {_dtype(bits, False) for bits in range(6, 17)}
    end = 0
    for entry in table:
        name = f"{entry['layer']}: {entry['name']}"
        if entry["dtype"] not in known:
            raise NetworkError(f"{name} has the unknown dtype {entry['dtype']!r}; rerun `make quantize`")
        shape = tuple(entry["shape"])
        if any(type(size) is not int or size < 0 for size in (*shape, entry["offset"])):
            raise NetworkError(f"{name} has shape {list(shape)} at offset {entry['offset']!r}; rerun `make quantize`")
        count = math.prod(shape)
        if entry["offset"] != end:  # as it is written; so no bytes are taken twice, and memory follows the file's size
            raise NetworkError(f"{name} begins at byte {entry['offset']} of the tensors, not at {end}; rerun `make quantize`")
        end += count * np.dtype(entry["dtype"]).itemsize
        if entry["offset"] + count * np.dtype(entry["dtype"]).itemsize > len(payload):
            raise NetworkError(f"{name} of shape {list(shape)} reaches beyond the {len(payload)} bytes of tensors; "
                               "rerun `make quantize`")
        values = np.frombuffer(payload, entry["dtype"], count, entry["offset"]).reshape(shape).astype(np.int64)
        values.setflags(write=False)
        tensors[entry["layer"], entry["name"]] = values
    return Network(read_model(header["model"]), tuple(_layer(raw, tensors) for raw in layers), rom_bits, notes, tuple(names))


def _layer(raw: dict[str, object], tensors: dict[tuple[str, str], Ints]) -> Layer:
    name = raw["name"]
    if not isinstance(name, str):
        raise TypeError(f"a layer is named {name!r}")

    def plain(key: str, kind: type = int) -> int:
        if type(raw[key]) is not kind:
            raise NetworkError(f"{name}: {key} must be {kind.__name__}, not {raw[key]!r}")
        return raw[key]  # type: ignore[return-value]

    def tensor(key: str) -> Ints:
        if (name, key) not in tensors:
            raise NetworkError(f"{name}: lacks the tensor {key}; rerun `make quantize`")
        return tensors[name, key]

    if raw["kind"] == "attn":
        return Attention(name, plain("side"), plain("heads"), plain("head_size"), plain("window"), plain("shift"),
                         plain("score_threshold"), tensor("rom_num"), tensor("rom_den"))
    residual, norm, requantise, gather = raw["residual"], raw["norm"], raw["requantise"], raw.get("gather")
    return Gemm(
        name, str(raw["kind"]), plain("tokens"), plain("side"), tensor("weight"), tensor("bias"),
        tensor("threshold") if raw["threshold"] else None, plain("in_bits"), bool(plain("in_signed", bool)),
        Residual(tensor("residual.gain"), bool(residual["fresh"])) if isinstance(residual, dict) else None,
        NormFire(tensor("norm.negate"), tensor("norm.bias"), tensor("norm.threshold"), str(norm["site"]))
        if isinstance(norm, dict) else None,
        Requantise(int(requantise["shift"]), int(requantise["bits"])) if isinstance(requantise, dict) else None,
        Gather(int(gather["kernel"]), int(gather["stride"]), int(gather["padding"])) if isinstance(gather, dict) else None,
    )
