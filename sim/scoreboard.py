"""Exact comparison of what a DUT gives with what a golden model expects."""
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mismatch(AssertionError):
    """The first item that differs, an item too many, or items that never came."""


class Scoreboard(Generic[Item]):
    """Compares items with `==`, in order, and must be drained at the end.

    `label` names an item by its index ("layer 3 token 5 channel 7"), `show` prints a value. `checked` counts items.
    """

    def __init__(self, expected: Iterable[Item], label: Callable[[int], str] | None = None,
                 show: Callable[[Item], str] = repr) -> None:
        self._expected = list(expected)
        self._label = label or (lambda index: "item")
        self._show = show
        self.checked = 0

    def check(self, item: Item) -> None:
        """Compare the next item; Mismatch names index, label, what came and what was expected."""
        index = self.checked
        if index >= len(self._expected):
            raise Mismatch(f"item {index} is one too many: got {self._show(item)} after all "
                           f"{len(self._expected)} expected items")
        want = self._expected[index]
        if item != want:
            raise Mismatch(f"item {index} of {len(self._expected)} ({self._label(index)}) differs: "
                           f"got {self._show(item)}, expected {self._show(want)}")
        self.checked += 1

    @property
    def missing(self) -> int:
        """Expected items that have not come yet."""
        return len(self._expected) - self.checked

    @property
    def drained(self) -> bool:
        """True when every expected item came."""
        return self.missing == 0

    def finish(self) -> None:
        """Mismatch unless every expected item came: "3 of 20 missing, the first is item 17 (...)"."""
        if self.missing:
            index = self.checked
            raise Mismatch(f"{self.missing} of {len(self._expected)} missing, the first is item {index} "
                           f"({self._label(index)}): expected {self._show(self._expected[index])}")
