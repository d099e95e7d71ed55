"""Very deep weight memories: the generator joins hundreds of banks without running into Python's recursion limit."""
import pytest
from amaranth.hdl import Elaboratable, Fragment, Signal
from amaranth.hdl._ast import Operator

from hwgen.weights import CHAIN, WeightMemory, joined


def chained(memory: Elaboratable) -> int:
    """Depth of the deepest expression in the memory's own statements."""
    fragment = Fragment.get(memory, None)
    deepest = 0
    every = [statement for statements in fragment.statements.values() for statement in statements]
    left = [(statement.rhs, 1) for statement in every if hasattr(statement, "rhs")]
    while left:
        node, depth = left.pop()
        deepest = max(deepest, depth)
        left += [(part, depth + 1) for part in (node.operands if isinstance(node, Operator) else ())]
    return deepest


def test_a_memory_of_more_banks_than_python_recurses_into_has_shallow_expressions() -> None:
    assert chained(WeightMemory(width=2, depth=400 * 1024, ports=1, gates=False)) < 3 * CHAIN


@pytest.mark.parametrize("count", [1, 2, CHAIN, CHAIN + 1, 200, 5000])
def test_joined_is_the_or_of_all_parts(count: int) -> None:
    signals = [Signal(name=f"s{index}") for index in range(count)]
    used, left = [], [joined(signals)]
    while left:
        node = left.pop()
        if isinstance(node, Signal):
            used.append(node.name)
        else:
            assert isinstance(node, Operator) and node.operator == "|"
            left += node.operands
    assert sorted(used) == sorted(signal.name for signal in signals)
