"""One evaluation of the model a clock cycle, without clock nets: `unclocked`.

As emitted, a cycle has two edges, a gated clock is a latch and an AND, and a simulator watches every such net. Here what was a
clock net says whether it has an edge in this cycle, and every register takes over when the one clock, `TICK`, toggles:
`always @(posedge c)` becomes `always @(edge TICK iff c)`. A gate (`hwgen.clock_gate`) becomes an AND, and the machine's own clock
the constant 1 (`sim.fast.latch`). The values are the same: what a gate's latch holds while the clock is high is what its enable
was when the clock rose, and that is when `iff` looks at it.
"""
import re

from hwgen.clock_gate import GATE
from sim.fast.latch import TICK
from sim.fast.modules import MODULE

_EDGE = re.compile(r"@\(posedge (\w+)(?: iff ([^()]*))?\)")
_OTHER = re.compile(r"@(?!\*|\(posedge \w+(?: iff [^()]*)?\))(?:\(.*?\)|.*)")
_INSTANCE = re.compile(r"^  (\\\S+|\w+) +(?:\\\S+|\w+) +\(\n((?:    \..*\n)+)  \);\n", re.M)
_JOINT = re.compile(r"^    \.(\w+)\((\w+)\),?$", re.M)
_GATE = re.compile(rf"^module {GATE}\b.*?^endmodule\n", re.S | re.M)
_ANDED = f"""module {GATE}(clk, enable, gated);
  input clk, enable;
  output gated;
  assign gated = clk & enable;
endmodule
"""


def unclocked(verilog: str) -> str:
    """`verilog` so; the input `clk` of its top module is to be 1.

    ValueError, which names module and net, where a clock is anything but an input or a gate's output, where it does anything but
    clock, and where something waits for another event: none of that can be said so.
    """
    modules = {found[1]: found[0] for found in MODULE.finditer(_GATE.sub("", verilog))}
    parts = {name: [(child, _JOINT.findall(joints)) for child, joints in _INSTANCE.findall(text)]
             for name, text in modules.items()}
    clocks = {name: {edge[0] for edge in _EDGE.findall(text)} for name, text in modules.items()} | {GATE: {"clk", "gated"}}
    known, handed = -1, dict[str, list[str]]()
    while known != (known := sum(map(len, clocks.values()))):  # a module's clocks are also those of its parts
        for name in modules:
            handed[name] = [net for child, joints in parts[name] for port, net in joints if port in clocks.get(child, ())]
            clocks[name].update(handed[name])
    for name, text in modules.items():
        if other := _OTHER.search(text):
            raise ValueError(f"module {name}: {other[0]} is no clock edge: sim/fast/clocks.py cannot simulate it")
    for name, text in modules.items():
        gated = {net for child, joints in parts[name] if child == GATE for port, net in joints if port == "gated"}
        for net in sorted(clocks[name]):
            _check(name, net, text, gated, handed[name].count(net))
    return _EDGE.sub(lambda edge: f"@(edge {TICK} iff {edge[1]}{f' & ({edge[2]})' if edge[2] else ''})",
                     _GATE.sub(lambda _: _ANDED, verilog))


def _check(module: str, net: str, text: str, gated: set[str], handed: int) -> None:
    """That `net` of `module` only clocks: it stands where it is declared, in `posedge`, and as a clock of `handed` parts."""
    put_in = len(re.findall(rf"^  input {net};$", text, re.M))
    declared = put_in * 2 + len(re.findall(rf"^  wire {net};$", text, re.M))  # an input stands in the module's first line too
    places = len(re.findall(rf"(?<![\w$.\\]){net}(?![\w$])", text))
    if not put_in and net not in gated:
        raise ValueError(f"module {module}: clock {net} is no input and no gate's output: sim/fast/clocks.py cannot simulate it")
    if places != declared + [edge[0] for edge in _EDGE.findall(text)].count(net) + handed:
        raise ValueError(f"module {module}: {net} is a clock and more: sim/fast/clocks.py cannot simulate it")
