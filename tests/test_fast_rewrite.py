"""sim/fast/rewrite.py and what it puts together: what they say in other words, what they leave alone, what they
refuse. That it means the same is what the runs of tests/test_fast_rtl.py show, against the golden model."""
import re

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hwgen import clock_gate
from hwgen.config import MachineConfig
from hwgen.lanes import LaneArray
from hwgen.popcount import popcount
from hwgen.verilog import convert
from sim.fast.clocks import unclocked
from sim.fast.memories import enabled
from sim.fast.merge import merged
from sim.fast.rewrite import counted
from sim.fast.roll import rolled
from sim.fast.select import selected
from sim.fast.stream import streamed

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


def module(*lines: str) -> str:
    return "module m(clk, out);\n  input clk;\n  wire clk;\n" + "".join(f"  {line}\n" for line in lines) + "endmodule\n"


def test_reversed_bits_become_a_stream() -> None:
    bits = ", ".join(f"v[{bit}]" for bit in range(8))
    assert streamed(module(f"assign a = {{ {bits} }};")) == module("assign a = {<<{ v[7:0] }};")
    assert streamed(module(f"assign a = {{ {bits}, {bits.replace('v', 'w')}, x }};")) == module(
        "assign a = { {<<{ w[7:0], v[7:0] }}, x };")
    for other in (bits.replace("v[3]", "v[4]"), bits.replace("v[3]", "w[3]"), bits.replace(", v[7]", "")):
        assert streamed(module(f"assign a = {{ {other} }};")) == module(f"assign a = {{ {other} }};")
    target = module(f"assign {{ {bits} }} = a;")
    assert streamed(target) == target


def test_parts_of_a_vector_come_from_one_reverse() -> None:
    vector = r"wire [15:0] \$1 ;"
    parts = [", ".join(rf"\$1 [{bit}]" for bit in range(low, low + 8)) for low in (0, 8)]
    assert streamed(module(vector, *(f"assign a = {{ {part} }};" for part in parts))) == module(
        vector, r"assign a = \$1_backwards [15:8];", r"assign a = \$1_backwards [7:0];",
        r"wire [15:0] \$1_backwards ;", r"assign \$1_backwards  = {<<{ \$1  }};")


def test_the_same_term_is_said_once() -> None:
    for term in ("b", "v[3]", r"\$1 "):
        assert streamed(module(f"assign a = {{ {', '.join([term] * 9)} }};")) == module(f"assign a = {{9{{ {term} }}}};")
        assert "{9{" not in streamed(module(f"assign a = {{ {', '.join([term] * 8 + ['c', term])} }};"))


def test_a_whole_vector_is_no_bit_of_it() -> None:
    joined = f"{{ {', '.join(['v[1]'] * 9)}, v, {', '.join(['v[0]'] * 9)} }}"
    assert streamed(module(f"assign a = {joined};")) == module("assign a = { {9{ v[1] }}, v, {9{ v[0] }} };")


TWICE = (r"wire [3:0] \$1 ;", r"wire [3:0] \$2 ;", "reg one = 1'h0;", "reg two = 1'h0;",
         r"assign \$1  = v + w;", r"assign \$2  = v + w;",
         "always @(posedge clk)\n    one <= v[0];", "always @(posedge clk)\n    two <= v[0];", r"assign out = { \$2 , two };")


def test_what_is_the_same_is_one() -> None:
    assert merged(module(*TWICE)) == module(TWICE[0], TWICE[2], TWICE[4], TWICE[6], r"assign out = { \$1 , one };")


def test_an_escaped_name_in_place_of_a_plain_one_ends() -> None:
    text = module(r"reg \en$1  = 1'h0;", "reg en = 1'h0;", "always @(posedge clk)\n    \\en$1  <= v;",
                  "always @(posedge clk)\n    en <= v;", ".in(en),", "assign out = { en, v };")
    assert merged(text) == module(r"reg \en$1  = 1'h0;", "always @(posedge clk)\n    \\en$1  <= v;",
                                  r".in(\en$1 ),", r"assign out = { \en$1 , v };")


def test_what_becomes_the_same_is_one() -> None:
    wires = (rf"wire [3:0] \${number} ;" for number in range(3, 7))
    text = module(*TWICE, *wires, r"assign \$4  = ~ \$3 ;", r"assign \$3  = \$1  & v;",
                  r"assign \$6  = ~ \$5 ;", r"assign \$5  = \$2  & v;", r"assign x = \$6 ;")
    assert r"assign x = \$4 ;" in merged(text) and r"\$5" not in merged(text)


@pytest.mark.parametrize(("old", "new", "stay"), [
    (r"[3:0] \$2 ", r"signed [3:0] \$2 ", (r"\$2 ",)), (r"\$2  = v + w", r"\$2  = v - w", (r"\$2 ",)),
    (r"\$2  = v + w", r"\$2  = w + v", (r"\$2 ",)), ("two = 1'h0", "two = 1'h1", ("two",)),
    ("two <= v[0]", "two <= v[1]", ("two",)), ("reg two", "output two;\n  reg two", ("two",)),
    ("always @(posedge clk)\n    two", "always @(posedge other)\n    two", ("two",))])
def test_what_differs_is_not_one(old: str, new: str, stay: tuple[str, ...]) -> None:
    text = module(*TWICE)
    assert text.count(old) == 1
    new_text = merged(text.replace(old, new))
    assert [name for name in (r"\$2 ", "two") if name in new_text] == list(stay)


CHOICE = ("reg [7:0] data = 8'h00;", *(f"reg [7:0] word{number} = 8'h00;" for number in range(3)),
          *(rf"wire [7:0] \${number} ;" for number in range(6)),
          r"assign \$0  = word0 & {8{ bit0 }};", r"assign \$1  = word1 & {8{ bit1 }};", r"assign \$2  = word2 & {8{ bit2 }};",
          r"assign \$3  = \$0 ;", r"assign \$4  = \$3  | \$1 ;", r"assign \$5  = \$4  | \$2 ;",
          "always @(posedge clk)\n    data <= \\$5 ;")


def test_a_choice_of_words_becomes_ifs() -> None:
    text = selected(module(*CHOICE))
    assert re.findall(r"if \((\w+)\) begin\n      next_data = next_data \| (\w+);", text) == [
        ("bit0", "word0"), ("bit1", "word1"), ("bit2", "word2")]
    assert text.count("data <=") == 1 and "    data <= next_data;" in text


@pytest.mark.parametrize(("old", "new"), [
    (r"\$5  = \$4  | \$2 ", r"\$5  = \$4  ^ \$2 "), (r"word1 & {8{ bit1 }}", "word1"), ("{8{ bit1 }}", "{4{ bit1 }}"),
    ("reg [7:0] word1 = 8", "reg [3:0] word1 = 4"),
    (r"wire [7:0] \$4 ", r"wire [3:0] \$4 "), ("reg [7:0] data = 8", "reg [3:0] data = 4")])
def test_another_choice_stays(old: str, new: str) -> None:
    text = module(*CHOICE)
    assert text.count(old) == 1
    text = text.replace(old, new)
    assert selected(text) == text


def memories(count: int) -> str:
    """A module of `count` memories, and theirs."""
    parts = "".join(f"  part{number} memory{number} (\n    .clk(clk)\n  );\n" for number in range(count))
    return f"module top(clk);\n{parts}endmodule\n" + "".join(f"""module part{number} (clk, \\a$1 , b);
  reg [7:0] memory [3:0];
  always @(posedge clk) begin
    if (\\a$1 )
      memory[address] <= data;
  end
  always @(posedge clk) begin
    if (\\a$1 ) begin
      _0_ <= memory[address];
    end
    if (b) begin
      _1_ <= memory[address];
    end
  end
  always @(posedge clk) begin
    if (b) begin
      c <= d;
    end
    e <= f;
  end
endmodule
""" for number in range(count))


def test_many_memories_wait_for_their_enables() -> None:
    text = enabled(memories(8))
    assert re.findall(r"@\(.*\)", text) == [
        r"@(posedge clk iff \a$1 )", r"@(posedge clk iff \a$1  | b)", "@(posedge clk)"] * 8
    assert re.findall(r"@\(.*\)", unclocked(text.replace("  reg [7:0] m", "  input clk;\n  reg [7:0] m")
                                            .replace("top(clk);\n", "top(clk);\n  input clk;\n")))[:3] == [
        r"@(edge mst_fast.clk iff clk & (\a$1 ))", r"@(edge mst_fast.clk iff clk & (\a$1  | b))", "@(edge mst_fast.clk iff clk)"]


def test_few_memories_stay() -> None:
    assert enabled(memories(7)) == memories(7)


GATED = """module top(clk, rst, d, q);
  input clk;
  wire clk;
  wire slow_clk;
  wire enable;
  mst_clock_gate slow_gate (
    .clk(clk),
    .enable(enable),
    .gated(slow_clk)
  );
  \\part  part (
    .d(d),
    .slow_clk(slow_clk)
  );
  always @(posedge clk)
    q <= d;
endmodule

module \\part (slow_clk, d);
  input slow_clk;
  wire slow_clk;
  always @(posedge slow_clk) begin
    e <= d;
  end
endmodule
""" + clock_gate.VERILOG


def test_clocks_become_enables() -> None:
    text = unclocked(GATED)
    assert re.findall(r"@\(.*\)", text) == ["@(edge mst_fast.clk iff clk)", "@(edge mst_fast.clk iff slow_clk)"]
    assert "assign gated = clk & enable;" in text and "open" not in text and "`ifdef" not in text


@pytest.mark.parametrize(("old", "new", "message"), [
    (".d(d)", ".d(slow_clk)", "module top: slow_clk is a clock and more"),
    ("q <= d", "q <= clk", "module top: clk is a clock and more"),
    ("e <= d", "e <= { slow_clk, d }", r"module \\part: slow_clk is a clock and more"),
    ("@(posedge clk)", "@(negedge clk)", r"module top: @\(negedge clk\) is no clock edge"),
    ("@(posedge slow_clk)", "@(posedge slow_clk, posedge d)", r"module \\part: @\(posedge slow_clk, posedge d\) is no clock"),
    ("@(posedge clk)", "@(posedge enable)", "module top: clock enable is no input and no gate's output"),
    (".gated(slow_clk)", ".gated(other)", "module top: clock slow_clk is no input and no gate's output"),
    ("  wire enable;", "  assign slow_clk = enable;", "module top: slow_clk is a clock and more")])
def test_other_clocks_are_refused(old: str, new: str, message: str) -> None:
    assert GATED.count(old) == 1
    with pytest.raises(ValueError, match=message):
        unclocked(GATED.replace(old, new))


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
