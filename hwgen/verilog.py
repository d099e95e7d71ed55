"""Verilog of a component: Amaranth's own conversion, with the initial contents of memories written as text at once, and registers
in clocked blocks (`hwgen.clocked`).

Amaranth makes an object of every bit of every memory: 10 of 16 seconds for a machine of 64 lanes. The bytes are the same.
"""
import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amaranth.back import rtlil, verilog
from amaranth.hdl import Elaboratable

from hwgen import clock_gate
from hwgen.clocked import clocked

_ESCAPED = re.compile(r"\\\S+\[\S*")


def convert(design: Elaboratable, name: str) -> str:
    """The Verilog text of `design` as module `name`, without source locations, so that it is the same on every machine.

    Amaranth names an element of an array `\\acc[0]`: a name that Yosys 0.70 takes for bit 0 of `acc` when it reads back what ABC9
    made, and then dies of where both are there (Assert in rtlil.cc:3091). Here it is `\\acc_0_`.
    """
    text = _ESCAPED.sub(lambda found: found[0].replace("[", "_").replace("]", "_"), clocked(converted(design, name)))
    return text + clock_gate.VERILOG if f"  {clock_gate.GATE} " in text else text


def converted(design: Elaboratable, name: str) -> str:
    """The same as Amaranth itself writes it."""
    collecting = gc.isenabled()
    gc.disable()  # nothing of the netlist can be freed before its end: 5.3 s become 2.9 s
    try:
        with _fast_memories():
            text: str = verilog.convert(design, name=name, emit_src=False, strip_internal_attrs=True)
    finally:
        if collecting:
            gc.enable()
    return text


@contextmanager
def _fast_memories() -> Iterator[None]:
    """Replaces one method of the pinned Amaranth (tests/test_emit.py holds the result to the original's bytes)."""
    original = rtlil.ModuleEmitter.emit_memory
    rtlil.ModuleEmitter.emit_memory = _emit_memory
    try:
        yield
    finally:
        rtlil.ModuleEmitter.emit_memory = original


def _emit_memory(self: Any, cell_idx: int, cell: Any) -> None:
    mask = (1 << cell.width) - 1
    words = "".join(f"{row & mask:0{cell.width}b}" for row in reversed(cell.init))
    bits = cell.width * len(cell.init)
    self.builder.cell("$meminit_v2", ports={
        "ADDR": "{  }",
        "DATA": f"{bits}'{words}",
        "EN": f"{cell.width}'{'1' * cell.width}",
    }, parameters={
        "MEMID": self.memories[cell_idx].memid,
        "ABITS": 0,
        "WIDTH": cell.width,
        "WORDS": cell.depth,
        "PRIORITY": 0,
    }, src_loc=cell.src_loc)
