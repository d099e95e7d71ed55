"""docs/integration.md: what it shows is what is generated, and it compiles."""
import dataclasses
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hwgen.config import MachineConfig, machine_config
from hwgen.emit import Build, emit, emit_mmio
from hwgen.integration import group, instance, main, ports
from hwgen.verilog import convert
from model import config as configuration
from model.config import MaskingConfig, ModelConfig
from quantize.random_network import random_network
from sim.runner import find_simulator, run_bench

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "integration.md").read_text(encoding="utf-8")
CONFIG = ROOT / "configs" / "cifar10-tiny.toml"
MODEL = ModelConfig(image_size=8, in_channels=1, classes=3, patch=2, embedding=8, depths=(1,), heads=(1,), window=2,
                    mlp_ratio=1.0,
                    levels=7)
SMALL = MachineConfig(lanes=8, fire_lanes=4, head_lanes=8, window_tokens=4, attention_rows=1)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def lint(top: str, *sources: Path) -> None:
    tool = find_simulator("verilator")
    done = subprocess.run([str(tool.program), "--lint-only", "-Wall", "-Wno-fatal", "--top-module", top, *map(str, sources)],
                          capture_output=True, text=True, check=False,
                          env={**tool.env, "PATH": tool.env.get("PATH", "/usr/bin:/bin")})
    wrong = [line for line in done.stderr.splitlines() if re.match(r"%Error|%Warning-(PIN|WIDTH|IMPLICIT|UNDRIVEN)", line)]
    ours = [line for line in wrong if f"{top}.v" in line and "trace_" not in line]
    assert done.returncode == 0 and not ours, "\n".join(ours) or done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return emit(random_network(MODEL, 1), SMALL, MaskingConfig(), tmp_path_factory.mktemp("machine"))


@pytest.mark.parametrize("mmio", [False, True])
def test_the_verilog_template_compiles(built: Build, mmio: bool) -> None:
    template = built.folder / "my_soc.v"
    template.write_text(instance(built.machine, mmio))
    lint("my_soc", template, emit_mmio(built) if mmio else built.verilog)


@pytest.mark.slow
def test_the_template_of_a_machine_with_external_memory_compiles(tmp_path: Path) -> None:
    machine = dataclasses.replace(SMALL, memory_bits=128, weight_rows=64, spike_words=64, stream_words=64, param_words=16,
                                  rom_words=512)
    made = emit(random_network(MODEL, 1), machine, MaskingConfig(), tmp_path)
    template = tmp_path / "my_soc.v"
    template.write_text(instance(made.machine))
    assert "m_axi_araddr" in template.read_text()
    lint("my_soc", template, made.verilog)


@pytest.mark.parametrize(("old", "new"), [(".irq(irq)", ".irk(irq)"), ("[31:0] s_axil_wdata", "[15:0] s_axil_wdata")])
def test_a_wrong_template_does_not_compile(built: Build, old: str, new: str) -> None:
    template = built.folder / "my_soc.v"
    template.write_text(instance(built.machine).replace(old, new))
    with pytest.raises(AssertionError, match="irk|WIDTH"):
        lint("my_soc", template, built.verilog)


def test_the_page_shows_what_is_generated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(CONFIG)]) == 0
    assert blocks("verilog") == [capsys.readouterr().out]
    machine = machine_config(configuration.load(CONFIG).machine)
    groups = {group(name) for _, _, name in ports(machine)} | {"m_axi"}
    for name in groups - {""}:
        assert re.search(rf"`{name}(_\*)?`", PAGE), f"docs/integration.md does not name {name}"


def test_bad_configuration_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "nowhere.toml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_amaranth_template_compiles(tmp_path: Path) -> None:
    space: dict[str, object] = {}
    exec(compile(blocks("python")[0], "docs/integration.md", "exec"), space)
    design = space["MySoc"](CONFIG.with_name("fashion-tiny.toml"))  # type: ignore[operator]
    file = tmp_path / "generated.v"  # its widths are the generator's affair
    file.write_text(convert(design, "my_soc"))
    lint("my_soc", file)


LITEX_SOC = '''
import sys
from litex.build.generic_platform import Pins
from litex.build.sim import SimPlatform
from litex.soc.integration.soc_core import SoCMini
from migen import ClockDomain


class Soc(SoCMini):
    def __init__(self, platform):
        SoCMini.__init__(self, platform, clk_freq=int(80e6), bus_standard="axi-lite", with_uart=False, with_timer=False, ident="")
        self.cd_sys = ClockDomain()
        self.comb += [self.cd_sys.clk.eq(platform.request("clk")), self.cd_sys.rst.eq(platform.request("rst"))]
        self.mst = Mst(platform, "mst_mmio.v")
        self.bus.add_slave("mst", self.mst.bus, Mst.region)
        host = axi.AXILiteInterface(data_width=32, address_width=32)
        platform.add_extension(host.get_ios("s_axil"))
        self.comb += host.connect_to_pads(platform.request("s_axil"), mode="slave")
        self.bus.add_master("host", host)


platform = SimPlatform("SIM", [("clk", 0, Pins(1)), ("rst", 0, Pins(1))])
open(sys.argv[1], "w").write(str(platform.get_verilog(Soc(platform))))
'''


@pytest.mark.slow
def test_the_litex_snippet_answers_on_its_bus(bench_dir: Path) -> None:
    if importlib.util.find_spec("litex") is None:
        pytest.skip("litex is not installed: make test installs it")
    made = emit(random_network(MODEL, 1), SMALL, MaskingConfig(), bench_dir / "machine")
    script, soc = bench_dir / "soc.py", bench_dir / "top.v"
    script.write_text(blocks("python")[1] + LITEX_SOC)
    done = subprocess.run([sys.executable, str(script), str(soc)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    soc.write_text("/* verilator lint_off COMBDLY */\n" + soc.read_text())  # migen assigns with <= in combinational blocks
    results = run_bench(name="litex", toplevel="top", sources=[soc, emit_mmio(made)], test_module="sim.tb.tb_litex",
                        build_dir=bench_dir)
    assert (results.passed, results.failed) == (1, 0), results.summary()
