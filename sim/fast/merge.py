"""What the emitted Verilog computes or stores several times, once: Amaranth writes an expression anew for each use of its parts,
and hardware keeps copies of a register where one alone would reach too many."""
import re

from sim.fast.modules import each_module

_PORT = re.compile(r"^  (?:input|output) (?:\[\d+:0\] )?(\S+) ?;\n", re.M)
_WIRE = re.compile(r"^  wire ((?:signed )?(?:\[\d+:0\] )?)(\\\$\d+) ;\n", re.M)
_ASSIGN = re.compile(r"^  assign (\\\$\d+)  = (.*);\n", re.M)
_REGISTER = re.compile(r"^  reg ((?:signed )?(?:\[\d+:0\] )?)(\S+)  ?(= \d+'h[0-9a-f]+);\n", re.M)
_CLOCKED = re.compile(r"^  always @\((posedge \w+)\)\n    (\S+) +<= (.*);\n", re.M)
_SPACE = re.compile(r" (?=[ ,)}\[]|$)")  # behind an escaped name
_NAME = re.compile(r"\\\S+|(?<![.\w$'])[A-Za-z_]\w*")


def merged(verilog: str) -> str:
    """`verilog` where what is the same in a module is one: unnamed wires of the same type and expression; registers of the same
    type and first value that take the same expression at the same clock.

    Whatever is joined makes more expressions equal: it goes on until no more are.
    """
    return each_module(verilog, _module)


def _module(text: str) -> str:
    while (less := _once(text)) != text:
        text = less
    return text


def _once(text: str) -> str:
    ports = set(_PORT.findall(text))
    kinds = {name: kind for kind, name in _WIRE.findall(text)}
    kinds |= {name: f"{kind}{first}" for kind, name, first in _REGISTER.findall(text) if name not in ports}
    same: dict[str, str] = {}
    seen: dict[tuple[str, str, str], str] = {}

    def one(name: re.Match[str]) -> str:
        kept = same.get(name[0], name[0])
        return f"{kept} " if kept.startswith("\\") and not name[0].startswith("\\") else kept  # an escaped name ends with a space

    for clock, name, value in [*(("", *assign) for assign in _ASSIGN.findall(text)), *_CLOCKED.findall(text)]:
        if name in kinds:
            kept = seen.setdefault((clock, kinds[name], _SPACE.sub("", _NAME.sub(one, value))), name)
            if kept != name:
                same[name] = kept
    for form, place in ((_WIRE, 2), (_REGISTER, 2), (_ASSIGN, 1), (_CLOCKED, 2)):
        text = form.sub(lambda found, place=place: "" if found[place] in same else found[0], text)  # type: ignore[misc]
    return _NAME.sub(one, text) if same else text
