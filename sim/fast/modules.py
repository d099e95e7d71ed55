"""The modules of emitted Verilog, for the rewriting of each by itself."""
import re
from collections.abc import Callable

MODULE = re.compile(r"^module (\\\S+|\w+).*?^endmodule\n", re.S | re.M)
"""A whole module; group 1: its name."""


def each_module(verilog: str, change: Callable[[str], str]) -> str:
    """`verilog` with every module as `change` gives it back."""
    return MODULE.sub(lambda module: change(module[0]), verilog)
