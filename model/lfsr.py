"""The LFSR of Random Spike Masking, bit by bit: what `hwgen.lfsr` is generated from and the masks are drawn from.

Defined in docs/semantics.md, section 4. The stream is linear over GF(2), so it can be entered anywhere:
`jump_polynomial(k)` is x^k modulo the characteristic polynomial, and `jump(state, k)` the state k steps on.
Taps (32, 22, 2, 1): Xilinx XAPP052.
"""
from functools import lru_cache

WIDTH = 32
TAPS = (32, 22, 2, 1)
LEAP = 8
ROW_DRAWS = 4096
STEP_SEED = 0x9E3779B1
"""Times the time step, into the seed: `stepwise` redraws the mask (docs/semantics.md, section 4)."""
WORD = (1 << WIDTH) - 1
# Recurrence b[k] = sum of b[k - tap], hence x^32 = sum of x^(32 - tap).
_REDUCTION = sum(1 << (WIDTH - tap) for tap in TAPS)


def step(state: int) -> int:
    """One shift of the LFSR."""
    bit = 0
    for tap in TAPS:
        bit ^= state >> (tap - 1)
    return (state << 1 | bit & 1) & WORD


@lru_cache(maxsize=4096)
def jump_polynomial(steps: int) -> int:
    """x^steps modulo the LFSR's characteristic polynomial, bit i = coefficient of x^i."""
    result, power = 1, 2
    while steps:
        if steps & 1:
            result = _product(result, power)
        power = _product(power, power)
        steps >>= 1
    return result


def _product(a: int, b: int) -> int:
    total = 0
    while b:
        if b & 1:
            total ^= a
        b >>= 1
        a <<= 1
        if a >> WIDTH:
            a = a & WORD ^ _REDUCTION
    return total


def apply_polynomial(state: int, polynomial: int) -> int:
    """Sum of step^i(state) over the set bits i of `polynomial`: how the hardware jumps, one shift a cycle."""
    total = 0
    for bit in range(WIDTH):
        if polynomial >> bit & 1:
            total ^= state
        state = step(state)
    return total


def jump(state: int, steps: int) -> int:
    """The state `steps` shifts after `state`."""
    return apply_polynomial(state, jump_polynomial(steps))


def start_state(seed: int, image: int) -> int:
    """State of an image before its first draw."""
    return (seed ^ image) & WORD or 1
