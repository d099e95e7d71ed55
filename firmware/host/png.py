"""PNG files (ISO/IEC 15948) as arrays: 8 or 16 bits a sample. Pillow unpacks them where it is installed, else zlib and numpy,
without interlace. The rules are those of training, `model/pictures.py`: 16-bit samples keep their high byte, a picture that is
transparent anywhere is refused.
"""
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
SAMPLES = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGB_ALPHA: 4}
LARGEST = 1 << 24
"""Pixels: a larger picture is refused before anything is read or unpacked."""
ROOM = 1 << 20
"""Bytes that a file may have beyond twice those of its pixels, for its other chunks."""


class PngError(ValueError):
    """Not a picture that can be read: one line that names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class Header:
    """The IHDR chunk: pixels, bits a sample, colour type, interlace."""

    width: int
    height: int
    depth: int
    colour: int
    interlace: int

    @property
    def stride(self) -> int:
        """Bytes of an unpacked row."""
        return (self.width * SAMPLES[self.colour] * self.depth + 7) // 8


def read_header(path: Path) -> Header:
    """What the first 33 bytes say; PngError: no such file, no PNG, damaged, of an unknown colour type, or too large."""
    try:
        with path.open("rb") as file:
            data, size = file.read(33), path.stat().st_size
    except OSError as error:
        raise PngError(f"{path}: {error.strerror}") from None
    if not data.startswith(SIGNATURE):
        raise PngError(f"{path}: not a PNG file: convert it to one")
    if len(data) < 33 or data[12:16] != b"IHDR" or struct.unpack_from(">I", data, 29)[0] != zlib.crc32(data[12:29]):
        raise PngError(f"{path}: damaged or cut off: copy it again")
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    if colour not in SAMPLES or depth not in (1, 2, 4, 8, 16):
        raise PngError(f"{path}: {depth} bits a sample, colour type {colour}: no such PNG: save it again")
    if not 0 < width * height <= LARGEST:
        raise PngError(f"{path}: {width}x{height} pixels, not 1 to {LARGEST}: scale it down")
    header = Header(width, height, depth, colour, interlace)
    if size > 2 * height * (1 + header.stride) + ROOM:
        raise PngError(f"{path}: {size} bytes for {width}x{height} pixels: save it again, without what is no picture")
    return header


def read_png(path: Path) -> NDArray[np.uint8]:
    """The picture as uint8 [H, W, 1] (gray) or [H, W, 3] (RGB). An alpha channel is dropped where it is opaque throughout.

    PngError: as `read_header`; damaged or transparent; without Pillow also interlaced, or fewer than 8 bits a sample.
    """
    header = read_header(path)
    try:
        data = path.read_bytes()
        chunks = _chunks(data)
    except OSError as error:
        raise PngError(f"{path}: {error.strerror}") from None
    except (struct.error, zlib.error):
        raise PngError(f"{path}: damaged or cut off: copy it again") from None
    try:
        from PIL import Image
    except ModuleNotFoundError:
        Image = None
    try:
        pixels, clear = _decode(header, chunks, path) if Image is None else _with_pillow(header, data)
    except PngError:
        raise
    except (struct.error, IndexError, KeyError, ValueError, OSError, SyntaxError, zlib.error):
        raise PngError(f"{path}: damaged or cut off: copy it again") from None
    if clear:
        raise PngError(f"{path}: is transparent in places: save it without an alpha channel")
    return pixels


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """Bodies of the chunks by kind, those of one kind joined; zlib.error where a sum is wrong, struct.error where cut off."""
    found: dict[bytes, list[bytes]] = {}
    at = len(SIGNATURE)
    while b"IEND" not in found:
        size, kind = struct.unpack_from(">I4s", data, at)
        if struct.unpack_from(">I", data, at + 8 + size)[0] != zlib.crc32(memoryview(data)[at + 4:at + 8 + size]):
            raise zlib.error
        found.setdefault(kind, []).append(data[at + 8:at + 8 + size])
        at += size + 12
    return {kind: b"".join(bodies) for kind, bodies in found.items()}


def _with_pillow(header: Header, data: bytes) -> tuple[NDArray[np.uint8], bool]:
    """Pixels uint8 [H, W, 1 or 3], and whether any is transparent."""
    from PIL import Image
    with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
        picture.load()
        if picture.mode.startswith("I"):  # 16-bit gray
            values, key = np.asarray(picture), picture.info.get("transparency")
            return (values >> 8).astype(np.uint8)[..., None], key is not None and bool((values == key).any())
        clear = picture.has_transparency_data and picture.convert("RGBA").getchannel("A").getextrema()[0] != 255
        colours = np.asarray(picture.convert("RGBA").convert("RGB"))
        return colours[..., :1] if header.colour in (GRAY, GRAY_ALPHA) else colours, clear  # Pillow makes 16-bit gray-alpha RGBA


def _decode(header: Header, chunks: dict[bytes, bytes], path: Path) -> tuple[NDArray[np.uint8], bool]:
    """The same, with zlib and numpy."""
    if header.depth < 8 or header.interlace:
        raise PngError(f"{path}: {header.depth} bits a sample, interlace {header.interlace}: save it with 8 bits, not interlaced "
                       "(or install Pillow)")
    samples, width = SAMPLES[header.colour], header.depth // 8
    packed = zlib.decompressobj().decompress(chunks[b"IDAT"], header.height * (1 + header.stride))
    rows = _unfilter(packed, header.height, header.stride, samples * width)
    values = rows.view(">u2" if width == 2 else np.uint8).reshape(header.height, header.width, samples)
    pixels = (values >> 8).astype(np.uint8) if width == 2 else values
    named = chunks.get(b"tRNS")
    if header.colour == PALETTE:
        table = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)
        alpha = np.full(256, 255, np.uint8)
        if named:
            alpha[:len(named)] = np.frombuffer(named, np.uint8)
        return table[pixels[..., 0]], bool((alpha[pixels[..., 0]] != 255).any())
    if header.colour in (GRAY_ALPHA, RGB_ALPHA):
        return np.ascontiguousarray(pixels[..., :-1]), bool((pixels[..., -1] != 255).any())
    clear = named is not None and bool((values == np.frombuffer(named, ">u2")).all(-1).any())
    return np.ascontiguousarray(pixels), clear


def _unfilter(data: bytes, height: int, stride: int, back: int) -> NDArray[np.uint8]:
    """Rows uint8 [height, stride] without their filter bytes and filters; `back`: bytes of a pixel."""
    if len(data) != height * (stride + 1):
        raise zlib.error
    packed = np.frombuffer(data, np.uint8).reshape(height, stride + 1)
    out = np.zeros((height, stride), np.uint8)
    above = np.zeros(stride, np.uint8)
    for y in range(height):
        kind, row = int(packed[y, 0]), packed[y, 1:]
        if kind == 0:
            out[y] = row
        elif kind == 1:
            out[y] = np.cumsum(row.reshape(-1, back), axis=0, dtype=np.uint8).reshape(-1)
        elif kind == 2:
            out[y] = row + above
        elif kind in (3, 4):
            out[y] = np.frombuffer((_averaged if kind == 3 else _paeth)(bytearray(row), bytes(above), back), np.uint8)
        else:
            raise zlib.error
        above = out[y]
    return out


def _averaged(row: bytearray, above: bytes, back: int) -> bytearray:
    for x in range(len(row)):
        row[x] = row[x] + ((row[x - back] if x >= back else 0) + above[x] >> 1) & 255
    return row


def _paeth(row: bytearray, above: bytes, back: int) -> bytearray:
    for x in range(back):
        row[x] = row[x] + above[x] & 255
    for x in range(back, len(row)):
        left, up, corner = row[x - back], above[x], above[x - back]
        to_left, to_up = abs(up - corner), abs(left - corner)
        to_corner = abs(left + up - 2 * corner)
        if to_left <= to_up and to_left <= to_corner:
            row[x] = row[x] + left & 255
        else:
            row[x] = row[x] + (up if to_up <= to_corner else corner) & 255
    return row


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
