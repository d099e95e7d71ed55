"""Clock gate: the clock of a unit that may stand still, as a domain of its own.

On an FPGA the clock simply goes through: clock nets are no place for logic. With the macro MST_CLOCK_GATES it is an integrated
clock gate (a latch that is open while the clock is low, and an AND): what would save power in a chip. Compiled simulation reads
it so too, and spends nothing on an idle unit (`sim/fast/clocks.py`). Both give the same values as long as a unit whose clock
stands still would not have changed anything that is ever looked at: `hold` cycles after its end it has come to rest.
"""
from amaranth.hdl import ClockDomain, ClockSignal, Const, Instance, Module, Signal, Value

GATE = "mst_clock_gate"
MACRO = "MST_CLOCK_GATES"
VERILOG = f"""
module {GATE}(clk, enable, gated);
  input clk, enable;
  output gated;
`ifdef {MACRO}
  reg open = 1'h1;
  always @*
    if (!clk) open = enable;
  assign gated = clk & open;
`else
  assign gated = clk;
`endif
endmodule
"""
"""The module behind `gated_domain`, for the end of a Verilog file that uses it (`hwgen.verilog` adds it)."""


def gated(m: Module, name: str, enable: Value) -> str:
    """Adds clock domain `name`: the clock of "sync" in the cycles where `enable` is 1; gives `name`. It has no reset.

    For registers that keep their values while `enable` is 0, or whose values are then not looked at.
    """
    domain = ClockDomain(name, local=True, reset_less=True)
    m.domains += domain
    m.submodules[f"{name}_gate"] = Instance(GATE, i_clk=ClockSignal(), i_enable=enable, o_gated=domain.clk)
    return name


def reset_domain(m: Module, name: str, reset: Signal, enable: Value | None = None) -> None:
    """Adds clock domain `name`: the clock of "sync" (in the cycles where `enable` is 1), and `reset` alone as its reset.

    `reset` is a register of "sync" that holds 1 while that is reset, so a cycle longer: the two need no gate in front of each
    register.
    """
    domain = ClockDomain(name, local=True)
    m.domains += domain
    m.d.comb += domain.rst.eq(reset)
    m.submodules[f"{name}_gate"] = Instance(
        GATE, i_clk=ClockSignal(), i_enable=Const(1) if enable is None else enable | reset, o_gated=domain.clk)


def gated_domain(m: Module, name: str, start: Value, done: Value, stop: Signal, hold: int) -> None:
    """Adds clock domain `name`: the clock of "sync" from the cycle of `start` until `hold` cycles after `done` or `stop`.

    `stop` is its reset (`reset_domain`).
    """
    running, left = Signal(name=f"{name}_running"), Signal(range(hold + 1), name=f"{name}_left")
    with m.If(start):
        m.d.sync += running.eq(1)
    with m.Elif(done | stop):
        m.d.sync += [running.eq(0), left.eq(hold)]
    with m.Elif(left != 0):
        m.d.sync += left.eq(left - 1)
    reset_domain(m, name, stop, start | running | (left != 0))
