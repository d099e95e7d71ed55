"""Population count by full adders: no carry chain, which for a few bits costs more than the bits."""
from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Signal, Value


def popcount(m: Module, bits: Sequence[Value], name: str) -> Value:
    """Number of ones in `bits`, at least one of them. Each column of equal weight is reduced three bits at a time, the oldest
    first, so that the depth stays logarithmic.

    Every bit in between is a signal of `m`, named after `name`: Amaranth walks an expression once for each use of its parts.
    `<name>_counted` and `<name>_ones` are what goes in and comes out (`sim.fast.rewrite` looks for them).
    """
    made = 0
    counted = Signal(len(bits), name=f"{name}_counted")
    ones = Signal(len(bits).bit_length(), name=f"{name}_ones")
    m.d.comb += counted.eq(Cat(bits))

    def net(value: Value) -> Value:
        nonlocal made
        signal = Signal(name=f"{name}_bit{made}")
        made += 1
        m.d.comb += signal.eq(value)
        return signal

    columns, out = [list(counted)], list[Value]()
    while columns:
        column, carries = columns.pop(0), list[Value]()
        while len(column) > 1:
            a, b, *rest = column
            half = net(a ^ b)
            if rest:
                c, *rest = rest
                column = [*rest, net(half ^ c)]
                carries.append(net((a & b) | (c & half)))
            else:
                column = [half]
                carries.append(net(a & b))
        out += column
        if carries:
            columns.append(carries)
    m.d.comb += ones.eq(Cat(out))
    return ones
