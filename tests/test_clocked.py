"""hwgen/clocked.py: which registers move into clocked blocks, and how. That nothing else changes is what all RTL benches show."""
import re

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.clocked import clocked
from hwgen.verilog import convert, converted

HEAD = "module top(clk, a, b);\n"
COMMON = """  reg \\$auto$verilog_backend.cc:2355:dump_module$1  = 0;
  reg [7:0] \\$3 ;
  reg [7:0] r = 8'h00;
  always @(posedge clk)
    r <= \\$3 ;
"""
BLOCK = """  always @* begin
    if (\\$auto$verilog_backend.cc:2355:dump_module$1 ) begin end
    \\$3  = r;
    if (a) begin
      \\$3  = \\$2 [7:0];
    end
  end
"""
MOVED = """module top(clk, a, b);
  reg \\$auto$verilog_backend.cc:2355:dump_module$1  = 0;
  reg [7:0] r = 8'h00;
  always @(posedge clk) begin
    if (a) begin
      r <= \\$2 [7:0];
    end
  end
endmodule
"""


def test_a_next_value_moves_to_the_clock_edge() -> None:
    assert clocked(HEAD + COMMON + BLOCK + "endmodule\n") == MOVED
    assert clocked(MOVED) == MOVED


@pytest.mark.parametrize("more", [
    "  assign b = \\$3 [0];\n",  # read by another
    "  always @(posedge clk)\n    s <= \\$3 ;\n",  # the next value of two registers
])
def test_a_value_that_something_else_reads_stays(more: str) -> None:
    text = HEAD + COMMON + BLOCK + more + "endmodule\n"
    assert clocked(text) == text


def test_a_value_that_its_own_block_reads_stays() -> None:
    text = HEAD + COMMON + BLOCK.replace("\\$2 [7:0]", "\\$3  + 8'h01") + "endmodule\n"
    assert clocked(text) == text


def test_equal_names_of_other_modules_do_not_count() -> None:
    other = "module other(c);\n  wire [7:0] \\$3 ;\n  assign c = \\$3 ;\nendmodule\n"
    assert clocked(HEAD + COMMON + BLOCK + "endmodule\n" + other) == MOVED + other


class Counter(wiring.Component):
    enable: In(1)
    value: Out(4)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.enable):
            m.d.sync += self.value.eq(self.value + 1)
        return m


def test_what_amaranth_writes_is_recognised() -> None:
    """The pinned Amaranth's form: were it another, all would silently stay as it is."""
    before, after = converted(Counter(), "top"), convert(Counter(), "top")
    assert "always @*" in before and "always @(posedge clk) begin\n" not in before
    assert "always @*" not in after and "always @(posedge clk) begin\n" in after


class Elements(wiring.Component):
    """A register of two elements, which go round."""

    out: Out(8)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        both = Signal(data.ArrayLayout(4, 2))
        m.d.sync += [both[0].eq(both[1]), both[1].eq(both[0] + 1)]
        m.d.comb += self.out.eq(both)
        return m


def test_no_name_looks_like_a_bit_of_another() -> None:
    """Of such names Yosys 0.70 dies (hwgen/verilog.py)."""
    before, after = converted(Elements(), "top"), convert(Elements(), "top")
    assert re.search(r"\\\S+\[1\]", before)
    assert not re.search(r"\\\S+\[", after) and r"\both_1_" in after
