"""Population count by full adders: no carry chain, which for a few bits costs more than the bits."""
from collections.abc import Sequence

from amaranth.hdl import Cat, Value


def popcount(bits: Sequence[Value], *more: Sequence[Value]) -> Value:
    """Number of ones in `bits`, at least one of them; `more[i]` counts 2^(i + 1) for each one (none by default).

    Each column of equal weight is reduced three bits at a time, the oldest first, so that the depth stays logarithmic.
    """
    columns = [list(bits), *(list(column) for column in more)]
    out: list[Value] = []
    while columns:
        column = columns.pop(0)
        carries: list[Value] = []
        while len(column) > 1:
            a, b, *rest = column
            if rest:
                c, *rest = rest
                column = [*rest, a ^ b ^ c]
                carries.append((a & b) | (c & (a ^ b)))
            else:
                column = [a ^ b]
                carries.append(a & b)
        out += column
        if carries:
            columns[:1] = [[*carries, *columns[0]] if columns else carries]
    return Cat(out)
