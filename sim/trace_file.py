"""Reads the trace of a simulation: which descriptor wrote what where, and when it was dispatched.

Two formats with one meaning: text, from the simulation top (`sim.wrapper`), and binary, from the compiled harness (`sim.fast`).
Binary: u32 TRACE_MAGIC, bytes of a spike word, bytes of a residual word; then records of u32 kind (TraceKind), u32 address or
descriptor, and the word (or the u64 cycle), all little-endian.
"""
import enum
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
TRACE_MAGIC = 0x3154534D  # "MST1"
WIDEST = 1 << 12
"""Bytes of a word; the widest machine's spike word has 128."""
TRACE_SUFFIX = ".trace"


class TraceKind(enum.IntEnum):
    """What a record of a binary trace says; the letters of the text format."""

    SPIKE = ord("S")
    STREAM = ord("R")
    DISPATCH = ord("D")
    FINISH = ord("F")


_KINDS = {int(kind) for kind in TraceKind}
_LINE = re.compile(r"(\S) ([0-9a-fA-F]{1,16}) ([0-9a-fA-F]+)")


class TraceError(ValueError):
    """A trace that the machine cannot have written: the message names the line."""


@dataclass(slots=True)
class Record:
    """Everything between one dispatch and the next: `cycle` is the run's counter at the dispatch."""

    descriptor: int
    cycle: int
    spike_addresses: list[int] = field(default_factory=list)
    spike_words: list[str] = field(default_factory=list)
    stream_addresses: list[int] = field(default_factory=list)
    stream_words: list[str] = field(default_factory=list)


def read_trace(path: Path) -> Iterator[Record]:
    """Records of a trace file of either format, in order; the last has descriptor -1 and the cycle of the end of the run."""
    with path.open("rb") as file:
        binary = file.read(4) == struct.pack("<I", TRACE_MAGIC)
    current: Record | None = None
    for number, (kind, first, second) in enumerate(_binary(path) if binary else _text(path), 1):
        if kind in ("D", "F"):
            if current is not None:
                yield current
            current = Record(first, int(second, 16))
            if kind == "F":
                yield Record(-1, int(second, 16))
                current = None
            continue
        if current is None:
            raise TraceError(f"{path}:{number}: a write before any descriptor was dispatched")
        if kind == "S":
            current.spike_addresses.append(first)
            current.spike_words.append(second)
        elif kind == "R":
            current.stream_addresses.append(first)
            current.stream_words.append(second)
        else:
            raise TraceError(f"{path}:{number}: no record of kind {kind!r} is known")
    if current is not None:
        raise TraceError(f"{path}: ends without the end of a run: the simulation was broken off")


def _text(path: Path) -> Iterator[tuple[str, int, str]]:
    """(kind, number, word in hexadecimal) of each line."""
    with path.open(encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            found = _LINE.fullmatch(line.strip())
            if found is None:
                raise TraceError(f"{path}:{number}: {line[:60]!r} is not a letter and two hexadecimal numbers: simulate again")
            yield found[1], int(found[2], 16), found[3]


def _binary(path: Path) -> Iterator[tuple[str, int, str]]:
    """The same of each binary record; a record that was cut off at the end is left out."""
    data = path.read_bytes()
    if len(data) < 12:
        raise TraceError(f"{path}: ends at byte {len(data)}, within its header: simulate again")
    _, spike, stream = struct.unpack_from("<3I", data)
    if max(spike, stream) > WIDEST or not min(spike, stream):
        raise TraceError(f"{path}: words of {spike} and {stream} bytes: not a trace of a machine; simulate again")
    sizes = {TraceKind.SPIKE: spike, TraceKind.STREAM: stream}
    at, end = 12, len(data)
    while at + 8 <= end:
        kind, first = struct.unpack_from("<2I", data, at)
        if kind not in _KINDS:
            raise TraceError(f"{path}: no record of kind {kind:#x} is known, at byte {at}: simulate again")
        size = sizes.get(kind, 8)
        if at + 8 + size > end:
            return
        yield chr(kind & 0xFF), first, data[at + 8:at + 8 + size][::-1].hex()
        at += 8 + size


def unpack_words(words: list[str], fields: int, bits: int, is_signed: bool) -> Ints:
    """Hexadecimal words as [words, fields] integers of `bits` bits each, field 0 lowest."""
    if not words:
        return np.zeros((0, fields), np.int64)
    digits = -(-fields * bits // 4)
    width = digits + digits % 2
    raw = np.frombuffer(bytes.fromhex("".join(word.rjust(width, "0") for word in words)), np.uint8)
    rows = raw.reshape(len(words), width // 2)[:, ::-1]
    flat = np.unpackbits(rows, axis=1, bitorder="little")[:, :fields * bits].reshape(len(words), fields, bits)
    values = (flat.astype(np.int64) << np.arange(bits)).sum(axis=2)
    return values - (values >> bits - 1 << bits) if is_signed else values
