"""The emitted files in a foreign design: two machines at once, file lists from any folder, Verilator's lint with our waivers."""
import os
import re
import subprocess
from pathlib import Path

import pytest

from hwgen.__main__ import main
from hwgen.config import MachineConfig
from hwgen.emit import WAIVER_TEXT, Build, emit, emit_mmio, emit_named
from model.config import ConfigError, MaskingConfig, ModelConfig
from quantize.random_network import random_network
from sim.runner import find_simulator

MODEL = ModelConfig(image_size=8, in_channels=3, classes=5, patch=2, embedding=8, depths=(1, 1), heads=(1, 2), window=2,
                    mlp_ratio=2.0, levels=7)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path_factory.mktemp("a folder")
    return emit(random_network(MODEL, 3), MachineConfig(lanes=8, fire_lanes=4), MaskingConfig(), folder)


def lint(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    """Verilator's exit code and warnings, started in `folder`."""
    tool = find_simulator()
    done = subprocess.run([str(tool.program), "--lint-only", "-Wall", *arguments], cwd=folder, env={**os.environ, **tool.env},
                          capture_output=True, text=True, check=False)
    return done.returncode, re.findall(r"^%(?:Warning|Error)-\w+: .*|^%Error: (?!Exiting).*", done.stderr, re.MULTILINE)


def test_lint_is_silent_with_the_waivers_and_not_without(build: Build, tmp_path: Path) -> None:
    top = ("--top-module", "mst_accelerator", "-f", str(build.folder / "filelist.f"))
    assert lint(tmp_path, str(build.folder / "lint.vlt"), *top) == (0, [])
    code, warned = lint(tmp_path, *top)
    assert code and {line.split(":")[0].partition("-")[2] for line in warned} == set(re.findall(r"-rule (\w+)", WAIVER_TEXT)), \
        "a waiver that nothing needs, or a warning that it does not name"


@pytest.mark.parametrize(("fault", "rule"), [
    ("wire lost; assign out = lost;", "UNDRIVEN"), ("wire [3:0] wide = 4'd9; assign out = wide;", "WIDTHTRUNC"),
    ("reg held; always @* if (in) held = 1'b0; assign out = held;", "LATCH")])
def test_a_real_fault_is_still_told(build: Build, tmp_path: Path, fault: str, rule: str) -> None:
    (tmp_path / "faulty.v").write_text(f"module faulty(input in, output out);\n  {fault}\nendmodule\n")
    code, warned = lint(tmp_path, str(build.folder / "lint.vlt"), "faulty.v")
    assert code and any(f"-{rule}:" in line for line in warned), warned


def test_two_machines_fit_into_one_design(build: Build, tmp_path: Path) -> None:
    before = build.verilog.read_bytes()
    other = emit(random_network(MODEL, 4), MachineConfig(lanes=16, fire_lanes=4), MaskingConfig(), tmp_path / "other")
    lists = []
    for name, made in (("left", build), ("right", other)):
        files = emit_named(made, name, emit_mmio(made))
        assert [file.name for file in files] == [f"{name}.v", f"{name}_mmio.v"]
        for file in files:
            modules = re.findall(r"^module \\?(\S+?)[ (]", file.read_text(), re.MULTILINE)
            assert all(module.startswith(name) for module in modules) and file.stem in modules and len(modules) > 10
        lists += ["-f", str(made.folder / "filelist.f")]
    assert build.verilog.read_bytes() == before, "the machine of the default name stays as it was"
    (tmp_path / "pair.v").write_text("module pair(input clk, input rst, output a, output b);\n"
                                     "  left_mmio left (.clk(clk), .rst(rst), .irq(a));\n"
                                     "  right_mmio right (.clk(clk), .rst(rst), .irq(b));\nendmodule\n")
    code, warned = lint(tmp_path, str(build.folder / "lint.vlt"), "-Wno-PINMISSING", "--top-module", "pair", *lists, "pair.v")
    assert (code, warned) == (0, [])
    emit(random_network(MODEL, 3), build.machine, MaskingConfig(), build.folder)
    assert (build.folder / "filelist.f").read_text().strip().strip('"').endswith("mst_accelerator.v")


@pytest.mark.parametrize("name", ["mst_accelerator", "mst_clock_gate", "1st", "a-b", "a b", "é", ""])
def test_names_that_are_no_good_are_refused(build: Build, name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--name must be a Verilog name"):
        emit_named(build, name)
    arguments = ["emit", "--config", "configs/fashion-tiny.toml", "-o", str(tmp_path / "out"), f"--name={name}"]
    assert main(arguments) == 2
    assert "--name must be a Verilog name" in capsys.readouterr().err and not (tmp_path / "out").exists()
