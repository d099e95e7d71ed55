"""A counter whose end is known a cycle ahead."""
from amaranth.hdl import Module, Signal, Value


class Countdown:
    """Counts `total` down to 0, over and over. `last` (it is 0) is a register: no path waits for a comparison.

    Not a module: its statements join those of its owner.
    """

    def __init__(self, m: Module, name: str, total: Value) -> None:
        self._m, self._total = m, total
        self._left, self.last = Signal(len(total), name=f"{name}_left"), Signal(name=f"{name}_last")

    def begin(self) -> None:
        """To `total`."""
        self._m.d.sync += [self._left.eq(self._total), self.last.eq(self._total == 0)]

    def step(self) -> None:
        """One down; from 0 to `total`."""
        with self._m.If(self.last):
            self.begin()
        with self._m.Else():
            self._m.d.sync += [self._left.eq(self._left - 1), self.last.eq(self._left == 1)]
