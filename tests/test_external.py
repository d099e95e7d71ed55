"""hwgen/external.py: where every bit of a word lies in external memory, bursts, and what is refused."""
import random

import numpy as np
import pytest

from hwgen.external import (
    BUSES,
    WORDS_MAX,
    Packing,
    beats,
    bursts,
    pack_rows,
    pack_words,
    packing,
    transfer_cycles,
    unpack_rows,
    unpack_words,
)

WIDTHS = (1, 5, 8, 9, 24, 32, 33, 64, 65, 100, 128, 129, 192, 256, 257, 300, 512, 700, 2048)


def naive(words: list[int], width: int, bus: int) -> int:
    """The format as its paragraph says it, one big integer."""
    image = 0
    for index, word in enumerate(words):
        if 2 * width > bus:
            image |= word << index * -(-width // bus) * bus
        else:
            slot = 8
            while slot < width:
                slot *= 2
            each = bus // slot
            image |= word << index // each * bus + index % each * slot
    return image


@pytest.mark.parametrize("bus", BUSES)
@pytest.mark.parametrize("width", WIDTHS)
def test_words_lie_as_stated(width: int, bus: int) -> None:
    rng = random.Random(f"{width} {bus}")
    for count in (1, 2, 7, 33):
        words = [rng.getrandbits(width) for _ in range(count)]
        data = pack_words(words, width, bus)
        assert len(data) == beats(count, width, bus) * bus // 8
        assert int.from_bytes(data, "little") == naive(words, width, bus)
        assert unpack_words(data, count, width, bus) == words
        rows = unpack_rows(data, count, width, bus)
        assert rows.shape == (count, -(-width // 8)) and pack_rows(rows, width, bus) == data


def test_packing() -> None:
    assert packing(5, 64) == Packing(1, 8, 8)
    assert packing(32, 64) == Packing(1, 2, 32)
    assert packing(33, 64) == Packing(1, 1, 64)
    assert packing(100, 64) == Packing(2, 1, 128)
    assert [beats(words, 24, 64) for words in (1, 2, 3)] == [1, 1, 2]
    assert [beats(words, 192, 128) for words in (1, 2, 3)] == [2, 4, 6]


def test_no_words_are_no_bytes() -> None:
    assert pack_words([], 24, 64) == b"" and unpack_words(b"", 0, 24, 64) == []


@pytest.mark.parametrize(("call", "message"), [
    (lambda: packing(8, 96), "a memory bus has 64, 128, 256 or 512 bits, not 96"),
    (lambda: packing(0, 64), "at least 1 bit, not 0"),
    (lambda: beats(0, 8, 64), "a transfer has 1 to 1048576 words, not 0: split it"),
    (lambda: beats(WORDS_MAX + 1, 8, 64), "not 1048577: split it"),
    (lambda: pack_words([3, 16], 4, 64), r"word 1 \(0x10\) does not fit 4 bits"),
    (lambda: pack_words([3, -1], 4, 64), r"word 1 \(-0x1\) does not fit 4 bits"),
    (lambda: pack_rows(np.array([[1, 1], [2, 4]], np.uint8), 10, 64), r"word 1 \(0x402\) does not fit 10 bits"),
    (lambda: pack_rows(np.zeros((2, 3), np.uint8), 10, 64), r"must be uint8 \[words, 2\], not uint8 \[2, 3\]"),
    (lambda: pack_rows(np.zeros((2, 2), np.int16), 10, 64), r"not int16 \[2, 2\]"),  # type: ignore[arg-type]
    (lambda: unpack_words(bytes(7), 1, 10, 64), "1 words of 10 bits take 8 bytes on a bus of 64 bits, not 7"),
])
def test_refusals(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_bursts_end_at_multiples() -> None:
    assert list(bursts(5, 30, 16)) == [(5, 11), (16, 16), (32, 3)]
    assert list(bursts(0, 16, 16)) == [(0, 16)]
    assert list(bursts(7, 1, 16)) == [(7, 1)]
    assert list(bursts(2, 3, 1)) == [(2, 1), (3, 1), (4, 1)]


def test_transfer_cycles() -> None:
    """The formula of its docstring; tests/test_dma_rtl.py compares with the machine."""
    for words, width in ((1, 64), (4096, 64), (4096, 192), (4096, 24)):
        want = 100 + max(words, beats(words, width, 64)) + 2
        assert transfer_cycles(words, width, 64, latency=100, burst=16, outstanding=8) == want
    # one burst at a time: each waits for the whole latency, and one cycle to see that the one before is over
    assert transfer_cycles(32, 64, 64, latency=100, burst=16, outstanding=1) == 100 + 16 + (1 + 100 + 16) + 2
