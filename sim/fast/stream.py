"""Vectors that the emitted Verilog cuts into bits and joins again, by whole words.

A vector in reverse, `{ v[0], v[1], ..., v[n] }`, is SystemVerilog's `{<<{ v[n:0] }}`, and a term again and again, `{ b, b, b }`,
is `{3{ b }}`. Parts of one vector that are reversed here and there come from the whole of it, reversed once.
"""
import re
from itertools import groupby
from typing import NamedTuple

from sim.fast.modules import each_module

LEAST = 8
"""Terms that are worth it."""
WORD = 64
"""Bits of the largest vector that is worth reversing as a whole: Verilator has it in one integer."""
_VECTOR = re.compile(r"^  (?:wire|reg) \[(\d+):0\] (\\\S+ |\w+)(?: ?= .*)?;\n", re.M)
_JOINED = re.compile(r"\{ ([^{}\n]*, [^{}\n]*) \}(?! <?= )")  # no target of an assignment
_BIT = re.compile(r"(\\\S+ |\w+)\[(\d+)\]")


class _Run(NamedTuple):
    """Terms in a row: the bits `first`, `first + step`, ... of vector `name`; `first` -1: all are the text `name`."""

    name: str
    first: int
    step: int
    times: int

    @property
    def last(self) -> int:
        return self.first + self.step * (self.times - 1)

    def terms(self) -> list[str]:
        if self.first < 0:
            return [self.name] * self.times
        return [f"{self.name}[{self.first + self.step * place}]" for place in range(self.times)]


def streamed(verilog: str) -> str:
    """`verilog` with such vectors in whole words; they may be parts of a longer `{ ... }`."""
    return each_module(verilog, _module)


def _module(text: str) -> str:
    widths = {name: int(high) + 1 for high, name in _VECTOR.findall(text)}
    backwards: dict[str, str] = {}  # vector: its reverse

    def part(run: _Run) -> tuple[bool, str]:
        """Whether it is yet to be reversed, and what."""
        if run.times < LEAST:
            return False, ", ".join(run.terms())
        if not run.step:
            return False, f"{{{run.times}{{ {run.terms()[0]} }}}}"
        width = widths.get(run.name, 0)
        if not run.times < width <= WORD:
            return True, f"{run.name}[{run.last}:{run.first}]"
        backwards[run.name] = f"{run.name[:-1]}_backwards " if run.name.startswith("\\") else f"{run.name}_backwards"
        return False, f"{backwards[run.name]}[{width - 1 - run.first}:{width - 1 - run.last}]"

    def joined(found: re.Match[str]) -> str:
        runs = _runs(found[1].split(", "))
        if all(run.times < LEAST for run in runs):
            return found[0]
        parts: list[str] = []
        for reverse, each in groupby(map(part, runs), key=lambda one: one[0]):
            texts = [one[1] for one in each]
            parts += [f"{{<<{{ {', '.join(reversed(texts))} }}}}"] if reverse else texts
        return parts[0] if len(parts) == 1 else f"{{ {', '.join(parts)} }}"

    text = _JOINED.sub(joined, text)
    made = "".join(f"  wire [{widths[name] - 1}:0] {new};\n  assign {new} = {{<<{{ {name} }}}};\n"
                   for name, new in backwards.items())
    return text.removesuffix("endmodule\n") + made + "endmodule\n"


def _runs(terms: list[str]) -> list[_Run]:
    runs: list[_Run] = []
    for term in terms:
        bit = _BIT.fullmatch(term)
        name, number = (bit[1], int(bit[2])) if bit else (term, -1)
        if runs and runs[-1].name == name and (runs[-1].first < 0) == (number < 0):
            run, step = runs[-1], number - runs[-1].last
            if step in (0, 1) and (run.times == 1 or step == run.step):
                runs[-1] = run._replace(step=step, times=run.times + 1)
                continue
        runs.append(_Run(name, number, 0, 1))
    return runs
