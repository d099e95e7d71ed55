"""The multiplier proof: it finds each operator in hand-written Verilog, and none in a generated machine."""
from pathlib import Path

import pytest

from hwgen.config import MachineConfig
from hwgen.emit import emit
from hwgen.multipliers import OPERATORS_FILE, VerilogError, main, multipliers, operators, saved
from model.config import SITES, MaskingConfig, ModelConfig
from quantize.random_network import random_network

pytest.importorskip("pyverilog", reason="pyverilog is missing: pip install -e .[test]")

SNIPPET = """(* generator = "by hand",
   top = 1 *)
module first(a, b, c, y, \\z$1 );
  input [7:0] a, b; input c; output [15:0] y; output [15:0] \\z$1 ;
  wire [15:0] w;
  (* keep *)
  assign w = c ? a * b : 16'h0;
  assign y = w + 16'd1 - {8'h00, a};
  reg [15:0] r;
  always @* begin
    r = y;
    if (a < b) r = y % 16'd3;
  end
  assign \\z$1 = r >> c;
endmodule
module second(a, y);
  input [7:0] a; output [7:0] y;
  assign y = (a / 8'd2) ** 2;
endmodule
"""


def test_each_kind_is_found_with_its_place() -> None:
    found = operators(SNIPPET)
    assert sorted((entry.module, entry.line) for entry in found.multiplications) == [
        ("first", 7), ("first", 12), ("second", 18), ("second", 18)]
    product = next(entry for entry in found.multiplications if entry.line == 7)
    assert product.expression.replace(" ", "").strip("()") == "a*b"
    assert found.counts["first"] == {"multipliers": 2, "adders": 2, "comparators": 1, "shifters": 1}
    assert found.counts["second"]["multipliers"] == 2
    assert found.total("multipliers") == 4
    assert multipliers(SNIPPET) == found.multiplications


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "design.v"
    path.write_text(SNIPPET)
    assert main([str(path)]) == 1
    assert f"{path}:7: first: " in capsys.readouterr().out
    found = saved(path)
    assert found is not None and len(found.multiplications) == 4
    path.write_text(SNIPPET.replace(" * ", " & "))
    assert saved(path) is None, "an older file's count must not stand for this one"


@pytest.mark.parametrize(("text", "message"), [
    (None, "cannot be read"), ("module broken(; endmodule", "not the Verilog of this generator"),
    ("module unfinished(a); input a;", "not the Verilog of this generator")])
def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None,
                               message: str) -> None:
    path = tmp_path / "design.v"
    if text is not None:
        path.write_text(text)
    assert main([str(path)]) == 2
    out = capsys.readouterr()
    assert message in out.err and out.err.count("\n") == 1 and out.out == ""


def test_a_missing_parser_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyverilog.vparser.parser", None)
    with pytest.raises(VerilogError, match=r"^pyverilog is missing: install it with"):
        multipliers(SNIPPET)


@pytest.mark.slow
def test_a_generated_machine_has_no_multiplier(tmp_path: Path) -> None:
    """All modules, the host's registers too; every unit is there, and they do hold adders and comparators."""
    model = ModelConfig(image_size=4, in_channels=1, classes=2, patch=2, embedding=4, depths=(1,), heads=(1,), window=2,
                        mlp_ratio=1.0, levels=3)
    machine = MachineConfig(lanes=8, fire_lanes=2, planes=2, head_lanes=4, window_tokens=4, attention_rows=1)
    build = emit(random_network(model, 1), machine, MaskingConfig(sites=SITES, ratio=0.75), tmp_path)
    assert main([str(build.verilog)]) == 0
    found = saved(build.verilog)
    assert found is not None and (tmp_path / OPERATORS_FILE).exists()
    assert found.multiplications == [] and found.total("multipliers") == 0
    assert found.total("adders") > 20 and found.total("comparators") > 20
    names = " ".join(found.counts)
    assert all(unit in names for unit in ("lanes", "fire", "extract", "attention", "csr", "sequencer")), names
