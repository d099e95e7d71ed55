"""A row's softmax sums of one time step, divided, and its neurons: only a `stepwise` machine has this (docs/semantics.md, 6).

current = (N << 16) // D by a serial divider, one quotient bit a cycle for all channels of a row; then v += current, a spike
where v >= 1 << 16, soft reset. `exact` needs no division: there D is the threshold (`hwgen.attention_sum`).
"""
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.attention_cycles import OUTPUT_STAGES
from hwgen.attention_desc import ADDRESS_BITS, AttentionDescriptor
from hwgen.config import MachineConfig
from hwgen.memory import Scratchpad
from hwgen.potential import output_potential_bits
from quantize.formats import CURRENT_FRACTION


class RowDivider(wiring.Component):
    """Takes A rows of sums N (`head_lanes` of them) and D with `load`; divides and fires them one after another.

    Ports: `load`, with `n` and `d`; a row takes `desc.row_last + 1` cycles, and is on `row` with `take` OUTPUT_STAGES cycles
    after its last one; `take_last` marks the last of A. `start` of a layer drops what the layer before still fires: rows
    beyond its last query. `initial`: the first time step. Quotients must fit `current_bits` (`hwgen.limits.current_bound`).
    """

    def __init__(self, m: MachineConfig, bits_n: int, bits_d: int) -> None:
        self.machine, self.bits_n, self.bits_d = m, bits_n, bits_d
        rows, channels = m.attention_rows, m.head_lanes
        super().__init__({
            "desc": In(AttentionDescriptor), "start": In(1), "initial": In(1), "load": In(1),
            "n": In(data.ArrayLayout(data.ArrayLayout(bits_n, channels), rows)), "d": In(data.ArrayLayout(bits_d, rows)),
            "take": Out(1), "take_last": Out(1), "row": Out(channels)})

    def elaborate(self, platform: object) -> Module:
        """Rows wait in line; row 0's registers divide."""
        m, machine, desc = Module(), self.machine, self.desc
        rows, channels, bits = machine.attention_rows, machine.head_lanes, machine.current_bits
        low = bits - CURRENT_FRACTION  # bits of N that are not yet in the remainder when a division begins
        waiting = [[Signal(self.bits_n, name=f"n{r}_{c}", reset_less=True) for c in range(channels)] for r in range(1, rows)]
        divisor = [Signal(self.bits_d, name=f"d{r}", reset_less=True) for r in range(rows)]
        busy, cycle, row = Signal(), Signal(6), Signal(range(rows)) if rows > 1 else Const(0, 1)
        end = cycle == desc.row_last
        with m.If(busy):
            m.d.sync += cycle.eq(cycle + 1)
        with m.If(busy & end):
            m.d.sync += [cycle.eq(0), busy.eq(row != rows - 1)]
            if isinstance(row, Signal):
                m.d.sync += row.eq(row + 1)
        with m.If(self.load):
            m.d.sync += [busy.eq(1), cycle.eq(0)]
            if isinstance(row, Signal):
                m.d.sync += row.eq(0)
        with m.If(self.start):
            m.d.sync += busy.eq(0)

        quotients: list[Value] = []
        for c in range(channels):
            rest = Signal(self.bits_d, name=f"rest{c}", reset_less=True)
            digits = Signal(bits, name=f"digits{c}", reset_less=True)  # what of N is left on top, the quotient below
            longer, less = Signal(self.bits_d + 1, name=f"longer{c}"), Signal(signed(self.bits_d + 2), name=f"less{c}")
            after = Signal(bits, name=f"after{c}")
            m.d.comb += [longer.eq(Cat(digits[-1], rest)), less.eq(longer - divisor[0]), after.eq(Cat(less >= 0, digits)[:bits])]
            with m.If(busy & (cycle < bits)):
                m.d.sync += [rest.eq(Mux(less >= 0, less, longer)), digits.eq(after)]
            following = Mux(self.load, self.n[0][c], waiting[0][c] if rows > 1 else 0)
            with m.If(self.load | (busy & end)):
                m.d.sync += [rest.eq(following >> low),
                             digits.eq(Cat(Const(0, CURRENT_FRACTION), following, Const(0, low))[:bits])]
                for r in range(1, rows):
                    behind = waiting[r][c] if r + 1 < rows else 0
                    m.d.sync += waiting[r - 1][c].eq(Mux(self.load, self.n[r][c], behind))
            quotients.append(Mux(cycle < bits, after, digits))
        with m.If(self.load | (busy & end)):
            m.d.sync += [divisor[r].eq(Mux(self.load, self.d[r], divisor[r + 1] if r + 1 < rows else 0)) for r in range(rows)]
        self._fire(m, busy & end, busy & (cycle == 0), row == rows - 1, quotients)
        return m

    def _fire(self, m: Module, ended: Value, began: Value, last: Value, quotients: list[Value]) -> None:
        """The neurons: a row's potentials are read while it is divided. One word for each row fired, in order."""
        channels, bits = self.machine.head_lanes, output_potential_bits(self.machine)
        m.submodules.potentials = memory = Scratchpad(width=channels * bits, depth=max(1, self.machine.output_potentials))
        kept = data.ArrayLayout(bits, channels)
        old, new, v = (Signal(kept, name=name, reset_less=True) for name in ("old", "new", "v"))
        current = Signal(data.ArrayLayout(self.machine.current_bits, channels), reset_less=True)
        place = [Signal(ADDRESS_BITS, name=f"place{stage}") for stage in range(OUTPUT_STAGES + 1)]
        takes, lasts = [ended], [last]
        for stage in range(1, OUTPUT_STAGES + 1):
            take, take_last = Signal(name=f"take{stage}"), Signal(name=f"take_last{stage}")
            m.d.sync += [take.eq(takes[-1] & ~self.start), take_last.eq(lasts[-1]), place[stage].eq(place[stage - 1])]
            takes.append(take)
            lasts.append(take_last)
        with m.If(ended):
            m.d.sync += place[0].eq(place[0] + 1)
        with m.If(self.start):
            m.d.sync += place[0].eq(self.desc.potential_base)
        m.d.comb += [memory.read.address.eq(place[0]), memory.read.en.eq(began),
                     memory.write.address.eq(place[-1]), memory.write.en.eq(takes[-1]), memory.write.data.eq(new),
                     self.take.eq(takes[-1]), self.take_last.eq(lasts[-1])]
        m.d.sync += old.eq(memory.read.data)
        for c in range(channels):
            rest = Signal(signed(bits + 1), name=f"over{c}")
            m.d.comb += rest.eq(v[c] - (1 << CURRENT_FRACTION))
            m.d.sync += [v[c].eq(current[c] + Mux(self.initial, 1 << CURRENT_FRACTION - 1, old[c])),
                         self.row[c].eq(rest >= 0), new[c].eq(Mux(rest >= 0, rest, v[c]))]
            with m.If(ended):
                m.d.sync += current[c].eq(quotients[c])
