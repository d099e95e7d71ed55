"""Scalars as a TensorBoard event file, written without the tensorboard package (which pulls in grpc, protobuf and more).

A file is a sequence of records: length (u64), masked CRC-32C of it, data, masked CRC-32C of the data (TFRecord, little
endian). The data is a protocol buffer `Event`: wall_time (1, double), step (2, varint), file_version (3) or summary (5), whose
`Value` (1) holds a tag (1) and a simple_value (2, float). Look at them with `tensorboard --logdir runs`.
"""
import os
import struct
import time
from pathlib import Path

VERSION = b"brain.Event:2"
_POLYNOMIAL = 0x82F63B78


def _table() -> list[int]:
    found = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        found.append(byte)
    return found


_CRC = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    """`data` framed as one TFRecord."""
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def _bytes(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(data)) + data


def scalar(tag: str, value: float, step: int, wall_time: float) -> bytes:
    """The `Event` of one scalar."""
    entry = _bytes(1, _bytes(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
    return b"\x09" + struct.pack("<d", wall_time) + b"\x10" + _varint(step) + _bytes(5, entry)


class EventFile:
    """One event file in `folder`, made at the first write; nothing is left in memory between writes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"

    def write(self, scalars: list[tuple[str, float, int]]) -> None:
        """Append (tag, value, step) in this order."""
        now = time.time()
        start = b"" if self.path.exists() else record(b"\x09" + struct.pack("<d", now) + _bytes(3, VERSION))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(start + b"".join(record(scalar(tag, value, step, now)) for tag, value, step in scalars))
