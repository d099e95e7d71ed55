"""`python -m hwgen.integration`: how the machine is put into a design of one's own, as text: Verilog and a table of ports.

docs/integration.md holds what comes out for configs/cifar10-tiny.toml; a test holds it to this, and compiles it.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from amaranth.hdl import Shape
from amaranth.lib.wiring import In

from hwgen.config import MachineConfig
from hwgen.emit import MMIO, TOP
from hwgen.inputs import machine_of
from hwgen.top import Accelerator
from hwgen.window import MmioAccelerator
from model import config as configuration
from model.command_line import command_line

GROUPS = {"s_axil": "AXI4-Lite slave: registers", "irq": "interrupt, high while a cause is pending", "busy": "a run is under way",
          "failed": "the machine holds an error", "s_axis": "AXI4-Stream in: images, memories",
          "m_axis": "AXI4-Stream out: logits",
          "m_axi": "AXI4 master: external memory"}
SIZED = {"weight_rows": 1, "spike_words": 1, "stream_words": 1, "param_words": 1, "rom_words": 1, "descriptors": 1,
         "transfers": 1}
"""Depths change no port: any will do here."""

Port = tuple[str, int, str]
"""direction, bits, name"""


def ports(m: MachineConfig, mmio: bool = False) -> list[Port]:
    """The ports of `mst_accelerator` (`mmio`: of `mst_mmio`) for machine `m`, without traces; clk and rst first."""
    fitted = {name: value for name, value in SIZED.items() if not getattr(m, name)}
    fitted |= {name: value for name, value in {"planes": 3, "head_lanes": 8, "window_tokens": 4, "acc_bits": 20, "weight_bits": 8,
                                               "rom_bits": 12}.items() if not getattr(m, name)}
    machine = Accelerator(MachineConfig(**({name: getattr(m, name) for name in m.__slots__} | fitted)), 0)
    machine._MustUse__used = True  # only its signature is wanted: Amaranth need not warn
    design = machine
    if mmio:
        design = MmioAccelerator(machine)
        design._MustUse__used = design.window._MustUse__used = True
    members = design.signature.members.items()
    return [("input", 1, "clk"), ("input", 1, "rst"),
            *(("input" if member.flow is In else "output", Shape.cast(member.shape).width, name)
              for name, member in members if not name.startswith("trace_"))]


def group(name: str) -> str:
    """The interface that a port belongs to: a key of GROUPS, or "" for clock and reset."""
    return max((key for key in GROUPS if name == key or name.startswith(f"{key}_")), key=len, default="")


def instance(m: MachineConfig, mmio: bool = False, module: str = "my_soc") -> str:
    """Verilog of a module that holds one machine and hands all its ports out: a template to cut to size."""
    found = ports(m, mmio)
    wide = max(len(f"[{bits - 1}:0]") for _, bits, _ in found)
    declared, joined, before = [], [], ""
    for number, (way, bits, name) in enumerate(found):
        comma = "," if number + 1 < len(found) else ""
        if group(name) != before:
            before = group(name)
            declared.append(f"  // {GROUPS[before]}")
        size = f"[{bits - 1}:0]" if bits > 1 else ""
        declared.append(f"  {way:<6} wire {size:<{wide}} {name}{comma}")
        joined.append(f"    .{name}({name}){comma}")
    top = MMIO if mmio else TOP
    heads = "\n".join(declared)
    return f"module {module} (\n{heads}\n);\n  {top} machine (\n" + "\n".join(joined) + "\n  );\nendmodule\n"


@command_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Print or write the template; an error is one line and exit code 2."""
    top = argparse.ArgumentParser(prog="python -m hwgen.integration", description=__doc__)
    top.add_argument("--config", type=Path, required=True, help="such as configs/cifar10-tiny.toml")
    top.add_argument("--mmio", action="store_true", help="the machine behind a stream window: one AXI4-Lite port")
    top.add_argument("-o", "--output", type=Path, help="file to write (default: standard output)")
    args = top.parse_args(argv)
    text = instance(machine_of(configuration.load(args.config)), args.mmio)
    if args.output is None:
        print(text, end="")
    else:
        args.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
