"""Verilog that Verilator compiles better: a vector's bits in reverse, which it would take out and put in one by one."""
import re

_JOINED = re.compile(r"\{ (\S+ ?)\[0\], .*?\}")


def reversals(verilog: str) -> str:
    """`verilog` with `{ v[0], v[1], ..., v[n] }` as `{<<{v[n:0]}}`, SystemVerilog's stream of the same bits."""
    return _JOINED.sub(_streamed, verilog)


def _streamed(joined: re.Match[str]) -> str:
    name, parts = joined[1], joined[0][2:-2].split(", ")
    if len(parts) < 8 or any(part != f"{name}[{bit}]" for bit, part in enumerate(parts)):
        return joined[0]
    return f"{{<<{{ {name}[{len(parts) - 1}:0] }}}}"
