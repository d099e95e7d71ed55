"""The attention unit: a whole layer of windowed spike attention (docs/semantics.md, 3.4).

Softmax by ROM, division by soft reset. While one job (a head of a window) computes, the next one's q, k and v are
loaded. Its cycles, exactly: hwgen/attention_cycles.py.
"""
from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hwgen.attention_cycles import SCORE_STAGES, score_stages
from hwgen.attention_desc import ADDRESS_BITS, AttentionDescriptor
from hwgen.attention_move import AttentionLoader, AttentionOutput, parts, slice_bits
from hwgen.attention_scores import ScoreLanes, ScoreRows
from hwgen.attention_sum import AttentionSum
from hwgen.config import MachineConfig
from hwgen.memory import Scratchpad, read_signature, write_signature
from hwgen.potential import score_potential_bits
from model.lfsr import WIDTH


def at_rest(m: MachineConfig) -> int:
    """Cycles after `done` by which every stage is empty: more than the pipeline is long, and the last rows take."""
    return 64 + (m.attention_rows * m.current_bits if m.stepwise else 0)


class AttentionUnit(wiring.Component):
    """Runs one attention layer: q, k, v counts in the spike scratchpad -> output counts in the spike scratchpad.

    Ports: `start`, one cycle, with `desc` (`hwgen.attention_desc`) and `mask_state`,
    the LFSR state before the first draw of the layer's first score row, valid in that cycle; `done`, one cycle, after
    the last write; `spike_read`, `spike_write`: one word a cycle each, never refused, and what
    was read comes two cycles after its address (`hwgen.memory.taken_over`); `rom`: A read ports (A = attention_rows)
    of {den, num}, num in the low `rom_bits`. The next `start` may come in the cycle after `done`. Input and output
    regions must not overlap. Stepwise, `initial` (a level) is high in the first time step.
    Each token's whole output words are written, lanes without a channel as 0.
    """

    def __init__(self, m: MachineConfig, spike_address_bits: int, rom_address_bits: int) -> None:
        self.machine, self.spike_address_bits = m, spike_address_bits
        super().__init__({
            "start": In(1), "done": Out(1), "desc": In(AttentionDescriptor), "mask_state": In(WIDTH), "initial": In(1),
            "spike_read": Out(read_signature(spike_address_bits, m.word_bits)),
            "spike_write": Out(write_signature(spike_address_bits, m.word_bits)),
            "rom": Out(read_signature(rom_address_bits, 2 * m.rom_bits)).array(m.attention_rows)})

    def elaborate(self, platform: object) -> Module:
        """Wiring, the job sequence, and the control bits that travel with each key."""
        m, machine = Module(), self.machine
        self.begin, self.late = Signal(), Signal.like(self.desc, reset_less=True)  # start and desc, which have come a long way
        m.d.sync += self.begin.eq(self.start)
        with m.If(self.start):
            m.d.sync += self.late.eq(self.desc)
        desc = self.late
        rows, lane_bits = machine.attention_rows, machine.head_lanes * machine.planes
        m.submodules.loader = loader = AttentionLoader(machine, self.spike_address_bits)
        m.submodules.lanes = lanes = ScoreLanes(machine)
        m.submodules.rows = score_rows = ScoreRows(machine)
        m.submodules.sums = sums = AttentionSum(machine)
        m.submodules.output = output = AttentionOutput(machine, self.spike_address_bits)
        connect(m, flipped(self.spike_read), loader.spike_read)
        connect(m, flipped(self.spike_write), output.spike_write)
        m.d.comb += [unit.desc.eq(desc) for unit in (loader, lanes, score_rows, sums, output)]
        m.d.comb += [unit.start.eq(self.begin) for unit in (loader, score_rows, sums, output)]
        m.d.comb += [self.done.eq(output.done), score_rows.mask_state.eq(self.mask_state), lanes.initial.eq(self.initial),
                     sums.initial.eq(self.initial)]

        mask = Signal(lane_bits)  # zero beyond the head's channels: what lies there belongs to other heads
        for c in range(machine.head_lanes):
            lane = mask[c * machine.planes:(c + 1) * machine.planes]
            m.d.sync += lane.eq((desc.head_size > c).replicate(machine.planes))

        next_key, bank, query, query_bank, fetched, issue = self._sequence(m, loader)
        # With each key, by stage: valid, first and last of its pass, buffer bank.
        stages = [issue]
        for index in range(SCORE_STAGES + score_stages(machine) + 7):
            later = Signal(len(issue), name=f"key_stage{index + 1}")
            m.d.sync += later.eq(stages[-1])
            stages.append(later)
        scored = SCORE_STAGES + score_stages(machine)  # the stage in which a count leaves the score lanes

        value = Signal(range(machine.window_tokens))
        with m.If(stages[scored + 2][1]):
            m.d.sync += value.eq(0)
        with m.Elif(stages[scored + 3][0]):
            m.d.sync += value.eq(value + 1)
        addresses = (Cat(query, query_bank), next_key, Cat(value, stages[scored + 3][3]))
        q, k, v = (self._buffer(m, loader, kind, address, ~bank)[:lane_bits] for kind, address in enumerate(addresses))

        for r in range(rows):
            waiting, now = (Signal(lane_bits, name=f"{name}{r}", reset_less=True) for name in ("q_waiting", "q"))
            with m.If(fetched[r]):
                m.d.sync += waiting.eq(q & mask)
            with m.If(issue[1]):
                m.d.sync += now.eq(waiting)
            m.d.comb += [
                lanes.q[r].eq(now), score_rows.a[r].eq(lanes.a[r]), self.rom[r].address.eq(score_rows.address[r]),
                self.rom[r].en.eq(stages[scored + 2][0]),
                sums.entry[r].eq(self.rom[r].data), sums.allow[r].eq(score_rows.allow[r])]
        late_k = Signal(lane_bits, reset_less=True)  # registers behind k and v: then come the products of every channel
        m.d.sync += [late_k.eq(k), sums.v.eq(v & mask)]
        m.d.comb += [
            lanes.k.eq(late_k),
            score_rows.before.eq(stages[scored - 1][1]), score_rows.valid.eq(stages[scored][0]),
            sums.valid.eq(stages[scored + 6][0]), sums.first.eq(stages[scored + 6][1]),
            sums.last.eq(stages[scored + 7][2]),
            output.take.eq(sums.take), output.take_last.eq(sums.take_last), output.row.eq(sums.row)]
        if machine.stepwise:
            self._potentials(m, lanes, stages, scored)
        return m

    def _potentials(self, m: Module, lanes: ScoreLanes, stages: list[Value], scored: int) -> None:
        """The scores' potentials: a word for each key of each pass of the program's attention layers, in the order of issue."""
        bits = score_potential_bits(self.machine)
        m.submodules.potentials = memory = Scratchpad(width=self.machine.attention_rows * bits,
                                                      depth=max(1, self.machine.score_potentials))
        read_stage = SCORE_STAGES - 2  # its data is in a register when the charge is
        places = [Signal(ADDRESS_BITS, name=f"place{stage}") for stage in range(read_stage, scored + 1)]
        with m.If(stages[read_stage][0]):
            m.d.sync += places[0].eq(places[0] + 1)
        with m.If(self.begin & self.late.scores_first):
            m.d.sync += places[0].eq(0)
        m.d.sync += [later.eq(place) for place, later in zip(places, places[1:], strict=False)]
        m.d.comb += [memory.read.address.eq(places[0]), memory.read.en.eq(stages[read_stage][0]),
                     memory.write.address.eq(places[-1]), memory.write.en.eq(stages[scored][0]),
                     memory.write.data.eq(Cat(*lanes.new))]
        m.d.sync += [lanes.old[r].eq(memory.read.data.word_select(r, bits)) for r in range(self.machine.attention_rows)]

    def _sequence(self, m: Module, loader: AttentionLoader) -> tuple[Value, Value, Value, Value, list[Value], Value]:
        """Slots of passes of keys.

        Returns where the next cycle's key lies, its bank, query index and bank, which waiting query row its fetch has reached,
        and the issue bits (valid, first, last, bank). `left` counts down the cycles of a pass; in its last cycles the next
        pass's query rows are fetched, and before that the last pass waits for the next job's loading.
        """
        desc, rows = self.late, self.machine.attention_rows
        running, computing, loaded, bank = Signal(), Signal(), Signal(), Signal()
        left, passed = Signal(9), Signal(8)
        tokens = range(self.machine.window_tokens)
        key, keys, query = Signal(tokens), Signal(), Signal(tokens)
        last_pass, starting = Signal(), Signal()  # passed == passes_last; left == 0: a pass, whose first key is read before it
        held = last_pass & (left == rows) & ~loader.done
        m.d.comb += loader.go.eq(running & last_pass & starting & loader.more)
        with m.If(keys):
            m.d.sync += [key.eq(key + 1), keys.eq(key != desc.keys_last)]
        with m.If(last_pass & (left == desc.pass_last)):
            m.d.sync += query.eq(0)
        with m.If(self.begin):
            # as if a job without keys had come to the point where it waits
            m.d.sync += [running.eq(1), computing.eq(0), loaded.eq(1), bank.eq(1), left.eq(rows),
                         passed.eq(desc.passes_last), keys.eq(0), query.eq(0), last_pass.eq(1), starting.eq(0)]
        with m.Elif(running & ~held):
            m.d.sync += [left.eq(left - 1), starting.eq(left == 1)]
            with m.If((left != 0) & (left <= rows)):
                m.d.sync += query.eq(query + 1)
            with m.If(starting):
                m.d.sync += [left.eq(desc.pass_last), key.eq(0), last_pass.eq(Mux(last_pass, 0, passed + 1) == desc.passes_last)]
                with m.If(last_pass):
                    m.d.sync += [passed.eq(0), bank.eq(~bank), computing.eq(loaded), running.eq(loaded),
                                 keys.eq(loaded), loaded.eq(loader.more)]
                with m.Else():
                    m.d.sync += [passed.eq(passed + 1), keys.eq(computing)]
        fetched = [left == rows - 1 - r for r in range(rows)]
        issue = Cat(keys, keys & (key == 0), keys & (key == desc.keys_last), bank)
        next_key = Cat(Mux(starting, 0, key + 1)[:len(key)], bank ^ (starting & last_pass))
        return next_key, bank, query, bank ^ last_pass, fetched, issue

    def _buffer(self, m: Module, loader: AttentionLoader, kind: int, address: Value, loading: Value) -> Value:
        """One of the double buffers q, k, v: a word for each token, in two banks; bank `loading` is written."""
        depth = 1 << (self.machine.window_tokens - 1).bit_length()
        count = parts(self.machine)
        words = memory.Memory(shape=slice_bits(self.machine), depth=2 * depth, init=[])
        m.submodules[f"buffer_{'qkv'[kind]}"] = words
        write = words.write_port(granularity=slice_bits(self.machine) // count)
        read = words.read_port()
        m.d.comb += [
            write.addr.eq(Cat(loader.write.index, loading)), write.data.eq(loader.write.data),
            write.en.eq(Mux(loader.write.kind[kind], loader.write.part, 0)), read.addr.eq(address)]
        return read.data
