"""`python -m hwgen.pynq`: files for a PYNQ-Z2: the machine as an AXI IP, a block design, an overlay driver; size by Yosys.

Written to rtl/build/boards/pynq-z2/ from the templates in rtl/boards/pynq-z2/. There is no open place and route for the Zynq, and
the Tcl was not run in Vivado: what is checked here is that the Verilog compiles and synthesises and that the driver drives.
"""
import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hwgen import synth
from hwgen.boards import FOLDER, ROOT
from hwgen.emit import MMIO, emit, emit_mmio
from hwgen.files import claimed, digest, json_text, write_if_changed
from hwgen.inputs import machine_of, network_arguments, read_inputs
from hwgen.integration import ports
from hwgen.packed import pack
from hwgen.registers import WINDOW_ADDRESS_BITS
from hwgen.synth import SynthError
from hwgen.synth_devices import XILINX7
from model.command_line import command_line
from model.config import Config, ConfigError
from quantize.layers import Network

NAME, PART, CLOCK_MHZ, ADDRESS = "pynq-z2", "xc7z020clg400-1", 50, "0x43C00000"
VENDOR, LIBRARY, VERSION = "mst", "user", "1.0"
TOP = "mst_axi"
CONFIG = Path("configs") / "pynq-z2.toml"
GENERATED = (f"{TOP}.v", "package_ip.tcl", "block_design.tcl", "mst_overlay.py")
ZYNQ = dataclasses.replace(XILINX7, name="xilinx-7z020", part="AMD Zynq XC7Z020 (PYNQ-Z2)",
                           capacity={"luts": 53200, "registers": 106400, "block_rams": 140})


def generate(network: Network, config: Config, folder: Path) -> list[Path]:
    """Write the machine, its packed network and the files of GENERATED into `folder`; CompileError when it does not fit."""
    machine = machine_of(config)
    if machine.memory_bits:
        raise ConfigError(f"[machine] memory_bits must be 0 for {NAME}, not {machine.memory_bits}")
    build = emit(network, machine, config.masking, folder / "machine")
    write_if_changed(folder / f"{MMIO}.v", emit_mmio(build).read_bytes())
    write_if_changed(folder / "network.bin", pack(build.program, build.machine, config.masking, build.id32))
    model = config.model
    names = {
        "ports": [port for port in ports(build.machine, mmio=True) if port[2] not in ("clk", "rst", "irq")], "top": MMIO,
        "part": PART, "files": (f"{MMIO}.v", f"{TOP}.v"), "vendor": VENDOR, "library": LIBRARY, "version": VERSION,
        "vlnv": f"{VENDOR}:{LIBRARY}:{TOP}:{VERSION}", "span": 1 << WINDOW_ADDRESS_BITS, "address": ADDRESS,
        "clock_mhz": CLOCK_MHZ, "build_id": build.build_id[:16], "build32": f"{build.id32:#010x}",
        "shape": [model.image_size, model.image_size, model.in_channels]}
    templates = Environment(loader=FileSystemLoader(FOLDER / NAME), undefined=StrictUndefined, keep_trailing_newline=True)
    for name in GENERATED:
        write_if_changed(folder / name, templates.get_template(f"{name}.j2").render(names))
    return [folder / name for name in (*GENERATED, f"{MMIO}.v", "network.bin")]


def utilisation(folder: Path) -> dict[str, Any]:
    """Synthesise mst_axi for the Zynq with Yosys; the report (also report.json). SynthError when Yosys is missing or fails."""
    yosys = synth.tool("yosys")
    version = synth.version_of(yosys)
    script = ZYNQ.script.format(top=TOP, json="netlist.json.part")
    sources = [folder / f"{MMIO}.v", folder / f"{TOP}.v"]
    command = [yosys, "-q", "-l", "yosys.log", "-p",
               f"read_verilog {' '.join(path.name for path in sources)}; {script}; tee -q -o cells.json stat -json"]
    key = digest(*(path.read_bytes() for path in sources), script, version)
    seconds = synth.run_step(folder, "netlist.json", key, lambda: synth.run_tool(command, folder, "yosys.log"))
    cells = synth.cells_of(folder / "cells.json")
    used = ZYNQ.count(cells)
    report = {"part": ZYNQ.part, "what": "synthesis only, by Yosys; not run in Vivado", "used": used, "cells": cells,
              "share": {name: round(used[name] / size, 4) for name, size in ZYNQ.capacity.items()},
              "versions": {"yosys": version}, "synthesis_seconds": seconds}
    write_if_changed(folder / "report.json", json_text(report))
    return report


@command_line(SynthError)
def main(argv: Sequence[str] | None = None) -> int:
    """Generate, and synthesise unless told not to; an error is one line and exit code 2."""
    top = argparse.ArgumentParser(prog="python -m hwgen.pynq", description=__doc__)
    network_arguments(top, config=str(CONFIG))
    top.add_argument("--no-synth", action="store_true", help="only write the files")
    args = top.parse_args(argv)
    args.config = args.config or CONFIG
    config, _, network = read_inputs(args)
    with claimed(ROOT / NAME):
        for path in generate(network, config, ROOT / NAME):
            print(path)
        report = None if args.no_synth else utilisation(ROOT / NAME)
    if report:
        print(f"{report['part']}: {report['what']}")
        for name, number in report["used"].items():
            share = f" of {ZYNQ.capacity[name]} ({report['share'][name]:.1%})" if name in ZYNQ.capacity else ""
            print(f"  {name:<12}{number:>8}{share}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
