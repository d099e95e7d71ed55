"""The mask LFSR in hardware: linear maps over GF(2) as exclusive-or trees, and a jump to any draw.

The stream, its taps and its numbering are `model.masking`'s (docs/semantics.md, section 4); every matrix here is computed
from `model.lfsr.step`, so nothing is stated twice.
"""
from collections.abc import Callable
from functools import lru_cache

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from model.lfsr import LEAP, ROW_DRAWS, WIDTH, jump, step


@lru_cache(maxsize=64)
def _columns(steps: int) -> tuple[int, ...]:
    """Images of the 32 one-bit states `steps` shifts on."""
    return tuple(jump(1 << bit, steps) for bit in range(WIDTH))


def advanced(state: Value, steps: int) -> Value:
    """`state` [32 bits] `steps` shifts on, combinationally."""
    columns = _columns(steps)
    return Cat(_parity([state[bit] for bit in range(WIDTH) if columns[bit] >> out & 1]) for out in range(WIDTH))


def _parity(terms: list[Value]) -> Value:
    """Exclusive or of one-bit `terms` as a balanced tree: synthesis keeps the shape of such a tree."""
    if len(terms) < 2:
        return terms[0] if terms else Const(0, 1)
    return _parity(terms[:len(terms) // 2]) ^ _parity(terms[len(terms) // 2:])


def draw_bytes(state: Value, count: int) -> list[Value]:
    """The next `count` draws (8 bits each) of a stream in `state`."""
    return [advanced(state, LEAP * (index + 1))[:LEAP] for index in range(count)]


def next_row(state: Value) -> Value:
    """The state one mask row on."""
    return advanced(state, LEAP * ROW_DRAWS)


class Jump(wiring.Component):
    """Applies a jump polynomial to a state, one shift a cycle.

    `done` pulses 32 cycles after `start`, from then on `result` holds. `polynomial` and `state` are sampled at `start`.
    """

    start: In(1)
    polynomial: In(WIDTH)
    state: In(WIDTH)
    result: Out(WIDTH)
    done: Out(1)

    CYCLES = WIDTH

    def elaborate(self, platform: object) -> Module:
        m = Module()
        current, poly = Signal(WIDTH), Signal(WIDTH)
        left = Signal(range(WIDTH))
        with m.If(self.start):  # the first of the 32 terms is taken here
            m.d.sync += [current.eq(advanced(self.state, 1)), poly.eq(self.polynomial >> 1), left.eq(WIDTH - 1),
                         self.result.eq(Mux(self.polynomial[0], self.state, 0))]
        with m.Elif(left != 0):
            m.d.sync += [current.eq(advanced(current, 1)), poly.eq(poly >> 1), left.eq(left - 1)]
            with m.If(poly[0]):
                m.d.sync += self.result.eq(self.result ^ current)
        m.d.sync += self.done.eq((left == 1) & ~self.start)
        return m


Linear = Callable[[Value], Value]
assert step(1) == 3  # taps 32, 22, 2, 1: the newest bit feeds back
