"""The emitted Verilog in words that Verilator compiles to fewer instructions: `rewritten`. It means the same, bit for bit."""
import re

from sim.fast.roll import rolled

LEAST = 8
"""Bits that are worth a stream operator."""
_JOINED = re.compile(r"\{ (\S+ ?)\[0\], .*?\}")
_ONES = re.compile(r"^  assign (\w+)_ones = (\{ .*? \});\n", re.M)
_BITS = re.compile(r"\{ (\w+)_bit\d+(?:, \1_bit\d+)* \}")


def rewritten(verilog: str) -> str:
    """Verilog of the machine as Verilator gets it."""
    return counted(streamed(rolled(verilog)))


def streamed(verilog: str) -> str:
    """A vector's bits in reverse, `{ v[0], v[1], ..., v[n] }`, as SystemVerilog's `{<<{v[n:0]}}`: not taken out one by one."""
    return _JOINED.sub(_streamed, verilog)


def _streamed(joined: re.Match[str]) -> str:
    name, parts = joined[1], joined[0][2:-2].split(", ")
    if len(parts) < LEAST or any(part != f"{name}[{bit}]" for bit, part in enumerate(parts)):
        return joined[0]
    return f"{{<<{{ {name}[{len(parts) - 1}:0] }}}}"


def counted(verilog: str) -> str:
    """What `hwgen.popcount` made of full adders as `$countones`, which is one instruction of a processor."""
    ones = dict(_ONES.findall(verilog))
    verilog = _BITS.sub(lambda bits: f"{bits[1]}_ones" if ones.get(bits[1]) == bits[0] else bits[0], verilog)
    return re.sub(r"^  assign (\w+)_ones = \1_ones;\n", r"  assign \1_ones = $countones(\1_counted);\n", verilog, flags=re.M)
