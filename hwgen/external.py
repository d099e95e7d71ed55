"""External memory: how words lie in it, how transfers become bursts, and what a transfer costs. The one statement of it.

A word of w bits on a bus of B bits: with w > B/2 a word takes ceil(w / B) beats, least significant first, the rest 0.
Else a word takes a slot, the next power of two that is at least max(w, 8) bits; B / slot words share a beat: word i of a
transfer lies in beat i // (B / slot), slot i % (B / slot), lowest slot first. A transfer begins with a beat; the rest of
its last beat is 0. Beat 0's byte 0 is the lowest address (little endian).
"""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BUSES = (64, 128, 256, 512)
WORDS_MAX = 1 << 20
"""Words of one transfer."""

Rows = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Packing:
    """How words share beats: one of the two counts is 1. `slot`: bits from one word to the next."""

    beats_per_word: int
    words_per_beat: int
    slot: int


def packing(width: int, bus: int) -> Packing:
    """The packing of words of `width` bits on a bus of `bus` bits; ValueError on a bad width or bus."""
    if bus not in BUSES:
        raise ValueError(f"a memory bus has 64, 128, 256 or 512 bits, not {bus!r}")
    if width < 1:
        raise ValueError(f"a memory word needs at least 1 bit, not {width!r}")
    if 2 * width > bus:
        count = -(-width // bus)
        return Packing(count, 1, count * bus)
    slot = max(8, 1 << (width - 1).bit_length())
    return Packing(1, bus // slot, slot)


def beats(words: int, width: int, bus: int) -> int:
    """Beats of a transfer of `words` words of `width` bits; ValueError unless 1 <= words <= WORDS_MAX."""
    if not 1 <= words <= WORDS_MAX:
        raise ValueError(f"a transfer has 1 to {WORDS_MAX} words, not {words!r}: split it")
    form = packing(width, bus)
    return -(-words // form.words_per_beat) * form.beats_per_word


def pack_rows(rows: Rows, width: int, bus: int) -> bytes:
    """Words as they lie in external memory. `rows`: uint8 [words, ceil(width / 8)], lowest byte first.

    ValueError on another shape or type, and on a word that does not fit `width` bits. No limit on the number of words.
    """
    form, size = packing(width, bus), -(-width // 8)
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != size:
        raise ValueError(f"words of {width} bits must be uint8 [words, {size}], not {rows.dtype} {list(rows.shape)}")
    if width % 8 and len(rows) and (high := rows[:, -1] >> width % 8).any():
        index = int(np.flatnonzero(high)[0])
        raise ValueError(f"word {index} ({int.from_bytes(rows[index].tobytes(), 'little'):#x}) does not fit {width} bits")
    count = -(-len(rows) // form.words_per_beat) * form.words_per_beat
    out = np.zeros((count, form.slot // 8), np.uint8)
    out[:len(rows), :size] = rows
    return out.tobytes()


def pack_words(words: Sequence[int], width: int, bus: int) -> bytes:
    """`pack_rows` of integers; ValueError names a word that is negative or does not fit `width` bits."""
    packing(width, bus)
    for index, word in enumerate(words):
        if not 0 <= word < 1 << width:
            raise ValueError(f"word {index} ({word:#x}) does not fit {width} bits")
    size = -(-width // 8)
    joined = b"".join(word.to_bytes(size, "little") for word in words)
    return pack_rows(np.frombuffer(joined, np.uint8).reshape(len(words), size), width, bus)


def unpack_rows(data: bytes, words: int, width: int, bus: int) -> Rows:
    """The inverse of `pack_rows`: the first `words` words of `data`, uint8 [words, ceil(width / 8)].

    ValueError when `data` has another number of bytes than those words take.
    """
    form = packing(width, bus)
    need = -(-words // form.words_per_beat) * form.beats_per_word * bus // 8
    if len(data) != need:
        raise ValueError(f"{words} words of {width} bits take {need} bytes on a bus of {bus} bits, not {len(data)}")
    return np.frombuffer(data, np.uint8).reshape(-1, form.slot // 8)[:words, :-(-width // 8)]


def unpack_words(data: bytes, words: int, width: int, bus: int) -> list[int]:
    """The inverse of `pack_words`; refuses what `unpack_rows` refuses. Filling bits of a slot are not looked at."""
    mask = (1 << width) - 1
    return [int.from_bytes(row.tobytes(), "little") & mask for row in unpack_rows(data, words, width, bus)]


def bursts(address: int, count: int, longest: int) -> Iterator[tuple[int, int]]:
    """(first beat, beats) of the bursts of `count` beats from beat `address` on.

    No burst is longer than `longest` beats (a power of two), nor crosses a multiple of it; with at most 4 KiB a burst
    (hwgen.config) none crosses 4 KiB, since MEMORY_BASE is a multiple of 4 KiB.
    """
    while count > 0:
        size = min(count, longest - address % longest)
        yield address, size
        address, count = address + size, count - size


def transfer_cycles(words: int, width: int, bus: int, *, latency: int, burst: int, outstanding: int, address: int = 0) -> int:
    """Cycles of a read transfer that runs alone: from the cycle in which its steps are reached (counted) to the one in
    which `reads` counts it (not counted).

    Exact for a memory (sim.axi_memory) of `latency` and bandwidth 1 that never stalls, and a port that is always granted;
    `burst`, `outstanding`: `memory_burst` and `memory_outstanding`; `address`: first beat. With enough bursts under way,
    (outstanding - 1) * burst > latency, and an aligned address it is latency + max(beats, words) + 2: 102
    and its beats at latency 100.
    """
    form = packing(width, bus)
    pace = form.words_per_beat  # cycles that a beat keeps the on-chip side busy
    issued, taken = 0, 1 - pace
    last: list[int] = []
    for index, (_, size) in enumerate(bursts(address, beats(words, width, bus), burst)):
        issued = issued + 1 if index else 0
        if index >= outstanding:
            issued = max(issued, last[index - outstanding] + 1)
        taken = max(issued + 1 + latency, taken + pace) + (size - 1) * pace
        last.append(taken)
    return taken + (words - 1) % pace + 1 + 1
