"""Loops where the emitted Verilog says the same for every lane: Verilator keeps them, and the compiler vectorises them.

As emitted, the Verilog says 64 times what a lane does, and so would the compiled program. Here registers `name0` ..
`nameN` become an array, and where the logic in front of each is the same but for the number of the lane, one loop computes
them all. Nothing is assumed: the logic of every lane is compared with that of lane 0, and a family of which one differs
stays as it was.
"""
import re
from dataclasses import dataclass
from typing import NamedTuple

from sim.fast.modules import each_module

LEAST = 16
"""Registers that are worth a loop."""
_REGISTER = re.compile(r"^  reg (signed )?(\[\d+:0\] )?([A-Za-z_]\w*?)(\d+) = \d+'h0+;\n", re.M)
_CLOCKED = re.compile(r"^  always @\((posedge \w+)\)(?:\n    (\w+) <= (.*?);\n"
                      r"| begin\n    if \((\w+)\) begin\n      (\w+) <= (.*?);\n    end\n  end\n)", re.M)
_PORT = re.compile(r"^  (?:input|output) (?:\[\d+:0\] )?(\S+?) ?;\n", re.M)
_WIRE = re.compile(r"^  wire (signed )?(\[\d+:0\] )?(\S+) ;\n|^  wire (signed )?(\[\d+:0\] )?(\w+);\n", re.M)
_ASSIGN = re.compile(r"^  assign (\S+) ? ?= (.*?) ?;\n", re.M)
_NAME = re.compile(r"\\\S+|\d+'[bh][0-9a-fA-F]+|(?<![.\w$])[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class _Lane:
    """What drives one register: `steps` are (type, text) of its wires, innermost first, in names of their own.

    `reads`: the families whose registers of this lane it reads.
    """

    clock: str
    guard: str
    steps: tuple[tuple[str, str], ...]
    last: str
    reads: frozenset[str]


def rolled(verilog: str) -> str:
    """`verilog` with loops over the lanes of its modules."""
    return each_module(verilog, _module)


def _module(text: str) -> str:
    found: dict[str, dict[int, str]] = {}
    for signed, bits, base, number in _REGISTER.findall(text):
        found.setdefault(base, {})[int(number)] = f"{signed}{bits}"
    drivers = {driver.register: driver for driver in map(_driver, _CLOCKED.finditer(text))}
    ports = set(_PORT.findall(text))
    families = {base: lanes for base, lanes in found.items()
                if len(lanes) >= LEAST and sorted(lanes) == list(range(len(lanes))) and len(set(lanes.values())) == 1
                and all(f"{base}{lane}" in drivers and f"{base}{lane}" not in ports for lane in lanes)}
    if not families:
        return text
    wires = {name or plain: f"{signed or signed_too}{bits or bits_too}"
             for signed, bits, name, signed_too, bits_too, plain in _WIRE.findall(text)}
    values = {name: value for name, value in _ASSIGN.findall(text) if name in wires}
    members = {f"{base}{lane}": (base, lane) for base, lanes in families.items() for lane in lanes}
    reads = _Reads(members, values)
    all_lanes = {base: [_lane(drivers[f"{base}{lane}"], lane, reads, wires) for lane in range(len(lanes))]
                 for base, lanes in families.items()}
    together = {base for base, each in all_lanes.items() if len({(lane.clock, lane.guard) for lane in each}) == 1}
    alike = {base for base in together if len(set(all_lanes[base])) == 1 and all_lanes[base][0].reads <= together}
    arrays = {other for base in alike for other in all_lanes[base][0].reads} | alike
    gone = {f"{base}{lane}" for base in arrays for lane in families[base]}

    def element(name: re.Match[str]) -> str:
        return "{}_lanes[{}]".format(*members[name[0]]) if name[0] in gone else name[0]

    declared, loops = [], []
    for base in sorted(arrays):
        each, kind = all_lanes[base], families[base][0]
        declared.append(f"  reg {kind}{base}_lanes [0:{len(each) - 1}];\n  initial {base}_lanes = '{{default: 0}};\n")
        every = [drivers[f"{base}{lane}"].value for lane in range(len(each))]
        loops.append(_loop(base, kind, each) if base in alike else
                     f"  always @({each[0].clock}) begin : take_{base}\n    automatic reg {kind}next [0:{len(each) - 1}];\n"
                     f"    next = '{{{', '.join(every)}}};\n    if ({each[0].guard}) {base}_lanes <= next;\n  end\n")
    text = _CLOCKED.sub(lambda driver: "" if _driver(driver).register in gone else driver[0], text)
    text = _REGISTER.sub(lambda register: "" if register[3] + register[4] in gone else register[0], text)
    head, rest = text.removesuffix("endmodule\n").split(";\n", 1)
    return f"{head};\n{''.join(declared)}" + _NAME.sub(element, rest + "".join(loops)) + "endmodule\n"


class _Driver(NamedTuple):
    """`if (guard) register <= value` at `clock`."""

    clock: str
    guard: str
    register: str
    value: str


def _driver(match: re.Match[str]) -> _Driver:
    clock, register, value, guard, register_too, value_too = match.groups()
    return _Driver(clock, guard or "1", register or register_too, value or value_too)


class _Reads:
    """Which wires read registers of lanes."""

    def __init__(self, members: dict[str, tuple[str, int]], values: dict[str, str]) -> None:
        self.members, self.values = members, values
        self._known: dict[str, bool] = {}

    def lane(self, name: str) -> bool:
        """Whether `name` is such a register, or a wire behind one."""
        if name not in self._known:
            self._known[name] = name in self.members
            if name in self.values:
                self._known[name] = any(self.lane(part) for part in set(_NAME.findall(self.values[name])))
        return self._known[name]


def _lane(driver: _Driver, lane: int, reads: _Reads, wires: dict[str, str]) -> _Lane:
    steps: list[tuple[str, str]] = []
    known: dict[str, str] = {}
    read = set()

    def plain(expression: str) -> str:
        return _NAME.sub(lambda found: rename(found[0]), expression)

    def rename(name: str) -> str:
        base, number = reads.members.get(name, ("", -1))
        if number == lane:
            read.add(base)
            return f"{base}_lanes[i]"
        if name not in reads.values or not reads.lane(name):
            return name
        if name not in known:
            value = plain(reads.values[name])
            known[name] = f"step{len(steps)}"
            steps.append((wires[name], value))
        return known[name]

    last = plain(driver.value)
    return _Lane(driver.clock, driver.guard, tuple(steps), last, frozenset(read))


def _loop(base: str, kind: str, each: list[_Lane]) -> str:
    one, count = each[0], len(each)
    lines = [f"  always @({one.clock}) begin : roll_{base}", f"    automatic reg {kind}next [0:{count - 1}];",
             *(f"    automatic reg {step}step{number};" for number, (step, _) in enumerate(one.steps)),
             "    /*verilator unroll_disable*/", f"    for (int unsigned i = 0; i < {count}; i = i + 1) begin",
             *(f"      step{number} = {value};" for number, (_, value) in enumerate(one.steps)),
             f"      next[i] = {one.last};", "    end", f"    if ({one.guard}) {base}_lanes <= next;", "  end", ""]
    return "\n".join(lines)
