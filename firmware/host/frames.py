"""Frames of the wire protocol (`hwgen.wire`) as bytes: one function to make them, one class that finds them in what comes."""
import zlib
from dataclasses import dataclass

from hwgen.wire import CRC_BYTES, END, ESCAPE, ESCAPED_END, ESCAPED_ESCAPE, HEADER_BYTES, MAX_WORDS

_STUFFED = {END: bytes([ESCAPE, ESCAPED_END]), ESCAPE: bytes([ESCAPE, ESCAPED_ESCAPE])}
LONGEST = 2 * (HEADER_BYTES + 2 + 4 * MAX_WORDS + CRC_BYTES)
"""Bytes of the longest answer between two ENDs; what is longer is garbage."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame whose length and CRC are right."""

    operation: int
    sequence: int
    payload: bytes


def encode(operation: int, sequence: int, payload: bytes = b"") -> bytes:
    """The frame's bytes on the wire, END before and behind; ValueError when a field does not fit."""
    if not (0 <= operation < 256 and 0 <= sequence < 256 and len(payload) < 1 << 16):
        raise ValueError(f"operation {operation}, sequence {sequence}, {len(payload)} bytes: no such frame")
    body = bytes([operation, sequence]) + len(payload).to_bytes(2, "little") + payload
    body += zlib.crc32(body).to_bytes(CRC_BYTES, "little")
    return bytes([END]) + b"".join(_STUFFED.get(byte, bytes([byte])) for byte in body) + bytes([END])


class Decoder:
    """Finds frames in bytes as they come. `dropped` counts pieces between ENDs that were none."""

    def __init__(self) -> None:
        self.dropped = 0
        self._piece = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that end in `data`."""
        found = []
        for byte in data:
            if byte != END:
                if len(self._piece) <= LONGEST:
                    self._piece.append(byte)
                continue
            piece, self._piece = bytes(self._piece), bytearray()
            frame = _parse(piece)
            if frame is not None:
                found.append(frame)
            elif piece:
                self.dropped += 1
        return found


def _parse(piece: bytes) -> Frame | None:
    """The frame whose stuffed bytes `piece` holds; None when it is none."""
    body, escaped = bytearray(), False
    for byte in piece:
        if escaped:
            if byte not in (ESCAPED_END, ESCAPED_ESCAPE):
                return None
            body.append(END if byte == ESCAPED_END else ESCAPE)
            escaped = False
        elif byte == ESCAPE:
            escaped = True
        else:
            body.append(byte)
    size = len(body) - HEADER_BYTES - CRC_BYTES
    if escaped or size < 0 or int.from_bytes(body[2:4], "little") != size:
        return None
    if zlib.crc32(body[:-CRC_BYTES]) != int.from_bytes(body[-CRC_BYTES:], "little"):
        return None
    return Frame(body[0], body[1], bytes(body[HEADER_BYTES:-CRC_BYTES]))
