"""From q and k to ROM addresses: score lanes (AND, popcount, scaled fire), spike mask, relative position."""
from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.attention_desc import ADDRESS_BITS, THRESHOLD_BITS, AttentionDescriptor
from hwgen.config import MachineConfig
from hwgen.lfsr import advanced, next_row
from hwgen.popcount import popcount
from hwgen.potential import score_potential_bits, times_levels
from model.lfsr import LEAP, WIDTH
from quantize.formats import SCORE_SHIFT

CHUNK = 4
"""Channels whose products are counted in the first stage."""


def _total(terms: list[Value]) -> Value:
    """Sum of numbers as a balanced tree of adders."""
    while len(terms) > 1:
        terms = [terms[i] + terms[i + 1] if i + 1 < len(terms) else terms[i] for i in range(0, len(terms), 2)]
    return terms[0]


class ScoreLanes(wiring.Component):
    """`a = fire((q . k << 8) + (threshold >> 1), threshold)` for each query row, one key a cycle.

    Ports: `q`, A rows of head_lanes counts (already zero beyond the head), `k`, one row; `a`, A counts, SCORE_STAGES +
    score_stages - 1 cycles after `k`. Channel c's count is in bits [c*planes, (c+1)*planes).

    Stepwise, a neuron keeps its potential: `v = old + ((L * (q . k)) << 8)`, a spike where v >= threshold. `old`: the kept
    potentials, SCORE_STAGES - 1 cycles after `k`; `new`: those to keep, with `a`; `initial`: the first time step.
    """

    def __init__(self, machine: MachineConfig) -> None:
        self.machine = machine
        bits, rows = machine.head_lanes * machine.planes, machine.attention_rows
        kept = score_potential_bits(machine) if machine.stepwise else 0
        super().__init__({"desc": In(AttentionDescriptor), "q": In(bits).array(rows), "k": In(bits),
                          "a": Out(machine.planes).array(rows), "initial": In(1), "old": In(kept).array(rows),
                          "new": Out(kept).array(rows)})

    def elaborate(self, platform: object) -> Module:
        """Chunk counts; counts of a weight; score; charge; one register for each phase."""
        m, b, channels = Module(), self.machine.planes, self.machine.head_lanes
        top = channels * self.machine.levels**2
        charge_bits = max(top.bit_length() + SCORE_SHIFT, THRESHOLD_BITS) + 1
        threshold = self.desc.score_threshold
        for r in range(self.machine.attention_rows):
            weights: list[list[Value]] = [[] for _ in range(2 * b - 1)]
            for low in range(0, channels, CHUNK):
                chunk = range(low, min(low + CHUNK, channels))
                for weight in range(2 * b - 1):
                    bits: list[Value] = [self.q[r][c * b + p] & self.k[c * b + weight - p] for c in chunk
                                         for p in range(b) if 0 <= weight - p < b]
                    count = Signal(range(len(bits) + 1), name=f"chunk{r}_{low}_{weight}", reset_less=True)
                    m.d.sync += count.eq(popcount(m, bits, f"chunk{r}_{low}_{weight}"))
                    weights[weight].append(count)
            totals = []
            for weight, counts in enumerate(weights):
                total = Signal(range(channels * b + 1), name=f"weight{r}_{weight}", reset_less=True)
                m.d.sync += total.eq(_total(counts))
                totals.append(total << weight)
            score = Signal(range(top + 1), name=f"score{r}", reset_less=True)
            m.d.sync += score.eq(_total(totals))
            if self.machine.stepwise:
                self._step(m, r, score)
                continue
            charge = Signal(charge_bits, name=f"charge{r}", reset_less=True)
            m.d.sync += charge.eq((score << SCORE_SHIFT) + (threshold >> 1))
            spikes: list[Value] = []
            for phase in reversed(range(b)):
                rest = Signal(signed(charge_bits + b), name=f"rest{r}_{phase}")
                m.d.comb += rest.eq(charge - (threshold << phase))
                spike = rest >= 0
                if phase < 4:
                    spike = spike & self.desc.planes_enable[phase]
                after = Signal(charge_bits, name=f"charge{r}_{phase}", reset_less=True)
                fired = Signal(b - phase, name=f"fired{r}_{phase}", reset_less=True)
                m.d.sync += [after.eq(Mux(spike, rest, charge)), fired.eq(Cat(spike, *spikes))]
                charge, spikes = after, [fired[i] for i in range(b - phase)]
            m.d.comb += self.a[r].eq(Cat(*spikes))
        return m

    def _step(self, m: Module, r: int, score: Signal) -> None:
        """A time step's neuron: charge; sum; fire."""
        bits, threshold, old = score_potential_bits(self.machine), self.desc.score_threshold, self.old[r]
        charge, v = (Signal(bits, name=f"{name}{r}", reset_less=True) for name in ("charge", "v"))
        rest = Signal(signed(bits + 1), name=f"rest{r}")
        m.d.sync += [charge.eq(times_levels(score, self.machine.level_bits) << SCORE_SHIFT),
                     v.eq(charge + Mux(self.initial, threshold >> 1, old))]
        m.d.comb += rest.eq(v - threshold)
        m.d.sync += [self.a[r].eq(rest >= 0), self.new[r].eq(Mux(rest >= 0, rest, v))]


class _Row:
    """State of one query row: ROM entry of its first key, LFSR state, its region of an edge window."""

    def __init__(self, name: str) -> None:
        self.rom, self.lfsr = Signal(ADDRESS_BITS, name=f"{name}_rom"), Signal(WIDTH, name=f"{name}_lfsr")
        self.up, self.left = Signal(name=f"{name}_up"), Signal(name=f"{name}_left")
        self.edge_y, self.edge_x = Signal(name=f"{name}_edge_y"), Signal(name=f"{name}_edge_x")

    def all(self) -> Value:
        return Cat(self.rom, self.lfsr, self.up, self.left, self.edge_y, self.edge_x)


class ScoreRows(wiring.Component):
    """Spike mask, window mask and ROM address of each score, for A query rows at one key a cycle.

    `before` is high one cycle before the first key of a pass, `valid` with each key whose counts are on `a`. `address`
    follows 2 cycles after `a`, `allow` (the window mask) 3 cycles after, with the ROM's data. Rows are taken in mask
    row order, each job's last pass may leave rows idle. While one pass runs the next one's rows are prepared (A + 1
    cycles).
    """

    def __init__(self, machine: MachineConfig) -> None:
        self.machine = machine
        rows = machine.attention_rows
        super().__init__({
            "desc": In(AttentionDescriptor), "mask_state": In(WIDTH), "start": In(1), "before": In(1), "valid": In(1),
            "a": In(machine.planes).array(rows), "address": Out(ADDRESS_BITS).array(rows), "allow": Out(1).array(rows)})

    def elaborate(self, platform: object) -> Module:
        """The key's counters are shared; each row has its LFSR and ROM counter."""
        m, desc = Module(), self.desc
        rows = [_Row(f"row{r}") for r in range(self.machine.attention_rows)]
        self._prepare(m, rows)

        key_x, key_y, wrap = Signal(4), Signal(4), Signal()  # wrap: the key is its row's last
        next_x = Signal.like(key_x)
        m.d.comb += next_x.eq(Mux(self.before | wrap, 0, key_x + 1))
        with m.If(self.before | self.valid):
            m.d.sync += [key_x.eq(next_x), wrap.eq(next_x == desc.window_last)]
        with m.If(self.before):
            m.d.sync += key_y.eq(0)
        with m.Elif(self.valid & wrap):
            m.d.sync += key_y.eq(key_y + 1)
        key_up, key_left = key_y < desc.split, key_x < desc.split
        for r, prepared in enumerate(rows):
            now = _Row(f"now{r}")
            with m.If(self.before):
                m.d.sync += [now.all().eq(prepared.all()), now.lfsr.eq(advanced(prepared.lfsr, LEAP))]
            with m.Elif(self.valid):
                m.d.sync += [now.lfsr.eq(advanced(now.lfsr, LEAP)), now.rom.eq(now.rom - Mux(wrap, desc.rel_wrap, desc.rel_step))]
            keep = now.lfsr[:8] >= desc.mask_ratio  # the key's own draw stands in the register
            forbidden = (now.edge_y & (now.up ^ key_up)) | (now.edge_x & (now.left ^ key_left))
            count, entry = Signal(self.machine.planes, name=f"count{r}"), Signal(ADDRESS_BITS, name=f"entry{r}")
            allow = [Signal(name=f"allow{r}_{i}") for i in range(2)]
            m.d.sync += [count.eq(Mux(keep, self.a[r], 0)), entry.eq(now.rom), allow[0].eq(~forbidden),
                         self.address[r].eq(entry + count), allow[1].eq(allow[0]), self.allow[r].eq(allow[1])]
        return m

    def _prepare(self, m: Module, rows: list[_Row]) -> None:
        """Fill `rows` for the next pass, one a cycle; then, where the job's rows are used up, step to the next job."""
        desc, count = self.desc, len(rows)
        fill, following, job_rom, head = Signal(range(count + 2)), _Row("next"), Signal(ADDRESS_BITS), Signal(8)
        x, y, window_x, window_y, used_up = Signal(4), Signal(4), Signal(8), Signal(8), Signal()
        m.d.comb += [following.up.eq(y < desc.split), following.left.eq(x < desc.split),
                     following.edge_y.eq(window_y == desc.edge_row),
                     following.edge_x.eq(window_x == desc.windows_last)]
        with m.If(self.start):
            m.d.sync += [fill.eq(0), following.rom.eq(desc.rom_start), following.lfsr.eq(self.mask_state),
                         job_rom.eq(desc.rom_start), head.eq(0), x.eq(0), y.eq(0), window_x.eq(0), window_y.eq(0),
                         used_up.eq(0)]
        with m.Else():
            with m.If(self.before):
                m.d.sync += fill.eq(0)
            with m.Elif(fill != count + 1):
                m.d.sync += fill.eq(fill + 1)
            for r, row in enumerate(rows):
                with m.If(fill == r):
                    m.d.sync += row.all().eq(following.all())
            with m.If((fill < count) & ~used_up):
                m.d.sync += following.lfsr.eq(next_row(following.lfsr))
                with m.If(x == desc.window_last):
                    m.d.sync += [x.eq(0), y.eq(y + 1), used_up.eq(y == desc.window_last),
                                 following.rom.eq(following.rom + desc.rel_wrap)]
                with m.Else():
                    m.d.sync += [x.eq(x + 1), following.rom.eq(following.rom + desc.rel_step)]
            with m.If((fill == count) & used_up):
                rom = Mux(head == desc.heads_last, desc.rom_start, job_rom + desc.rom_head)
                m.d.sync += [used_up.eq(0), x.eq(0), y.eq(0), following.rom.eq(rom), job_rom.eq(rom), head.eq(head + 1)]
                with m.If(head == desc.heads_last):
                    m.d.sync += [head.eq(0), window_x.eq(window_x + 1)]
                    with m.If(window_x == desc.windows_last):
                        m.d.sync += [window_x.eq(0), window_y.eq(window_y + 1)]
