"""Operators of emitted Verilog, found by parsing it with pyverilog: shows that the machine holds no multiplier.

`python -m hwgen.multipliers FILE.v` prints them by module and keeps them in operators.json beside the file, where the
report finds them. Exit code 0: no multiplication, division or modulo; 1: some, each with its line; 2: bad input.
"""
import argparse
import contextlib
import io
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from hwgen.files import digest, json_text, write_if_changed
from model.command_line import command_line

OPERATORS_FILE = "operators.json"
MULTIPLYING = ("Times", "Divide", "Mod", "Power")
"""pyverilog's names of what needs a multiplier or divider."""
GROUPS = {"multipliers": MULTIPLYING, "adders": ("Plus", "Minus", "Uminus"),
          "comparators": ("LessThan", "GreaterThan", "LessEq", "GreaterEq", "Eq", "NotEq", "Eql", "NotEql"),
          "shifters": ("Sll", "Srl", "Sla", "Sra")}
_ATTRIBUTE = re.compile(r"\(\*[^*)].*?\*\)|^`.*?$", re.DOTALL | re.MULTILINE)


class VerilogError(ValueError):
    """Verilog that cannot be read, or a missing parser: the message says what to do."""


class Multiplication(NamedTuple):
    """A multiplication, division or modulo: its module, its line, and the expression."""

    module: str
    line: int
    expression: str


@dataclass(frozen=True, slots=True)
class Operators:
    """`counts[module][group of GROUPS]`, and every multiplication."""

    counts: dict[str, dict[str, int]]
    multiplications: list[Multiplication]

    def total(self, group: str) -> int:
        """Operators of a group in all modules, each module counted once."""
        return sum(counts[group] for counts in self.counts.values())


def multipliers(verilog_text: str) -> list[Multiplication]:
    """Multiplications, divisions and moduli of all modules; errors as of `operators`."""
    return operators(verilog_text).multiplications


def operators(verilog_text: str) -> Operators:
    """Operators by module. VerilogError when the text cannot be parsed or pyverilog is missing."""
    counts: dict[str, dict[str, int]] = {}
    found: list[Multiplication] = []
    for module in _modules(verilog_text):
        kinds: Counter[str] = Counter()
        for node in _nodes(module):
            kind = type(node).__name__
            kinds[kind] += 1
            if kind in MULTIPLYING:
                found.append(Multiplication(module.name, node.lineno, _text(node)))
        counts[module.name] = {group: sum(kinds[kind] for kind in members) for group, members in GROUPS.items()}
    return Operators(counts, found)


def save(verilog: Path) -> Operators:
    """Count the operators of a Verilog file and keep them beside it, with the file's checksum."""
    try:
        text = verilog.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VerilogError(f"{verilog}: cannot be read ({error}): run `make rtl` first") from None
    found = operators(text)
    write_if_changed(verilog.with_name(OPERATORS_FILE), json_text({
        "verilog_sha256": digest(text), "modules": found.counts,
        "multiplications": [entry._asdict() for entry in found.multiplications]}))
    return found


def saved(verilog: Path) -> Operators | None:
    """What `save` found in this very file; None if it was not asked, or the file has changed since."""
    try:
        raw = json.loads(verilog.with_name(OPERATORS_FILE).read_text(encoding="utf-8"))
        if raw["verilog_sha256"] != digest(verilog.read_bytes()):
            return None
        return Operators(raw["modules"], [Multiplication(**entry) for entry in raw["multiplications"]])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@lru_cache(maxsize=1)
def _parser() -> Any:
    """pyverilog's parser; its tables take seconds to make, and it would leave them in the working directory."""
    from pyverilog.vparser.parser import VerilogParser
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        return VerilogParser(outputdir=folder, debug=False)


def _modules(text: str) -> list[Any]:
    try:
        from pyverilog.vparser.parser import ParseError
    except ModuleNotFoundError:
        raise VerilogError("pyverilog is missing: install it with `pip install -e .[test]` (make test does)") from None
    # Attributes and directives are blanked, not cut out, so that line numbers stay; both sides of an `ifdef are read.
    plain = _ATTRIBUTE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    parser = _parser()
    parser.lexer.reset_lineno()
    try:
        tree = parser.parse(plain)
    except ParseError as error:
        raise VerilogError(f"not the Verilog of this generator: {' '.join(str(error).split())}") from None
    return [entry for entry in tree.description.definitions if type(entry).__name__ == "ModuleDef"]


def _nodes(node: Any) -> Iterator[Any]:
    todo = [node]
    while todo:
        found = todo.pop()
        yield found
        todo.extend(found.children())


def _text(node: Any) -> str:
    from pyverilog.ast_code_generator.codegen import ASTCodeGenerator
    return str(ASTCodeGenerator().visit(node))


@command_line()
def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m hwgen.multipliers", description=__doc__)
    parser.add_argument("verilog", type=Path, help="such as rtl/build/cifar10-tiny/mst_accelerator.v")
    args = parser.parse_args(argv)
    found = save(args.verilog)
    for name, counts in found.counts.items():
        print(f"{name}: " + ", ".join(f"{amount} {group}" for group, amount in counts.items()))
    for entry in found.multiplications:
        print(f"{args.verilog}:{entry.line}: {entry.module}: {entry.expression}")
    print(f"{len(found.multiplications)} multiplications in {len(found.counts)} modules")
    return 1 if found.multiplications else 0


if __name__ == "__main__":
    sys.exit(main())
