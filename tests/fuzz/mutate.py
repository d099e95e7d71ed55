"""Mutations of files: a seed and whole files in, as many broken ones out as asked for. The same seed gives the same files."""
import random
import re
import struct
from collections.abc import Callable

EXTREMES = (0, 1, 2, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
            (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
TEXTS = (b"0", b"-1", b"1", b"3", b"2147483648", b"4294967296", b"9223372036854775808", b"1" + b"0" * 40, b"9" * 5000, b"1e308",
         b"-1e308", b"1e999", b"inf", b"-inf", b"nan", b"NaN", b"Infinity", b"[]", b"{}", b'""', b"true", b"null", b"0.5",
         b'"x"', b"[[]]", b"[1, 2]", b"[4294967296]", b"{a = 1}", b'{"a": 1}', b"[" * 3000, b"1979-05-27", b"\xff\xfe", b'"\\n"')
TOKEN = re.compile(rb'-?[0-9][0-9.e+-]*|"[^"\n]*"|\[[^\[\]\n]*\]|\{[^{}\n]*\}|true|false|null|[A-Za-z_]+')


def _flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def _number(data: bytearray, rng: random.Random) -> None:
    """An extreme number, little- or big-endian, of 2, 4 or 8 bytes."""
    size = rng.choice((2, 4, 8))
    at = rng.randrange(len(data))
    value = rng.choice(EXTREMES) % (1 << 8 * size)
    raw = value.to_bytes(size, rng.choice(("little", "big")))
    data[at:at + size] = raw[:len(data) - at]


def _step(data: bytearray, rng: random.Random) -> None:
    """A number that is a little more or less."""
    at = rng.randrange(max(1, len(data) - 4))
    raw = bytes(data[at:at + 4]).ljust(4, b"\0")
    form = rng.choice(("<I", ">I"))
    data[at:at + 4] = struct.pack(form, (struct.unpack(form, raw)[0] + rng.choice((-8, -1, 1, 8, 1 << 16))) % (1 << 32))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)):]


def _remove(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at:at + rng.choice((1, 2, 4, 8, 64))]


def _repeat(data: bytearray, rng: random.Random) -> None:
    at, size = rng.randrange(len(data)), rng.choice((1, 4, 16, 256))
    data[at:at] = data[at:at + size] * rng.choice((1, 2, 50))


def _insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 4, 40)))


def _token(data: bytearray, rng: random.Random) -> None:
    """One word, number, text, list or table of a text in place of another, or an extreme one."""
    found = list(TOKEN.finditer(bytes(data)))
    if not found:
        return _byte(data, rng)
    place = rng.choice(found)
    data[place.start():place.end()] = rng.choice(TEXTS) if rng.random() < 0.7 else rng.choice(found)[0]
    return None


def _line(data: bytearray, rng: random.Random) -> None:
    """A line twice, gone, or moved."""
    lines = bytes(data).splitlines(keepends=True)
    line = lines.pop(rng.randrange(len(lines)))
    for _ in range(rng.choice((0, 1, 2))):
        lines.insert(rng.randrange(len(lines) + 1), line)
    data[:] = b"".join(lines)


BINARY: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip, _flip, _byte, _byte, _number, _number, _step, _cut, _remove, _repeat, _insert, _token)
TEXT: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _token, _token, _token, _token, _line, _byte, _cut, _remove, _repeat, _insert)


def mutated(seeds: list[bytes], seed: str, text: bool) -> bytes:
    """One broken file: one to four changes of one of `seeds`; `seed` decides which."""
    rng = random.Random(seed)
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if data:
            rng.choice(TEXT if text else BINARY)(data, rng)
    return bytes(data)
