"""PNG files (ISO/IEC 15948) as arrays, with zlib alone: 8 bits a sample, without interlace, which is what tools write."""
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
SAMPLES = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGB_ALPHA: 4}
LARGEST = 1 << 24
"""Pixels: a larger picture is refused before anything is unpacked."""


class PngError(ValueError):
    """Not a picture that can be read: one line that names the file and the remedy."""


def read_png(path: Path) -> NDArray[np.uint8]:
    """The picture as uint8 [H, W, 1] (gray) or [H, W, 3] (RGB). An alpha channel is dropped where it is opaque throughout.

    PngError: no such file, no PNG, damaged, transparent, interlaced, or not 8 bits a sample.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PngError(f"{path}: {error.strerror}") from None
    if not data.startswith(SIGNATURE):
        raise PngError(f"{path}: not a PNG file: convert it to one")
    try:
        return _decode(data, path)
    except (struct.error, IndexError, KeyError, zlib.error):
        raise PngError(f"{path}: damaged or cut off: copy it again") from None


def _decode(data: bytes, path: Path) -> NDArray[np.uint8]:
    header, palette, transparent, packed = b"", b"", False, b""
    at = len(SIGNATURE)
    while True:
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8:at + 8 + size]
        if struct.unpack_from(">I", data, at + 8 + size)[0] != zlib.crc32(kind + body):
            raise zlib.error
        at += size + 12
        if kind == b"IHDR":
            header = body
        elif kind == b"PLTE":
            palette = body
        elif kind == b"tRNS":
            transparent = True
        elif kind == b"IDAT":
            packed += body
        elif kind == b"IEND":
            break
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", header)
    if depth != 8 or interlace or colour not in SAMPLES:
        raise PngError(f"{path}: {depth} bits a sample, colour type {colour}, interlace {interlace}: save it with 8 bits, not "
                       "interlaced")
    if not 0 < width * height <= LARGEST:
        raise PngError(f"{path}: {width}x{height} pixels are too many: scale it down")
    samples = SAMPLES[colour]
    rows = _unfilter(zlib.decompressobj().decompress(packed, height * (1 + width * samples)), height, width * samples, samples)
    pixels = rows.reshape(height, width, samples)
    if transparent or (colour in (GRAY_ALPHA, RGB_ALPHA) and (pixels[..., -1] != 255).any()):
        raise PngError(f"{path}: is transparent in places: save it without an alpha channel")
    if colour == PALETTE:
        table = np.frombuffer(palette, np.uint8).reshape(-1, 3)
        return np.ascontiguousarray(table[pixels[..., 0]])
    return np.ascontiguousarray(pixels[..., :3 if samples >= 3 else 1])


def _unfilter(data: bytes, height: int, stride: int, back: int) -> NDArray[np.uint8]:
    """Rows without their filter bytes and filters; `back`: bytes of a pixel."""
    if len(data) != height * (stride + 1):
        raise zlib.error
    out = np.zeros((height, stride), np.uint8)
    above = bytearray(stride)
    for y in range(height):
        start = y * (stride + 1)
        kind, row = data[start], bytearray(data[start + 1:start + 1 + stride])
        for x in range(stride if kind else 0):
            left, up = (row[x - back] if x >= back else 0), above[x]
            corner = above[x - back] if x >= back else 0
            row[x] = row[x] + _predicted(kind, left, up, corner) & 255
        out[y] = np.frombuffer(row, np.uint8)
        above = row
    return out


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    if kind == 4:
        estimate = left + up - corner
        return min((left, up, corner), key=lambda value: abs(estimate - value))
    return {1: left, 2: up, 3: (left + up) // 2}[kind]


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write uint8 [H, W, 1] or [H, W, 3]; ValueError for another shape."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"a picture is uint8 [H, W, 1] or [H, W, 3], not {image.dtype} {list(image.shape)}")
    height, width, samples = image.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, GRAY if samples == 1 else RGB, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    path.write_bytes(SIGNATURE + b"".join(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
                                          for kind, body in chunks))
