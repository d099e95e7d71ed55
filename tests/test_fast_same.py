"""What `sim.fast.rewrite` makes of a unit is the unit: the emitted Verilog and the rewritten one side by side in one Verilator
model, with random inputs, every output compared in every cycle. Beside them a copy with one mistake, which must be seen."""
import subprocess
from pathlib import Path

import pytest
from amaranth.hdl import Shape
from amaranth.lib.wiring import Component, In

import hwgen.weights
from hwgen.clock_gate import GATE, MACRO
from hwgen.config import MachineConfig
from hwgen.descriptors import GEMM, layout
from hwgen.extract import Extractor
from hwgen.lanes import LaneArray
from hwgen.verilog import convert
from hwgen.weights import WeightMemory
from sim.fast.latch import LATCHED
from sim.fast.rewrite import rewritten
from sim.runner import build_program

pytestmark = pytest.mark.slow

CYCLES = 20_000
ROWS = 16
"""Of a bank of the weight memory: few, to be compiled fast."""
RARE = ("start", "stop")
"""Inputs that are 1 in one cycle of 32."""
FIELDS = {"padding": 0, "side": ~0, "signed": 0, "first_bit": 2}
"""What a GEMM descriptor says beside random numbers, so that most words are read. It changes only with `start`."""
MAIN = """
#include <cstdio>
#include <random>
#include "Vmst_fast.h"
int main() {
    Vmst_fast top;
    std::mt19937 random(1);
    unsigned long differ[2] = {};
    for (int cycle = 0; cycle < CYCLES; ++cycle) {
        for (auto& word : top.stimulus.m_storage) word = random();
        top.rst = cycle < 2;
        top.eval();
        differ[0] += !top.same;
        differ[1] += !top.same_as_wrong;
        top.clk ^= 1;
        top.rises = 1;
        top.eval();
        top.rises = 0;
        top.eval();
    }
    std::printf("%lu %lu\\n", differ[0], differ[1]);
}
"""


def top(unit: Component) -> str:
    """Verilog of a model with three copies of `unit`: modules "emitted", "rewritten", "wrong"."""
    ports = [("__".join(map(str, path)), member.flow, Shape.cast(member.shape).width)
             for path, member, _ in unit.signature.flatten(unit)]
    lines, inputs, used = [], [], 0
    for name, flow, width in ports:
        if flow is In and name == "desc":
            lines += [f"  reg [{width - 1}:0] desc;", f"  always @(posedge rises) if (start) desc <= {_descriptor(used)};"]
            inputs.append(".desc(desc)")
            used += width
        elif flow is In:
            lines.append(f"  wire [{width - 1}:0] {name} = stimulus[{used + width - 1}:{used}]"
                         + (f" & {{{width}{{ &stimulus[{used + width + 4}:{used + width}] }}}};" if name in RARE else ";"))
            inputs.append(f".{name}({name})")
            used += width + 5
    for copy in ("emitted", "rewritten", "wrong"):
        outputs = [f".{name}({copy}_{name})" for name, flow, _ in ports if flow is not In]
        lines += [f"  wire [{width - 1}:0] {copy}_{name};" for name, flow, width in ports if flow is not In]
        clock = "rises" if copy == "emitted" else "1'h1"
        lines.append(f"  {copy} unit_{copy} ({', '.join([*inputs, *outputs, f'.clk({clock})', '.rst(rst)'])});")
    outputs = [name for name, flow, _ in ports if flow is not In]
    for result, copy in (("same", "rewritten"), ("same_as_wrong", "wrong")):
        lines.append(f"  assign {result} = " + " & ".join(f"(emitted_{name} === {copy}_{name})" for name in outputs) + ";")
    head = f"module {LATCHED} (input clk, input rises, input rst, input [{max(used, 65) - 1}:0] stimulus, "
    return head + "output same, output same_as_wrong);\n" + "\n".join(lines) + "\nendmodule\n"


def _descriptor(used: int) -> str:
    """Verilog of a random descriptor out of the stimulus, from bit `used` on."""
    parts = []
    for name, field in layout(GEMM):
        high = used + field.offset + field.width - 1
        parts.append(f"{field.width}'d{FIELDS[name] % (1 << field.width)}" if name in FIELDS
                     else f"stimulus[{high}:{high - field.width + 1}]")
    return f"{{ {', '.join(reversed(parts))} }}"


MACHINE = MachineConfig(lanes=32, rows_per_cycle=2, planes=3, weight_bits=8, acc_bits=20)
UNITS = {
    "lanes": (lambda: LaneArray(MACHINE), "shifted0__lanes[i]", "shifted0__lanes[0]"),
    "extract": (lambda: Extractor(MACHINE), "entry_bits1_backwards[15:0] &", "entry_bits1_backwards[16:1] &"),
    "weights": (lambda: WeightMemory(width=128, depth=4 * ROWS + 5, ports=2), "next_data1_1 | taken1_1_2",
                "next_data1_1 | taken1_1_1"),
}


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_and_what_is_made_of_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hwgen.weights, "BANK_ROWS", ROWS)
    make, right, wrong = UNITS[name]
    texts = [top(make()), convert(make(), "emitted")]
    for copy in ("rewritten", "wrong"):
        text = rewritten(convert(make(), copy)).replace(GATE, f"{copy}_gate")
        if copy == "wrong":
            assert right in text, "nothing to spoil"
            text = text.replace(right, wrong, 1)
        texts.append(text)
    (tmp_path / "all.v").write_text("\n".join(texts))
    (tmp_path / "main.cpp").write_text(MAIN)
    program = build_program(name="same", toplevel=LATCHED, sources=[tmp_path / "all.v", tmp_path / "main.cpp"], includes=[],
                            build_dir=tmp_path / "build", optimise="-O1",
                            args=["-CFLAGS", f"-DCYCLES={CYCLES}", f"-D{MACRO}", "--x-initial", "fast", "--x-assign", "fast"])
    said = subprocess.run([program], capture_output=True, text=True, check=True, timeout=100).stdout.split()
    assert int(said[0]) == 0, f"{said[0]} of {CYCLES} cycles differ"
    assert int(said[1]) > 0, "the mistake was not seen"
