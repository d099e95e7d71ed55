"""Space in one on-chip memory, handed out while a program is compiled: who holds it, and from when on it is free again."""
from dataclasses import dataclass

from hwgen.limits import CompileError


@dataclass(slots=True)
class Space:
    """`size` words from `base` on. `steps`, `writes`: how many of each must be done before anything else may go there;
    `held`: it is in use.
    """

    base: int
    size: int
    steps: int = 0
    writes: int = 0
    held: bool = True

    @property
    def end(self) -> int:
        """The word behind it."""
        return self.base + self.size


class Pool:
    """A memory of `depth` words called `knob` in `[machine]`."""

    def __init__(self, knob: str, depth: int) -> None:
        self.knob, self.depth = knob, depth
        self._spaces: list[Space] = []
        self.peak = 0

    def take(self, size: int, *, end: str = "") -> Space | None:
        """Space for `size` words, None where there is none now.

        Of all gaps the one that is free soonest, among equals the lowest; `end` "low" or "high": only that end of the
        memory will do. `steps` and `writes` of what is returned say when it is free.
        """
        for space in self._options(size, end):
            return self._hold(space)
        return None

    def take_both(self, first: int, second: int) -> tuple[Space, Space] | None:
        """Two spaces at once, or None where only one of them, or none, finds room."""
        for space in self._options(first):
            held = self._hold(space)
            beside = self.take(second)
            if beside is not None:
                return held, beside
            self.give(held, held.steps, held.writes)
        return None

    def must(self, size: int, what: str) -> Space:
        """`take`, or a CompileError that names the knob to raise."""
        space = self.take(size)
        if space is None:
            raise CompileError(f"{self.knob}: {what} needs {size} words beside what is in use, the machine has {self.depth}: "
                               f"set [machine] {self.knob} higher")
        return space

    def give(self, space: Space, steps: int, writes: int = 0) -> None:
        """`space` is free once so many steps and writes are done."""
        space.held, space.steps, space.writes = False, steps, writes

    def _options(self, size: int, end: str = "") -> list[Space]:
        """Places where nothing is held, those that are free soonest first."""
        places = {0, self.depth - size} | {space.end for space in self._spaces} | {space.base - size for space in self._spaces}
        if end:
            places = {0 if end == "low" else self.depth - size}
        found = []
        for base in places:
            if base < 0 or base + size > self.depth:
                continue
            met = [space for space in self._spaces if space.base < base + size and base < space.end]
            if not any(space.held for space in met):
                found.append(Space(base, size, max((space.steps for space in met), default=0),
                                   max((space.writes for space in met), default=0)))
        return sorted(found, key=lambda space: (space.steps, space.writes, space.base))

    def _hold(self, space: Space) -> Space:
        self._cut(space)
        self.peak = max(self.peak, space.end)
        return space

    def _cut(self, new: Space) -> None:
        """Forget what `new` takes of the free spaces."""
        kept: list[Space] = []
        for space in self._spaces:
            if space.held or space.end <= new.base or new.end <= space.base:
                kept.append(space)
                continue
            for low, high in ((space.base, new.base), (new.end, space.end)):
                if low < high:
                    kept.append(Space(low, high - low, space.steps, space.writes, held=False))
        self._spaces = [*kept, new]
