"""Memories that stand still: where a module is made of many, each waits for a clock edge only where one of its enables is 1.

`if (enable) word <= memory[address];` at every edge becomes `@(posedge clk iff enable)`: the memories that no one reads or writes
then cost nothing, and those with the same enables are told once. For single memories the test is as cheap as it was.
"""
import re

from sim.fast.modules import MODULE

SEVERAL = 8
"""Memories in a module that are worth it."""
_PART = re.compile(r"^  (\\\S+|\w+) +(?:\\\S+|\w+) +\(\n", re.M)
_MEMORY = re.compile(r"^  reg \[\d+:0\] (\w+) \[\d+:0\];\n", re.M)
_BLOCK = re.compile(r"^  always @\(posedge (\w+)\) begin\n((?:    if \((?:\\\S+ |\w+)\)(?: begin\n(?:      .*\n)+    end\n|"
                    r"\n      .*\n))+)  end\n", re.M)
_ENABLE = re.compile(r"^    if \((\\\S+ |\w+)\)", re.M)


def enabled(verilog: str) -> str:
    """`verilog` with such memories; blocks that do anything else too stay as they are."""
    modules = {found[1]: found[0] for found in MODULE.finditer(verilog)}
    memories = {name for name, text in modules.items() if _MEMORY.search(text)}
    many = {part for text in modules.values()
            if len(parts := [part for part in _PART.findall(text) if part in memories]) >= SEVERAL for part in parts}
    return MODULE.sub(lambda module: _BLOCK.sub(_waiting, module[0]) if module[1] in many else module[0], verilog)


def _waiting(block: re.Match[str]) -> str:
    return f"  always @(posedge {block[1]} iff {' | '.join(dict.fromkeys(_ENABLE.findall(block[2])))}) begin\n{block[2]}  end\n"
