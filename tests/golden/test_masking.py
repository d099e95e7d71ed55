"""The spike mask's random numbers: known answers, the LFSR's period, and what 25 % and 75 % look like."""
import numpy as np
import pytest

import model.masking as masking
from model.config import SITES, MaskingConfig, ModelConfig
from model.lfsr import jump, start_state, step
from model.masking import SpikeMask, draws, mask_rows

SEED = 0x2545F491
# Worked by hand from docs/semantics.md: taps 32, 22, 2, 1 are bits 31, 21, 1, 0.
FIRST_STATES = (0x1, 0x3, 0x6, 0xD, 0x1B, 0x36, 0x6D, 0xDB, 0x1B6)
# (seed, image, row, column): draw. The first row is the ninth state above; all but the last are stepped shift by shift.
KNOWN = {
    (1, 0, 0, 0): 0xB6, (1, 0, 0, 1): 0xDB, (5, 5, 0, 0): 0xB6,
    (SEED, 0, 0, 0): 0x98, (SEED, 0, 0, 1): 0xC4, (SEED, 0, 0, 4095): 0xB1, (SEED, 0, 1, 0): 0x02,
    (SEED, 7, 2, 33): 0x7F, (SEED, 9999, 1000, 384): 0xFC,
}


def serial_draws(seed: int, image: int, count: int) -> list[int]:
    """The first `count` draws, one shift after the other."""
    state, found = (seed ^ image) or 1, []
    for _ in range(count):
        for _ in range(8):
            state = (state << 1 | (state >> 31 ^ state >> 21 ^ state >> 1 ^ state) & 1) & 0xFFFFFFFF
        found.append(state & 255)
    return found


def test_first_states() -> None:
    state = 1
    for expected in FIRST_STATES:
        assert state == expected
        state = step(state)
    assert step(1 << 31) == 1
    assert step(1 << 21) == 1 << 22 | 1
    assert step(1 << 22) == 1 << 23


def test_known_draws() -> None:
    """The known answers that docs/semantics.md refers to, through the jump and by stepping."""
    for (seed, image, row, column), expected in KNOWN.items():
        assert int(draws(seed, np.array([image]), row, 1, column + 1)[0, 0, column]) == expected
        if row < 1000:
            assert serial_draws(seed, image, 4096 * row + column + 1)[-1] == expected


def test_draws_equal_serial_stepping_across_rows() -> None:
    serial = np.array(serial_draws(SEED, 3, 3 * 4096)).reshape(3, 4096)
    assert (draws(SEED, np.array([3]), 0, 3, 4096)[0] == serial).all()
    assert (draws(SEED, np.array([8, 3]), 2, 1, 100)[1] == serial[2:, :100]).all()


@pytest.mark.parametrize(("row", "rows", "columns"), [(0, 1, 1), (5, 33, 31), (9000, 70, 100), (77, 129, 260), (3, 400, 33)])
def test_small_tables_and_grown_draws_are_the_same(monkeypatch: pytest.MonkeyPatch, row: int, rows: int, columns: int) -> None:
    """Both ways give the draws that jumping to each of some places gives, at lengths around the recurrence's blocks."""
    images = np.array([3, SEED, 2**32 - 1])
    found = []
    for size in (0, 1 << 30):
        monkeypatch.setattr(masking, "TABLE_BYTES", size)
        found.append(draws(SEED, images, row, rows, columns))
    assert np.array_equal(*found)
    places = np.random.default_rng(row).integers(0, (3, rows, columns), (40, 3)).tolist()
    for image, r, column in [*places, [2, rows - 1, columns - 1]]:
        place = 8 * (4096 * (row + r) + column + 1)
        assert int(found[0][image, r, column]) == jump(start_state(SEED, int(images[image])), place) & 255


def test_a_wrong_recurrence_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "TABLE_BYTES", 0)
    before = draws(SEED, np.array([1]), 4, 40, 40)
    monkeypatch.setattr(masking, "TAPS", (32, 21, 2, 1))
    assert not np.array_equal(draws(SEED, np.array([1]), 4, 40, 40), before)


def test_start_state_is_never_zero() -> None:
    assert start_state(5, 5) == 1
    assert start_state(5, 4) == 1
    assert start_state(0, 0) == 1
    assert start_state(0xFFFFFFFF, 0) == 0xFFFFFFFF


def test_period_is_maximal() -> None:
    """x^32 + x^22 + x^2 + x + 1 is primitive: order 2^32 - 1, whose prime factors are 3, 5, 17, 257, 65537."""
    def times(a: int, b: int) -> int:
        total = 0
        for bit in range(32):
            if b >> bit & 1:
                total ^= a << bit
        for bit in reversed(range(32, 64)):
            if total >> bit & 1:
                total ^= (1 << 32 | 1 << 22 | 0b111) << (bit - 32)
        return total

    def power(exponent: int) -> int:
        result, base = 1, 2
        while exponent:
            if exponent & 1:
                result = times(result, base)
            base = times(base, base)
            exponent >>= 1
        return result

    whole = 2**32 - 1
    assert whole == 3 * 5 * 17 * 257 * 65537
    assert power(whole) == 1
    assert all(power(whole // prime) != 1 for prime in (3, 5, 17, 257, 65537))
    # And the shifted register has that period too; leap 8 keeps it, 8 being prime to it.
    assert jump(SEED, whole) == SEED
    assert all(jump(SEED, whole // prime) != SEED for prime in (3, 5, 17, 257, 65537))


@pytest.mark.parametrize("ratio", [64, 192])
def test_statistics(ratio: int) -> None:
    """Kept share and correlations of neighbours: columns, rows and images. 2^20 draws: one deviation is 0.001."""
    drawn = draws(SEED, np.array([0, 1]), 0, 256, 4096)
    kept = (drawn >= ratio).astype(np.float64)
    share = 1 - ratio / 256
    assert abs(kept.mean() - share) < 0.003
    signal = (kept - share) / (share * (1 - share))**0.5
    for left, right in ((signal[0, :, :-1], signal[0, :, 1:]), (signal[0, :, :-2], signal[0, :, 2:]),
                        (signal[0, :-1], signal[0, 1:]), (signal[0], signal[1])):
        assert abs((left * right).mean()) < 0.005


def test_one_shift_a_draw_would_fail() -> None:
    """Why draws leap by 8: shifting once leaves a lag-1 correlation of a third at 25 % kept."""
    state, kept = SEED, []
    for _ in range(20000):
        state = step(state)
        kept.append(state & 255 >= 192)
    signal = (np.array(kept) - 0.25) / (0.25 * 0.75)**0.5
    assert abs((signal[:-1] * signal[1:]).mean()) > 0.2


def model(**changes: object) -> ModelConfig:
    return ModelConfig(**({"image_size": 8, "in_channels": 1, "classes": 4, "patch": 2, "embedding": 8, "depths": (2,),
                           "heads": (2,), "window": 2, "mlp_ratio": 2.0, "levels": 7} | changes))  # type: ignore[arg-type]


def test_rows_of_every_site() -> None:
    rows = mask_rows(model())
    tokens, heads = 16, 2
    assert (rows["s0.b0"].qkv, rows["s0.b0"].scores) == (0, tokens)
    assert (rows["s0.b0"].fc1, rows["s0.b0"].fc2) == (tokens + tokens * heads, 2 * tokens + tokens * heads)
    assert rows["s0.b1"].qkv == 3 * tokens + tokens * heads


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"exceed the period of a 32-bit LFSR.*: lower \[model\] image_size"):
        mask_rows(model(image_size=1024, patch=4))


def test_too_many_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="4096 draws, not 4097"):
        draws(SEED, np.array([0]), 0, 1, 4097)


def test_a_switched_off_site_changes_no_other() -> None:
    numbers = np.arange(3)
    all_sites = SpikeMask.of(MaskingConfig(SITES, 0.75, SEED))
    only_k = SpikeMask.of(MaskingConfig(("k",), 0.75, SEED))
    left = all_sites.keep("k", numbers, 5, 4, 8, 8)
    right = only_k.keep("k", numbers, 5, 4, 8, 8)
    assert left is not None
    assert right is not None
    assert (left == right).all()
    assert (left == (draws(SEED, numbers, 5, 4, 16)[:, :, 8:] >= 192)).all()
    assert only_k.keep("q", numbers, 5, 4, 8) is None
