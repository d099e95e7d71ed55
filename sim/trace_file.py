"""Reads the trace of the simulation top: which descriptor wrote what where, and when it was dispatched."""
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


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
    """Records of a trace file, in order; the last has descriptor -1 and the cycle of the end of the run."""
    current: Record | None = None
    with path.open(encoding="ascii") as lines:
        for number, line in enumerate(lines, 1):
            kind, first, second = line.split()
            if kind in ("D", "F"):
                if current is not None:
                    yield current
                current = Record(int(first, 16), int(second, 16))
                if kind == "F":
                    yield Record(-1, int(second, 16))
                    current = None
                continue
            if current is None:
                raise TraceError(f"{path}:{number}: a write before any descriptor was dispatched")
            if kind == "S":
                current.spike_addresses.append(int(first, 16))
                current.spike_words.append(second)
            else:
                current.stream_addresses.append(int(first, 16))
                current.stream_words.append(second)
    if current is not None:
        raise TraceError(f"{path}: ends without the end of a run: the simulation was broken off")


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
