"""A register that takes one of many words, each under a bit of its own, as `if`s: only the word that is chosen is touched.

The emitted Verilog ands every word with its bit and ors them all, as hardware does. Registers whose words are chosen by the same
bits are taken together.
"""
import re
from typing import NamedTuple

from sim.fast.modules import each_module

LEAST = 3
"""Words that are worth it."""
_REGISTER = re.compile(r"^  reg (\[\d+:0\] )(\S+)  ?= \d+'h[0-9a-f]+;\n", re.M)
_CLOCKED = re.compile(r"^  always @\((posedge \w+)\)\n    (\w+) <= (\\\$\d+) ;\n", re.M)
_WIRE = re.compile(r"^  wire (\[\d+:0\] )(\\\$\d+) ;\n", re.M)
_OR = re.compile(r"^  assign (\\\$\d+)  = (\\\$\d+) (?: \| (\\\$\d+) )?;\n", re.M)
_ONE = re.compile(r"^  assign (\\\$\d+)  = (\w+) & \{(\d+)\{ (\w+) \}\};\n", re.M)


class _Choice(NamedTuple):
    """`register` takes the or of `words`, each where its bit is 1."""

    kind: str
    register: str
    words: tuple[str, ...]


def selected(verilog: str) -> str:
    """`verilog` with such registers in blocks of their own."""
    return each_module(verilog, _module)


def _module(text: str) -> str:
    kinds = {name: kind for kind, name in [*_WIRE.findall(text), *_REGISTER.findall(text)]}
    sums = {name: (a, b) if b else (a,) for name, a, b in _OR.findall(text)}
    ones = {name: (word, bit) for name, word, bits, bit in _ONE.findall(text)
            if kinds.get(name) == kinds.get(word) == f"[{int(bits) - 1}:0] "}
    found: dict[tuple[str, tuple[str, ...]], list[_Choice]] = {}

    def terms(name: str, kind: str) -> list[tuple[str, str]]:
        """(word, bit) of what `name` ors; [] where it does something else."""
        if kinds.get(name) != kind:
            return []
        if name in ones:
            return [ones[name]]
        if name not in sums:
            return []
        parts = [terms(part, kind) for part in sums[name]]
        return [term for part in parts for term in part] if all(parts) else []

    def take(driver: re.Match[str]) -> str:
        clock, register, value = driver.groups()
        kind = kinds.get(register, "")
        each = terms(value, kind)
        if len(each) < LEAST:
            return driver[0]
        words, bits = zip(*each, strict=True)
        found.setdefault((clock, bits), []).append(_Choice(kind, register, words))
        return ""

    text = _CLOCKED.sub(take, text)
    if not found:
        return text
    blocks = [_block(number, clock, bits, each) for number, ((clock, bits), each) in enumerate(found.items())]
    return text.removesuffix("endmodule\n") + "".join(blocks) + "endmodule\n"


def _block(number: int, clock: str, bits: tuple[str, ...], each: list[_Choice]) -> str:
    lines = [f"  always @({clock}) begin : select_{number}",
             *(f"    automatic reg {one.kind}next_{one.register};" for one in each),
             *(f"    next_{one.register} = 0;" for one in each)]
    for place, bit in enumerate(bits):
        lines += [f"    if ({bit}) begin",
                  *(f"      next_{one.register} = next_{one.register} | {one.words[place]};" for one in each), "    end"]
    return "\n".join([*lines, *(f"    {one.register} <= next_{one.register};" for one in each), "  end", ""])
