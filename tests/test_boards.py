"""hwgen/boards.py and hwgen/pynq.py: the flow with stand-ins for the tools, the boards' files, every message."""
import json
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from firmware.host.driver import HostError
from hwgen import boards, pynq
from hwgen import emit as hwgen_emit
from hwgen.boards import BOARDS, bitstream, main, program, report_text
from hwgen.config import machine_config
from hwgen.registers import MAGIC, VERSION, WINDOW_MAGIC, address_map
from hwgen.synth import SynthError
from hwgen.uart_machine import UART_TOP
from model import config as configuration
from quantize import network as network_file
from quantize.random_network import random_network
from sim.runner import find_simulator

ROOT = Path(__file__).resolve().parent.parent
TOOLS = {
    "yosys": """import json, pathlib, sys
if "--version" in sys.argv: print("Yosys 1"); sys.exit()
pathlib.Path("calls").open("a").write("yosys ")
pathlib.Path("netlist.json.part").write_text(json.dumps({"modules": {"top": {"cells": {"x": {"type": "LUT4", "parameters": {},
    "port_directions": {"Z": "output"}, "connections": {"Z": [5]}}}, "netnames": {}, "ports": {}}}}))
pathlib.Path("cells.json").write_text(json.dumps({"design": {"num_cells_by_type": {"LUT4": 1}}}))
""",
    "nextpnr": """import json, pathlib, sys
if "--version" in sys.argv: print("nextpnr 1"); sys.exit()
pathlib.Path("calls").open("a").write("route ")
if pathlib.Path("broken").exists(): sys.exit(print("ERROR: no route") or 1)
seed = int(sys.argv[sys.argv.index("--seed") + 1])
path = [{"delay": 11.0, "from": {"cell": "machine.machine.fire.v"}, "to": {"cell": "machine.machine.csr.error"}}]
print("Max frequency for clock 'clk': 85.5 MHz")
pathlib.Path(sys.argv[sys.argv.index("--report") + 1]).write_text(json.dumps({"fmax": {"$clk": {"achieved": 70.0 + 10 * seed}},
    "utilization": {"TRELLIS_COMB": {"used": 128}},
    "critical_paths": [{"from": "posedge $clk", "to": "posedge $clk", "path": path}]}))
pathlib.Path([flag for flag in sys.argv if flag.endswith(".placed")][0]).write_text("placed")
""",
    "pack": """import pathlib, sys
pathlib.Path("calls").open("a").write("pack ")
pathlib.Path([flag for flag in sys.argv if flag.endswith((".bit", ".fs"))][0]).write_text("bits")
"""}


def no_verilog(design: Any, name: str) -> str:
    """In the place of the conversion, which takes seconds."""
    for part in (design, getattr(design, "accelerator", design), getattr(design, "bridge", design)):
        part._MustUse__used = True
    return f"module {name}; endmodule\n"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tools that count their calls; builds go to a folder of the test's own. Returns that of the ULX3S."""
    for name, text in (("yosys", "yosys"), ("nextpnr-ecp5", "nextpnr"), ("nextpnr-himbaechel-gowin", "nextpnr"),
                       ("ecppack", "pack"), ("gowin_pack", "pack")):
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!{sys.executable}\n{TOOLS[text]}")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr(boards, "ROOT", tmp_path / "boards")
    monkeypatch.setattr(boards, "convert", no_verilog)
    monkeypatch.setattr(hwgen_emit, "convert", no_verilog)
    return tmp_path / "boards" / "ulx3s"


def made(*seeds: int, name: str = "ulx3s") -> dict[str, Any]:
    """The report of a board's bitstream, with random weights."""
    config = configuration.load(BOARDS[name].config)
    return bitstream(BOARDS[name], random_network(config.model, 1), seeds, config, "random weights 1")


def test_the_best_seed_is_packed_and_reported(tools: Path) -> None:
    report = made(1, 3, 2)
    assert (tools / "calls").read_text() == "yosys route route route pack "
    assert (report["best_seed"], report["fmax_mhz"], report["bitstream"]) == (3, 100.0, "ulx3s.bit")
    assert (tools / "ulx3s.bit").read_text() == "bits" and (tools / "network.bin").is_file()
    used = json.loads((tools / "report.json").read_text())["used"]
    assert used == {"luts": 1, "registers": 0, "block_rams": 0, "multipliers": 0}
    text = (tools / "report.md").read_text()
    assert text.startswith("# Radiona ULX3S 85F (Lattice LFE5U-85F-6BG381C): random weights 1\n")
    assert "best seed 100.0 MHz" in text and "| 2 | 90.0 |" in text and "machine.fire.v -> machine.csr.error" in text


def test_steps_that_are_done_are_not_done_again(tools: Path) -> None:
    for seeds in ((1,), (1, 2)):
        made(*seeds)
    assert (tools / "calls").read_text() == "yosys route pack route pack "
    (tools / "route-1.placed").unlink()
    made(1)
    assert (tools / "calls").read_text().endswith("route pack route pack ")


def test_a_clock_that_is_not_met_gives_no_bitstream(tools: Path) -> None:
    made(1)
    assert (tools / "ulx3s.bit").exists()
    with pytest.raises(SynthError, match=r"ulx3s: the best of seeds 0 reaches 70.0 MHz, not 80 .*--seeds 4,5,6"):
        made(0)
    assert not (tools / "ulx3s.bit").exists() and "none: the clock was not met" in (tools / "report.md").read_text()


def test_the_second_board_takes_the_same_way(tools: Path) -> None:
    board = BOARDS["primer20k"]
    report = made(1, name="primer20k")
    assert report["bitstream"] == "primer20k.fs" and "not to be believed" in report_text(report, board)


def test_a_failed_tool_is_one_line(tools: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tools.mkdir(parents=True)
    (tools / "broken").touch()
    assert main(["bitstream", "--random-weights", "1", "--seeds", "1"]) == 2
    assert re.fullmatch(r"synth: nextpnr-ecp5 failed \(1\): ERROR: no route \(see .*\)\n", capsys.readouterr().err)


def test_program_says_what_is_missing(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["program", "--board", "ulx3s"]) == 2
    assert re.fullmatch(r"ulx3s: no .*ulx3s.bit: run make bitstream BOARD=ulx3s\n", capsys.readouterr().err)
    tools.mkdir(parents=True, exist_ok=True)
    (tools / "ulx3s.bit").write_text("bits")
    monkeypatch.setattr(boards.shutil, "which", lambda name: None)
    assert main(["program"]) == 2
    assert capsys.readouterr().err == "openFPGALoader was not found: apt-get install openfpgaloader\n"
    loader = tmp_path / "bin" / "openFPGALoader"
    for code in (0, 1):
        loader.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\nexit {code}\n")
        loader.chmod(0o755)
        monkeypatch.setattr(boards.shutil, "which", lambda name: str(loader))
        assert main(["program"]) == 2 * code
        assert (tmp_path / "asked").read_text().split()[:2] == ["-b", "ulx3s"]
    assert "openFPGALoader failed (1)" in capsys.readouterr().err
    with pytest.raises(SynthError, match="no .*primer20k.fs"):
        program(BOARDS["primer20k"])


@pytest.mark.parametrize("config", [*(board.config for board in BOARDS.values()), pynq.CONFIG], ids=str)
def test_a_board_s_network_is_there_and_of_its_shape(config: Path) -> None:
    found = configuration.load(ROOT / config)
    assert found.network.stem != found.name and network_file.load(found.network).model == found.model


@pytest.mark.parametrize("arguments", [["--network", "configs/cifar10-tiny.mstn"], ["--config", "nowhere.toml"],
                                       ["--network", "nowhere.mstn"]])
def test_bad_files_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bitstream", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_wrapper_and_constraints_name_the_same_pins(name: str) -> None:
    folder = ROOT / "rtl" / "boards" / name
    top = (folder / "top.v").read_text()
    declared = set()
    for size, port in re.findall(r"^  (?:input|output) (?:\[(\d+):0\] )?(\w+),?$", top, re.MULTILINE):
        declared |= {f"{port}[{bit}]" for bit in range(int(size) + 1)} if size else {port}
    text = (folder / BOARDS[name].constraints).read_text()
    located = re.findall(r'(?:LOCATE COMP|IO_LOC) "([^"]+)"', text)
    typed = re.findall(r'(?:IOBUF PORT|IO_PORT) "([^"]+)"', text)
    pins = re.findall(r'(?:SITE "|IO_LOC "[^"]+" )(\w+)', text)
    assert set(located) == set(typed) == declared and len(pins) == len(set(pins)) == len(declared)


def test_the_pll_gives_the_boards_clock() -> None:
    top = (ROOT / "rtl" / "boards" / "ulx3s" / "top.v").read_text()
    divide, feedback, output = (int(re.search(rf"\.{name}\((\d+)\)", top)[1])  # type: ignore[index]
                                for name in ("CLKI_DIV", "CLKFB_DIV", "CLKOP_DIV"))
    assert 25e6 / divide * feedback == BOARDS["ulx3s"].clock_hz
    assert 400e6 <= 25e6 / divide * feedback * output <= 800e6 and 25e6 / divide >= 3.125e6  # FPGA-DS-02012


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_the_wrapper_fits_the_machine(name: str, tmp_path: Path) -> None:
    """Verilator reads wrapper and machine together; the PLL is a stub."""
    from hwgen.uart_machine import UartMachine
    from hwgen.verilog import convert
    machine = machine_config(configuration.load(BOARDS[name].config).machine)
    from hwgen.config import MachineConfig
    small = MachineConfig(lanes=8, fire_lanes=1, attention_rows=1, bus_bytes=machine.bus_bytes, weight_rows=4, spike_words=4,
                          stream_words=4, param_words=4, rom_words=4, descriptors=4)
    source, stub = tmp_path / f"{UART_TOP}.v", tmp_path / "stub.v"
    source.write_text(convert(UartMachine(small, 1, BOARDS[name].divisor), UART_TOP))
    top = (ROOT / "rtl" / "boards" / name / "top.v").read_text()
    pins = re.findall(r"\.(\w+)\(", top[top.index(") pll ("):top.index("// reset")]) if ") pll (" in top else []
    numbers = re.findall(r"\.(\w+)\((\d+|\"[^\"]*\")\)", top[:top.index(") pll (")]) if pins else []
    outputs = {"CLKOP", "LOCK", "CLKINTFB"}
    stub.write_text("module EHXPLLL(" + ", ".join(f"{'output' if pin in outputs else 'input'} {pin}" for pin in pins) + ");\n" +
                    "".join(f"parameter {key} = {value};\n" for key, value in numbers) + "endmodule\n" if pins else "")
    tool = find_simulator("verilator")
    done = subprocess.run([str(tool.program), "--lint-only", "-Wno-fatal", "--top-module", "top", str(stub), str(source),
                           str(ROOT / "rtl" / "boards" / name / "top.v")], capture_output=True, text=True, check=False,
                          env={**tool.env, "PATH": tool.env.get("PATH", "/usr/bin:/bin")})
    wrong = [line for line in done.stderr.splitlines()
             if "top.v" in line and re.match(r"%Error|%Warning-(PIN|WIDTH|IMPLICIT)", line)]
    assert done.returncode == 0 and not wrong, done.stderr[-2000:]


def test_a_uart_that_the_clock_cannot_make_is_refused() -> None:
    from hwgen.uart import divisor
    assert divisor(80e6, 1_000_000) == 80 and divisor(27e6, 115_200) == 234
    with pytest.raises(ValueError, match="baud 12000000 is not within 2 %"):
        divisor(27e6, 12_000_000)


# -- PYNQ ----------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def pynq_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pynq")
    config = configuration.load(ROOT / "configs" / "primer20k.toml")  # a small machine: quicker
    pynq.generate(random_network(config.model, 1), config, folder)
    return folder


def test_the_ip_compiles_and_takes_an_active_low_reset(pynq_files: Path) -> None:
    tool = find_simulator("verilator")
    done = subprocess.run([str(tool.program), "--lint-only", "-Wno-fatal", "--top-module", "mst_axi",
                           str(pynq_files / "mst_axi.v"),
                           str(pynq_files / "mst_mmio.v")], capture_output=True, text=True, check=False,
                          env={**tool.env, "PATH": tool.env.get("PATH", "/usr/bin:/bin")})
    assert done.returncode == 0 and "mst_axi.v" not in done.stderr, done.stderr[-2000:]
    assert "rst <= ~s_axi_aresetn" in (pynq_files / "mst_axi.v").read_text()


def test_the_tcl_names_files_that_exist_and_says_that_it_was_not_run(pynq_files: Path) -> None:
    for name in ("package_ip.tcl", "block_design.tcl"):
        text = (pynq_files / name).read_text()
        assert "NOT RUN" in text.splitlines()[0] and "{{" not in text and text.count("{") == text.count("}")
        assert text.count("[") == text.count("]")
        for file in re.findall(r"\$here/(\w+\.v)", text):
            assert (pynq_files / file).is_file()
    assert "mst:user:mst_axi:1.0" in (pynq_files / "block_design.tcl").read_text()


def test_the_overlay_driver_drives(pynq_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a PYNQ of our own: the driver finds the registers, and refuses a machine that is not ours or of another build."""
    registers = address_map()
    words = {0: MAGIC, 4: VERSION, 0x100: WINDOW_MAGIC, registers["CAP_FORMAT"].offset: 4 << 24}

    class Mmio:
        def read(self, address: int) -> int:
            return words.get(address, 0)

        def write(self, address: int, value: int) -> None:
            pass

    class DefaultIP:
        def __init__(self, description: dict[str, object]) -> None:
            self.mmio = Mmio()

    class Overlay:
        def __init__(self, bitfile: str) -> None:
            self.mst = space["MstDriver"]({})

    monkeypatch.setitem(sys.modules, "pynq", types.SimpleNamespace(DefaultIP=DefaultIP, Overlay=Overlay))
    space: dict[str, Any] = {}
    exec(compile((pynq_files / "mst_overlay.py").read_text(), "mst_overlay.py", "exec"), space)
    assert space["MstDriver"].bindto == ["mst:user:mst_axi:1.0"]
    with pytest.raises(RuntimeError, match="build 0x00000000, this driver is of"):
        space["MstOverlay"](network=None)
    words[registers["BUILD_ID"].offset] = space["BUILD_ID"]
    overlay = space["MstOverlay"](network=None)
    assert overlay.session.identity.build_id == space["BUILD_ID"]
    words[0] = 0
    with pytest.raises(HostError, match="ID is 0x00000000"):
        space["MstOverlay"](network=None)


def test_pynq_bad_files_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert pynq.main(["--network", "configs/fashion-tiny.mstn"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
