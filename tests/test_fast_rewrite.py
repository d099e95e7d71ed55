"""sim/fast/rewrite.py and roll.py: what they say in other words, and what they leave alone. That it means the same is what the
runs of tests/test_fast_rtl.py show, against the golden model."""
import re

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hwgen.config import MachineConfig
from hwgen.lanes import LaneArray
from hwgen.popcount import popcount
from hwgen.verilog import convert
from sim.fast.rewrite import counted, streamed
from sim.fast.roll import rolled

LANES = 16


@pytest.fixture(scope="module")
def lanes() -> str:
    """Verilog of a lane array."""
    return convert(LaneArray(MachineConfig(lanes=LANES, rows_per_cycle=2, planes=3, weight_bits=8, acc_bits=20)), "lanes")


def loops(verilog: str) -> set[str]:
    return set(re.findall(r"begin : roll_(\w+)", verilog))


def test_the_lanes_become_loops(lanes: str) -> None:
    text = rolled(lanes)
    assert loops(text) == {"shifted0_", "shifted1_", "sum", "acc"}
    assert re.findall(r"begin : take_(\w+)", text) == ["row0_", "row1_"]  # a slice of a word for each lane: no loop, but an array
    assert f"reg [19:0] acc_lanes [0:{LANES - 1}];" in text and not re.search(r"\bacc\d+\b", text)
    assert text.count("unroll_disable") == 4


@pytest.mark.parametrize(("found", "put", "left"), [
    (r"(\$signed\(shifted0_5\)) \+", r"\1 -", {"shifted0_", "shifted1_", "acc"}),  # another operator in one lane
    (r"(shifted0_)5(\) \+)", r"\g<1>6\2", {"shifted0_", "shifted1_", "acc"}),      # another lane's register
    (r"(acc)5( <= \\\$\d+ +)\[19:0\]", r"\g<1>5\2[20:1]", {"shifted0_", "shifted1_", "sum"}),
    (r"(posedge )lanes7_clk(\)\n    sum5 )", r"\1clk\2", {"shifted0_", "shifted1_"}),  # another clock: nor can `acc` read it
    (r"sum5 = 11'h000", "sum5 = 11'h001", {"shifted0_", "shifted1_"}),             # another first value
])
def test_a_lane_that_differs_stays(lanes: str, found: str, put: str, left: set[str]) -> None:
    wrong, times = re.subn(found, put, lanes)
    assert times == 1
    assert loops(rolled(wrong)) == left


def test_a_reset_beside_it_is_no_such_register(lanes: str) -> None:
    wrong = re.sub(r"(      sum|      acc)5 <= (.*?);\n    end\n", r"\g<0>    if (rst) begin\n\g<1>5 <= 0;\n    end\n", lanes)
    assert wrong != lanes and "acc" not in loops(rolled(wrong))


def test_few_registers_stay() -> None:
    few = convert(LaneArray(MachineConfig(lanes=8, rows_per_cycle=1, planes=1)), "lanes")
    assert rolled(few) == few


def test_reversed_bits_become_a_stream() -> None:
    bits = ", ".join(f"v[{bit}]" for bit in range(8))
    assert streamed(f"assign a = {{ {bits} }};") == "assign a = {<<{ v[7:0] }};"
    for other in (bits.replace("v[3]", "v[4]"), bits.replace("v[3]", "w[3]"), bits.replace(", v[7]", ""), bits + ", 1'h0"):
        assert streamed(f"assign a = {{ {other} }};") == f"assign a = {{ {other} }};"


class Counts(wiring.Component):
    """`ones` of `bits`."""

    def __init__(self, width: int) -> None:
        super().__init__({"bits": In(width), "taken": Out(width.bit_length())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.taken.eq(popcount(m, list(self.bits), "all"))
        return m


def test_full_adders_become_one_count() -> None:
    text = convert(Counts(9), "counts")
    new = counted(text)
    assert new.count("$countones") == 1 and "assign all_ones = $countones(all_counted);" in new
    assert re.search(r"taken <= all_ones;", new) or re.search(r"= all_ones;", new)
    one, = re.findall(r"all_ones = (\{ .*? \})", text)
    assert one in counted(text.replace(f"<= {one}", f"<= {one.replace('bit', 'bat')}")).replace("bat", "bit")


@pytest.mark.parametrize("width", [1, 2, 3, 6, 7, 10])
def test_the_full_adders_count(width: int) -> None:
    m = Module()
    bits, ones = Signal(width), Signal(8)
    m.d.comb += ones.eq(popcount(m, list(bits), "all"))

    async def bench(ctx) -> None:  # type: ignore[no-untyped-def]
        for value in range(1 << width):
            ctx.set(bits, value)
            assert ctx.get(ones) == value.bit_count()

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
