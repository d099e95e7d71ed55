"""The softmax sums of each query row, and their fire: N += num * v, D += den, out = fire(N + (D >> 1), D)."""
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.attention_desc import AttentionDescriptor
from hwgen.attention_divide import RowDivider
from hwgen.config import MachineConfig


class AttentionSum(wiring.Component):
    """A rows of sums at one key a cycle; finished rows fire one after another while the next rows accumulate.

    Ports, with the ROM's data in cycle 0: `entry`, A words {den, num}, and `allow` in cycle 0; `v`, one row of
    head_lanes counts (already zero beyond the head), in cycle 2; `valid` and `first` (of a pass) in cycle 3; `last` in
    cycle 4. The first row fires from cycle 5 of its last key on, for row_last + 1 cycles, and is on `row` in the cycle
    after (stepwise: two later; `initial`: the first time step), with `take`; the others follow.
    `take_last` marks the pass's last row. `start` of a layer drops what the layer before still fires: rows beyond its last
    query.
    """

    def __init__(self, machine: MachineConfig) -> None:
        self.machine = machine
        bits = machine.head_lanes * machine.planes
        super().__init__({
            "desc": In(AttentionDescriptor), "start": In(1), "entry": In(2 * machine.rom_bits).array(machine.attention_rows),
            "allow": In(1).array(machine.attention_rows), "v": In(bits), "valid": In(1), "first": In(1), "last": In(1),
            "initial": In(1),
            "take": Out(1), "take_last": Out(1), "row": Out(bits)})

    def elaborate(self, platform: object) -> Module:
        """ROM word; products by gated shifts; sums; fire."""
        m, machine = Module(), self.machine
        b, channels, rows = machine.planes, machine.head_lanes, machine.attention_rows
        largest = (1 << machine.rom_bits) - 1
        top_d, top_n = machine.window_tokens * largest, machine.window_tokens * largest * machine.levels
        sums_n: list[list[Value]] = []
        sums_d: list[Value] = []
        for r in range(rows):
            num, den, later = (Signal(machine.rom_bits, name=f"{name}{r}", reset_less=True)
                               for name in ("num", "den", "den_later"))
            total = Signal(range(top_d + 1), name=f"sum_d{r}", reset_less=True)
            allow = Signal(name=f"allow_later{r}")
            # a block RAM's output is late: it goes straight to a register; and the block RAM lies far away: a second one
            entry, allowed = Signal.like(self.entry[r], name=f"entry{r}", reset_less=True), Signal(name=f"allowed{r}")
            m.d.sync += [entry.eq(self.entry[r]), allowed.eq(self.allow[r]), num.eq(entry[:machine.rom_bits]),
                         den.eq(entry[machine.rom_bits:]), allow.eq(allowed), later.eq(Mux(allow, den, 0))]
            with m.If(self.valid):
                m.d.sync += total.eq(Mux(self.first, 0, total) + later)
            sums_d.append(total)
            sums: list[Value] = []
            for c in range(channels):
                # the charge as a pair of terms: its last addition waits for the sum's
                gated = [Mux(self.v[c * b + p] & allow, num << p, 0) for p in range(b)]
                split = max(1, b - 1)
                charge = [Signal(range((largest << first) * ((1 << last - first) - 1) + 1), name=f"charge{r}_{c}_{first}",
                                 reset_less=True) for first, last in ((0, split), (split, b)) if last > first]
                for term, part in zip(charge, (gated[:split], gated[split:]), strict=False):
                    m.d.sync += term.eq(sum(part[1:], part[0]))
                potential = Signal(range(top_n + 1), name=f"sum_n{r}_{c}", reset_less=True)
                with m.If(self.valid):
                    m.d.sync += potential.eq(sum(charge, Mux(self.first, 0, potential)))
                sums.append(potential)
            sums_n.append(sums)
        if machine.stepwise:
            self._divide(m, sums_n, sums_d)
        else:
            self._fire(m, sums_n, sums_d, top_n + top_d // 2, top_d << (b - 1))
        return m

    def _divide(self, m: Module, sums_n: list[list[Value]], sums_d: list[Value]) -> None:
        """Division and neurons of a time step (`hwgen.attention_divide`)."""
        m.submodules.divider = divider = RowDivider(self.machine, len(sums_n[0][0]), len(sums_d[0]))
        m.d.comb += [divider.desc.eq(self.desc), divider.start.eq(self.start), divider.initial.eq(self.initial),
                     divider.load.eq(self.last), self.take.eq(divider.take), self.take_last.eq(divider.take_last),
                     self.row.eq(divider.row)]
        for r, (row, total) in enumerate(zip(sums_n, sums_d, strict=True)):
            m.d.comb += [divider.d[r].eq(total), *(divider.n[r][c].eq(value) for c, value in enumerate(row))]

    def _fire(self, m: Module, sums_n: list[list[Value]], sums_d: list[Value], top_v: int, top_t: int) -> None:
        """`b` phases for each row; row 0's registers fire, the others wait in line, their half threshold not yet added."""
        desc, b, channels, rows = self.desc, self.machine.planes, self.machine.head_lanes, self.machine.attention_rows
        v = [[Signal(range(top_v + 1), name=f"v{r}_{c}", reset_less=True) for c in range(channels)] for r in range(rows)]
        threshold = [Signal(range(top_t + 1), name=f"threshold{r}", reset_less=True) for r in range(rows)]
        busy, cycle, row = Signal(), Signal(5), Signal(range(rows)) if rows > 1 else Const(0, 1)
        enable = Signal()
        with m.Switch(cycle):
            for phase in range(b):
                with m.Case(b - 1 - phase):
                    m.d.comb += enable.eq(desc.planes_enable[phase])
        phases, end, next_cycle = cycle < b, Signal(), Signal.like(cycle)  # end: of a row's cycles
        m.d.comb += next_cycle.eq(Mux(self.last | (busy & end), 0, cycle + busy))
        m.d.sync += [cycle.eq(next_cycle), end.eq(next_cycle == desc.row_last)]
        m.d.sync += [self.take.eq(busy & end & ~self.start), self.take_last.eq(row == rows - 1)]
        with m.If(busy):
            m.d.sync += threshold[0].eq(threshold[0] >> 1)
        for c in range(channels):
            rest = Signal(signed(max(len(v[0][c]), len(threshold[0])) + 1), name=f"rest_{c}")
            m.d.comb += rest.eq(v[0][c] - threshold[0])
            spike = (rest >= 0) & enable
            with m.If(busy & phases):
                count = self.row[c * b:(c + 1) * b]
                m.d.sync += [v[0][c].eq(Mux(spike, rest, v[0][c])), count.eq(Cat(spike, Mux(cycle == 0, 0, count)[:b - 1]))]
        with m.If(busy & end):
            m.d.sync += busy.eq(row != rows - 1)
            if isinstance(row, Signal):
                m.d.sync += row.eq(row + 1)
        with m.If(self.last):
            m.d.sync += busy.eq(1)
            if isinstance(row, Signal):
                m.d.sync += row.eq(0)
        with m.If(self.start):
            m.d.sync += busy.eq(0)
        for r in range(rows):
            behind = r + 1 if r + 1 < rows else r
            following = Mux(self.last, sums_d[r] << (b - 1), threshold[behind])
            half = following >> b if r == 0 else 0
            with m.If(self.last | (busy & end)):
                m.d.sync += [threshold[r].eq(following),
                             *(v[r][c].eq(Mux(self.last, sums_n[r][c], v[behind][c]) + half) for c in range(channels))]
