"""The host's PNG reader, with and without Pillow, against written pixels, against each other and against training's rules."""
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from firmware.host import cli, png
from firmware.host.driver import HostError
from firmware.host.png import GRAY, GRAY_ALPHA, PALETTE, RGB, RGB_ALPHA, SAMPLES, SIGNATURE, PngError, read_png

RANDOM = np.random.default_rng(0)


@pytest.fixture(params=["Pillow", "zlib"], autouse=True)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with Pillow, where it is installed, and without."""
    if request.param == "Pillow":
        pytest.importorskip("PIL.Image", reason="Pillow is not installed: make train")
    else:
        monkeypatch.setitem(sys.modules, "PIL", None)
    return str(request.param)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def written(path: Path, values: np.ndarray, colour: int, extra: bytes = b"", filters: bool = True) -> Path:
    """A PNG of `values` [H, W, samples], uint8 or uint16; its rows take the five filters in turn."""
    height, width, samples = values.shape
    assert samples == SAMPLES[colour]
    raw = values.astype(values.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8).astype(int)
    back, rows = samples * values.itemsize, b""
    for y, row in enumerate(raw):
        kind = y % 5 if filters else 0
        above = raw[y - 1] if y else np.zeros_like(row)
        left, corner = (np.concatenate([np.zeros(back, int), line[:-back]]) for line in (row, above))
        nearest = np.abs(np.stack([left, above, corner]) - (left + above - corner)).argmin(0)
        guess = (0 * row, left, above, (left + above) // 2, np.choose(nearest, [left, above, corner]))[kind]
        rows += bytes([kind]) + ((row - guess) & 255).astype(np.uint8).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8 * values.itemsize, colour, 0, 0, 0)
    path.write_bytes(SIGNATURE + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("colour", [GRAY, RGB, GRAY_ALPHA, RGB_ALPHA])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_of_every_filter_and_depth(tmp_path: Path, colour: int, dtype: type) -> None:
    values = RANDOM.integers(0, np.iinfo(dtype).max, (11, 7, SAMPLES[colour]), dtype, endpoint=True)
    if colour in (GRAY_ALPHA, RGB_ALPHA):
        values[..., -1] = np.iinfo(dtype).max
    path = written(tmp_path / "a.png", values, colour)
    wanted = (values >> 8).astype(np.uint8) if dtype is np.uint16 else values
    channels = 1 if colour in (GRAY, GRAY_ALPHA) else 3
    assert np.array_equal(read_png(path), wanted[..., :channels])
    if "PIL.Image" in sys.modules and sys.modules["PIL"] is not None:
        from model.pictures import read_picture
        assert np.array_equal(np.asarray(read_picture(path, channels)).reshape(11, 7, channels), wanted[..., :channels])


def test_palettes_and_what_is_transparent(tmp_path: Path) -> None:
    table = RANDOM.integers(0, 256, (4, 3), np.uint8)
    palette = chunk(b"PLTE", table.tobytes())
    index = RANDOM.integers(1, 4, (6, 5, 1), np.uint8)
    index[0, 0] = 3
    assert np.array_equal(read_png(written(tmp_path / "p.png", index, PALETTE, palette)), table[index[..., 0]])
    unused = written(tmp_path / "u.png", index, PALETTE, palette + chunk(b"tRNS", b"\0"))
    assert np.array_equal(read_png(unused), table[index[..., 0]]), "the transparent entry is not used"
    gray, alpha = np.full((3, 3, 1), 7, np.uint8), np.full((3, 3, 4), 255, np.uint8)
    alpha[2, 1, 3] = 254
    for path in (written(tmp_path / "1.png", index, PALETTE, palette + chunk(b"tRNS", b"\xff\xff\xff\0")),
                 written(tmp_path / "2.png", gray, GRAY, chunk(b"tRNS", b"\0\7")),
                 written(tmp_path / "3.png", alpha, RGB_ALPHA)):
        with pytest.raises(PngError, match=r"\d\.png: is transparent in places: save it without"):
            read_png(path)
    assert read_png(written(tmp_path / "4.png", gray, GRAY, chunk(b"tRNS", b"\0\6"))).max() == 7, "no pixel has that colour"


def test_damage_is_told_in_one_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a.png", RANDOM.integers(0, 256, (9, 9, 3), np.uint8), RGB)
    data = path.read_bytes()
    for place in range(len(SIGNATURE), len(data), 7):
        for bad in (data[:place], data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1:]):
            path.write_bytes(bad)
            with pytest.raises(PngError, match=r"a\.png: ") as caught:
                read_png(path)
            assert "\n" not in str(caught.value)


def test_size_is_checked_before_anything_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = written(tmp_path / "large.png", np.zeros((300, 200, 3), np.uint8), RGB, filters=False)

    def unpacks(*_: object) -> None:
        raise AssertionError("was unpacked")
    for name in ("_decode", "_with_pillow", "_chunks"):
        monkeypatch.setattr(png, name, unpacks)
    with pytest.raises(HostError, match=r"large\.png: 200x300 pixels, the network takes 32x32"):
        cli.picture(large, 32, 3)
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)) + chunk(b"IEND", b""))
    with pytest.raises(PngError, match=r"bomb\.png: 60000x60000 pixels, not 1 to 16777216: scale it down"):
        read_png(bomb)
    monkeypatch.setattr(png, "ROOM", 0)
    padded = written(tmp_path / "padded.png", np.zeros((4, 4, 1), np.uint8), GRAY, chunk(b"tEXt", bytes(500)))
    with pytest.raises(PngError, match=r"padded\.png: \d+ bytes for 4x4 pixels: save it again"):
        read_png(padded)
