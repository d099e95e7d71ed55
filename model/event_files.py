"""Recordings of event cameras: ATIS .bin/.bs2, Prophesee .dat, AEDAT 2.0 of a DVS128.

Each reader takes a file to `Events`, checks every record, and refuses a bad file with the byte offset of its first bad record.
Formats: N-MNIST and N-Caltech101, Orchard et al., Front. Neurosci. 9:437 (2015); Prophesee "DAT File Format", version 2;
iniVation "AEDAT 2.0", DVS128 addresses as in "AEDAT 1.0".
"""
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.dataset import DataError, contents

EVENT = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1")])
"""Time in us, column, row as the file numbers it, polarity (0: darker, OFF; 1: brighter, ON)."""
Events = NDArray[np.void]
OVERFLOW_ROW, OVERFLOW_US = 240, 1 << 13
"""ATIS: a record of this row is no event: the clock of all later ones is this much later (Orchard's Read_Ndataset)."""
DVS128 = 128
HALF = 1 << 31


def _refuse(path: Path, offset: int, what: str) -> DataError:
    return DataError(f"{path}: byte offset {offset}: {what}: copy or unpack the recording again")


def _records(path: Path, data: bytes, start: int, size: int) -> int:
    """Whole records from byte `start` on; DataError where there is none or the last one is cut short."""
    count, rest = divmod(len(data) - start, size)
    if rest:
        raise _refuse(path, len(data) - rest, f"the last record is cut short: {rest} of {size} bytes")
    if not count:
        raise _refuse(path, start, "the file ends before the first event")
    return count


def _checked(path: Path, t: NDArray[np.int64], x: NDArray[np.int64], y: NDArray[np.int64], p: NDArray[np.int64],
             sensor: tuple[int, int], offsets: NDArray[np.int64]) -> Events:
    """The events, after a look at each for what no sensor sends; `offsets`: where each one's record lies."""
    width, height = sensor
    late = np.zeros(len(t), bool)
    late[1:] = t[1:] < t[:-1]
    bad = np.flatnonzero((x >= width) | (y >= height) | (p > 1) | late)
    if len(bad):
        i = int(bad[0])
        if x[i] >= width or y[i] >= height:
            what = f"event at ({x[i]}, {y[i]}), outside the {width}x{height} sensor"
        elif p[i] > 1:
            what = f"polarity {p[i]}, not 0 or 1"
        else:
            what = f"time {t[i]} us after {t[i - 1]} us: events go back in time"
        raise _refuse(path, int(offsets[i]), what)
    events = np.empty(len(t), EVENT)
    for name, values in (("t", t), ("x", x), ("y", y), ("p", p)):
        events[name] = values
    return events


def _unwrapped(stamps: NDArray[np.int64]) -> NDArray[np.int64]:
    """32-bit times without their overflow. A step is the one of the smallest size, -2^31 to 2^31 - 1 us, that leads from one
    stamp to the next on the counter's circle, so a step just back over the overflow is one back, which `_checked` refuses."""
    steps = (np.diff(stamps) + HALF) % (1 << 32) - HALF
    return stamps[:1] + np.concatenate(([0], np.cumsum(steps)))


def read_bin(path: Path, sensor: tuple[int, int]) -> Events:
    """N-MNIST, N-Caltech101 (.bin, .bs2): 40 bits a record: x, y, polarity and 23 bits of us, big-endian.

    `sensor`: columns and rows, 34x34 or 240x180. DataError with a byte offset.
    """
    data = contents(path, "the publishers' recordings")
    raw = np.frombuffer(data, np.uint8, _records(path, data, 0, 5) * 5).reshape(-1, 5).astype(np.int64)
    x, y, p = raw[:, 0], raw[:, 1], raw[:, 2] >> 7
    overflow = y == OVERFLOW_ROW
    t = (raw[:, 2] & 127) << 16 | raw[:, 3] << 8 | raw[:, 4]
    t = t + np.cumsum(overflow) * OVERFLOW_US
    events = np.flatnonzero(~overflow)
    if not len(events):
        raise _refuse(path, 0, "holds no event, only clock overflows")
    return _checked(path, t[events], x[events], y[events], p[events], sensor, events * 5)


def _dat_header(path: Path, data: bytes) -> tuple[dict[str, str], int]:
    """Keywords of the lines that start with '%', and where the binary part starts."""
    words: dict[str, str] = {}
    place = 0
    while data[place:place + 1] == b"%":
        end = data.find(b"\n", place)
        if end < 0:
            raise _refuse(path, place, "a header line without an end")
        key, _, value = data[place + 1:end].decode("ascii", "replace").strip().partition(" ")
        words[key.lower()] = value.strip()
        place = end + 1
    if not place:
        raise _refuse(path, 0, f"starts with {data[:8]!r}, not with the '%' lines of a .dat file")
    return words, place


def read_dat(path: Path, sensor: tuple[int, int]) -> Events:
    """Prophesee .dat version 2 (N-Cars): '%' lines, event type and size, then little-endian us and packed x, y, polarity.

    `sensor`: columns and rows, where the header names none. DataError with a byte offset.
    """
    data = contents(path, "the publishers' recordings")
    words, start = _dat_header(path, data)
    if words.get("version") != "2":
        raise _refuse(path, 0, f"header says version {words.get('version', 'none')!r}: only version 2 is read")
    if len(data) < start + 2:
        raise _refuse(path, len(data), "the file ends before the event type and size")
    kind, size = data[start], data[start + 1]
    if kind not in (0, 12) or size != 8:
        raise _refuse(path, start, f"events of type {kind} and {size} bytes, not of type 0 or 12 (CD) and 8 bytes")
    try:
        sensor = int(words.get("width", sensor[0])), int(words.get("height", sensor[1]))
    except ValueError:
        raise _refuse(path, 0, "header gives a width or height that is no number") from None
    start += 2
    raw = np.frombuffer(data, "<u4", 2 * _records(path, data, start, 8), start).reshape(-1, 2).astype(np.int64)
    packed = raw[:, 1]
    return _checked(path, _unwrapped(raw[:, 0]), packed & 0x3FFF, packed >> 14 & 0x3FFF, packed >> 28, sensor,
                    start + 8 * np.arange(len(raw)))


def read_aedat2(path: Path, sensor: tuple[int, int] = (DVS128, DVS128)) -> Events:
    """AEDAT 2.0 of a DVS128 (CIFAR10-DVS): '#' lines, then big-endian 32-bit address and 32-bit us.

    Address: bit 0 polarity, bits 1 to 7 column, bits 8 to 14 row from the bottom; bit 15 marks an external event, which is no
    pixel's and left out. `sensor` can only be smaller than 128x128. DataError with a byte offset.
    """
    data = contents(path, "the publishers' recordings")
    place = 0
    while data[place:place + 1] == b"#":
        end = data.find(b"\n", place)
        if end < 0:
            raise _refuse(path, place, "a header line without an end")
        place = end + 1
    version = data[:place].split(b"\n", 1)[0].strip()
    if version != b"#!AER-DAT2.0":
        raise _refuse(path, 0, f"starts with {(version or data[:12])[:24]!r}, not with '#!AER-DAT2.0'")
    raw = np.frombuffer(data, ">u4", 2 * _records(path, data, place, 8), place).reshape(-1, 2).astype(np.int64)
    address = raw[:, 0]
    offsets = place + 8 * np.arange(len(raw))
    foreign = np.flatnonzero(address >> 16)
    if len(foreign):
        i = int(foreign[0])
        raise _refuse(path, int(offsets[i]), f"address 0x{address[i]:08x} is not a DVS128's, which has 16 bits")
    t, pixel = _unwrapped(raw[:, 1]), address >> 15 == 0
    if not pixel.any():
        raise _refuse(path, place, "holds no pixel's event, only external ones")
    a = address[pixel]
    return _checked(path, t[pixel], a >> 1 & 127, a >> 8 & 127, a & 1, sensor, offsets[pixel])


READERS: dict[str, Callable[[Path, tuple[int, int]], Events]] = {
    ".bin": read_bin, ".bs2": read_bin, ".dat": read_dat, ".aedat": read_aedat2,
}
"""Reader of a file by its suffix."""


def read_events(path: Path, sensor: tuple[int, int]) -> Events:
    """Events of a recording by its suffix; `sensor`: columns and rows. DataError in one line, with a byte offset."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: recordings end in {', '.join(READERS)}, not {path.suffix!r}")
    return reader(path, sensor)
