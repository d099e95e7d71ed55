"""The emitted Verilog in words that Verilator compiles to fewer instructions: `rewritten`. It means the same, bit for bit."""
import re

from sim.fast.clocks import unclocked
from sim.fast.memories import enabled
from sim.fast.merge import merged
from sim.fast.roll import rolled
from sim.fast.select import selected
from sim.fast.stream import streamed

_ONES = re.compile(r"^  assign (\w+)_ones = (\{ .*? \});\n", re.M)
_BITS = re.compile(r"\{ (\w+)_bit\d+(?:, \1_bit\d+)* \}")


def rewritten(verilog: str) -> str:
    """Verilog of the machine as Verilator gets it."""
    return unclocked(enabled(selected(counted(streamed(rolled(merged(verilog)))))))


def counted(verilog: str) -> str:
    """What `hwgen.popcount` made of full adders as `$countones`, which is one instruction of a processor."""
    ones = dict(_ONES.findall(verilog))
    verilog = _BITS.sub(lambda bits: f"{bits[1]}_ones" if ones.get(bits[1]) == bits[0] else bits[0], verilog)
    return re.sub(r"^  assign (\w+)_ones = \1_ones;\n", r"  assign \1_ones = $countones(\1_counted);\n", verilog, flags=re.M)
