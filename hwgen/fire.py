"""Fire unit: takes a finished token's accumulators, `fire_lanes` channels a cycle, while the next token accumulates.

A feed-forward pipeline that never stalls: offset -> b phases of soft reset (compare, subtract `threshold << p`) -> spike
mask -> residual (stream += gain * count, as gated shifts) -> offset -> b phases, or rounding shift -> spike mask -> packed
spike words. The token is outermost: no membrane potential is ever stored in memory. (A stepwise machine stores them: there the
b phases are the three stages of `hwgen.potential`.)

Timing: `ready` in cycle h starts a token; its group g is at stage 0 in cycle h + 1 + g; its first spike word is written
`gemm_cycles.write_delay` cycles after its last group was at stage 0.
"""
from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.clock_gate import gated
from hwgen.config import MachineConfig
from hwgen.descriptors import ADDRESS_BITS, GEMM, After, layout
from hwgen.gemm_cycles import logits_delay
from hwgen.lfsr import advanced, draw_bytes, next_row
from hwgen.parameters import OFFSET_BITS, branch_words, neuron_words
from hwgen.potential import StepNeurons, neuron_stages, times_levels
from model.lfsr import LEAP, WIDTH
from quantize.formats import LOGIT_BITS, PIXEL_BITS, STREAM_BITS, THRESHOLD_BITS

PLANES_MAX = 12
"""Most bit planes of a requantised residual (`stream_bits`)."""


def value_words(m: MachineConfig) -> int:
    """Spike words that the widest multi-bit value takes (pixels, requantised residuals)."""
    return -(-max(PLANES_MAX, PIXEL_BITS) // m.planes)


class FireUnit(wiring.Component):
    """Neuron, residual, second neuron or requantise, masks and packing for the tokens of one GEMM descriptor.

    `start`: pulse, with `desc` and `mask_state` (LFSR state before the first draw) stable from then on. `done`: pulse in the
    cycle of the last write. Logits leave through `logits` instead of the scratchpad. `initial`, `last_step`: levels of a stepwise
    machine; its logits, summed over the time steps, leave in the last one.
    """

    def __init__(self, m: MachineConfig) -> None:
        self.m = m
        address = {"address": Out(ADDRESS_BITS), "en": Out(1)}
        super().__init__({
            "start": In(1), "desc": In(layout(GEMM)), "masked": In(1), "mask_state": In(WIDTH), "done": Out(1),
            "override": In(1), "override_ratio": In(8), "initial": In(1), "last_step": In(1),
            "acc": In(data.ArrayLayout(signed(m.acc_bits), m.lanes)), "ready": In(1),
            "neuron_read": Out(wiring.Signature({**address, "data": In(neuron_words(m))})),
            "branch_read": Out(wiring.Signature({**address, "data": In(branch_words(m))})),
            "stream_read": Out(wiring.Signature({**address, "data": In(m.fire_lanes * STREAM_BITS)})),
            "stream_write": Out(wiring.Signature({**address, "data": Out(m.fire_lanes * STREAM_BITS)})),
            "spike_write": Out(wiring.Signature({**address, "data": Out(m.word_bits)})),
            "logits": Out(wiring.Signature({"valid": Out(1), "last": Out(1),
                                            "data": Out(m.fire_lanes * LOGIT_BITS)}))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cfg, d = self.m, self.desc
        lanes, b, n = cfg.fire_lanes, cfg.planes, neuron_stages(cfg)
        logit_stage = logits_delay(cfg)
        places = {"stream": (d.stream_base, d.stream_step)}  # words of the current group, in memories with a word for each
        if cfg.stepwise:
            places |= {"potential": (d.potential_base, d.potential_step), "norm": (d.norm_base, d.potential_step)}
        control = data.StructLayout({"valid": 1, "first": 1, "last": 1, "final": 1, "group": 7,
                                     **dict.fromkeys(places, ADDRESS_BITS)})

        # Sequencing: one group a cycle out of a buffer that was loaded when the accumulators were ready.
        buffer = Signal(data.ArrayLayout(signed(cfg.acc_bits), cfg.lanes), reset_less=True)
        left, group, firing = Signal(8), Signal(7), Signal()  # firing: left is not 0
        row, column = Signal(10), Signal(10)
        tokens = {name: Signal(ADDRESS_BITS, name=f"{name}_token") for name in places}
        s0 = Signal(control)
        m.d.comb += [s0.valid.eq(firing), s0.first.eq(group == 0), s0.last.eq(left == 1), s0.group.eq(group),
                     *(s0[name].eq(token + group) for name, token in tokens.items()),
                     s0.final.eq(s0.last & (row == d.tokens_y) & (column == d.tokens_x))]
        tokens_clock = m.d[gated(m, "tokens", self.ready | firing)]
        with m.If(firing):
            shifted = Cat(buffer.as_value()[lanes * cfg.acc_bits:])
            tokens_clock += buffer.eq(shifted)
            m.d.sync += [left.eq(left - 1), group.eq(group + 1), firing.eq(left != 1)]
            with m.If(s0.last):
                m.d.sync += [token.eq(token + places[name][1]) for name, token in tokens.items()]
                with m.If(column == d.tokens_x):
                    m.d.sync += [column.eq(0), row.eq(row + 1)]
                with m.Else():
                    m.d.sync += column.eq(column + 1)
        with m.If(self.ready):
            tokens_clock += buffer.eq(self.acc)
            m.d.sync += [left.eq(d.groups + 1), group.eq(0), firing.eq(1)]
        with m.If(self.start):
            m.d.sync += [row.eq(0), column.eq(0), *(token.eq(places[name][0]) for name, token in tokens.items())]
        neuron = Signal.like(d.neuron_base)
        m.d.comb += [self.neuron_read.address.eq(Mux(self.ready, d.neuron_base, neuron)),
                     self.neuron_read.en.eq(self.ready | firing)]
        with m.If(self.neuron_read.en):
            m.d.sync += neuron.eq(self.neuron_read.address + 1)

        # What the descriptor says, decoded once: it stands long before the first token.
        residual, plain, norm, planes, logits = (Signal(name=f"to_{name}")
                                                 for name in ("residual", "counts", "norm", "planes", "logits"))
        m.d.sync += [residual.eq((d.after == After.NORM) | (d.after == After.PLANES)), plain.eq(d.after == After.COUNTS),
                     norm.eq(d.after == After.NORM), planes.eq(d.after == After.PLANES), logits.eq(d.after == After.LOGITS)]

        # Spike mask: one draw a channel, in order; a new mask row with each token.
        mask_row, mask_now = Signal(WIDTH), Signal(WIDTH)
        draws = m.d[gated(m, "draws", self.masked & (self.start | self.ready | firing))]
        with m.If(self.start):
            draws += mask_row.eq(self.mask_state)
        with m.Elif(self.ready):
            draws += [mask_row.eq(next_row(mask_row)), mask_now.eq(mask_row)]
        with m.Elif(firing):
            draws += mask_now.eq(advanced(mask_now, LEAP * lanes))

        ctl = [s0]
        for stage in range(1, 2 * n + 7):
            signal = Signal(control, name=f"ctl{stage}")
            m.d.sync += signal.eq(ctl[-1])
            if stage == logit_stage + 1:  # logits have left: what is behind them belongs to the next descriptor
                m.d.sync += signal.valid.eq(ctl[-1].valid & (d.after != After.LOGITS))
            ctl.append(signal)
        # The registers of a stage move where a group comes in.
        stages = [gated(m, f"stage{stage + 1}", control.valid) for stage, control in enumerate(ctl)]
        into = dict(enumerate(stages, start=1))

        # Stage 1: the group's sums, parameters and draws (a block RAM's output is late: it goes straight to a register).
        taken: list[Value] = [buffer[lane] for lane in range(lanes)]
        if cfg.stepwise:
            taken = [Mux(d.scaled, times_levels(value, cfg.level_bits), value) for value in taken]
        sum_bits = cfg.acc_bits + (cfg.level_bits if cfg.stepwise else 0)
        group_sums = [_registered(m, into[1], value, signed(sum_bits), "sum1", lane) for lane, value in enumerate(taken)]
        parameters = _taken_over(m, into[1], self.neuron_read.data, "neuron1")
        drops = Signal(lanes)
        drawn_now = gated(m, "drawn", s0.valid & self.masked)
        ratios = [Signal(8, name=f"ratio{which}") for which in range(2)]  # they too stand long before the first token
        m.d.sync += [ratio.eq(Mux(self.masked, Mux(self.override, self.override_ratio, own), 0))
                     for ratio, own in zip(ratios, (d.ratio0, d.ratio1), strict=True)]
        for lane, byte in enumerate(draw_bytes(mask_now, lanes)):
            drawn = _registered(m, drawn_now, byte, LEAP, "draw1", lane)
            select = parameters[lane].select
            m.d.comb += drops[lane].eq(drawn < Mux(select == 0, 0, Mux(select == 2, ratios[1], ratios[0])))
        drop: list[Signal] = [drops, *_delayed(m, stages[1:], drops, 2 * n + 5, "drop")]  # by stage; there is none at stage 0

        # Stage 2: initial potential, or a time step's charge; stages 3 .. n+2: the neuron.
        v_bits = max(sum_bits, OFFSET_BITS) + 1
        sums = [group_sums[lane] + parameters[lane].offset for lane in range(lanes)]
        v = [_registered(m, into[2], value, signed(v_bits), "v2", lane) for lane, value in enumerate(sums)]
        threshold = [_registered(m, into[2], parameters[lane].threshold, THRESHOLD_BITS, "t2", lane) for lane in range(lanes)]
        if cfg.stepwise:
            counts, v = self._steps(m, "neurons", cfg.neuron_potentials, ctl[1], ctl[1].potential, v, threshold)
        else:
            counts, _ = self._phases(m, stages[2:], v, threshold, "n")
        m.d.comb += [self.logits.valid.eq(ctl[logit_stage].valid & logits & (self.last_step | (not cfg.stepwise))),
                     self.logits.last.eq(ctl[logit_stage].last),
                     self.logits.data.eq(Cat(_extended(value, LOGIT_BITS) for value in v))]
        # Stage n+3: mask of the neuron itself (only where nothing follows), gated shifts of the gain.
        m.d.comb += [self.branch_read.address.eq(d.branch_base + ctl[n].group),
                     self.branch_read.en.eq(ctl[n].valid & residual),
                     self.stream_read.address.eq(ctl[n + 1].stream),
                     self.stream_read.en.eq(ctl[n + 1].valid & residual & ~d.fresh)]
        branch = _taken_over(m, into[n + 2], self.branch_read.data, "branch2")
        kept = [_registered(m, into[n + 3], Mux(drop[n + 2][lane] & plain, 0, counts[lane]), b, "kept3", lane)
                for lane in range(lanes)]
        gains = [times_levels(entry.gain, cfg.level_bits) if cfg.stepwise else entry.gain
                 for entry in (branch[lane] for lane in range(lanes))]
        product = [_registered(m, into[n + 3], sum((Mux(counts[lane][p], gains[lane] << p, 0) for p in range(1, b)),
                                      Mux(counts[lane][0], gains[lane], 0)), signed(len(gains[lane]) + b), "product", lane)
                   for lane in range(lanes)]
        branch = _taken_over(m, into[n + 3], branch, "branch3")
        # Stage n+4: the residual.
        old = [_registered(m, into[n + 3], Mux(d.fresh, 0, self.stream_read.data[lane * STREAM_BITS:(lane + 1) * STREAM_BITS]),
                           signed(STREAM_BITS), "old3", lane) for lane in range(lanes)]
        total = [_registered(m, into[n + 4], old[lane] + product[lane], signed(STREAM_BITS), "stream4", lane)
                 for lane in range(lanes)]
        branch = _taken_over(m, into[n + 4], branch, "branch4")
        kept = [_registered(m, into[n + 4], value, b, "kept4", lane) for lane, value in enumerate(kept)]
        m.d.comb += [self.stream_write.address.eq(ctl[n + 4].stream),
                     self.stream_write.en.eq(ctl[n + 4].valid & residual),
                     self.stream_write.data.eq(Cat(total))]
        # Stage n+5: second initial potential, or the rounding.
        v5 = [_registered(m, into[n + 5], _add_or_subtract(branch[lane].offset, total[lane], branch[lane].negate),
                          signed(OFFSET_BITS + 1), "v5", lane) for lane in range(lanes)]
        threshold5 = [_registered(m, into[n + 5], branch[lane].threshold, THRESHOLD_BITS, "t5", lane) for lane in range(lanes)]
        half = Signal(STREAM_BITS)
        m.d.sync += half.eq((1 << d.shift) >> 1)
        passing5 = [_registered(m, into[n + 5], Mux(planes, total[lane] + half, kept[lane]), signed(STREAM_BITS + 1), "pass5",
                                lane) for lane in range(lanes)]
        # Stages n+6 .. 2n+5: the second neuron; meanwhile, shift and clamp.
        rounded: list[Value] = [Mux(planes, value >> d.shift, value) for value in passing5]
        if cfg.stepwise:
            counts2, _ = self._steps(m, "norm_neurons", cfg.norm_potentials, ctl[n + 4], ctl[n + 4].norm, v5, threshold5, norm)
            for stage in range(n):
                rounded = [_registered(m, into[n + 6 + stage], value, signed(STREAM_BITS + 1), f"pass{stage}", lane)
                           for lane, value in enumerate(rounded)]
            passing = rounded
        else:
            counts2, passing = self._phases(m, stages[n + 5:], v5, threshold5, "m", rounded)
        # Stage 2n+6: mask, and what leaves.
        top, high = Signal(PLANES_MAX), Signal(STREAM_BITS + 1)  # of the clamp: largest value, bits that only copy the sign
        m.d.sync += [top.eq((1 << d.plane_bits) - 1), high.eq(Mux(planes, ~0 << d.plane_bits, 0))]
        leaving = []
        for lane in range(lanes):
            second = Mux(drop[2 * n + 5][lane], 0, counts2[lane])
            leaving.append(_registered(m, into[2 * n + 6], Mux(norm, second, _clamped(passing[lane], top, high)), PLANES_MAX,
                                       "leave", lane))
        self._pack(m, into[2 * n + 7], ctl[2 * n + 6], leaving)
        before, logits_done = ctl[logit_stage - 1], Signal()  # with the last logits; a register: the next unit starts with it
        m.d.sync += logits_done.eq(before.valid & before.final & logits)
        with m.If(logits_done):
            m.d.comb += self.done.eq(1)
        return m

    def _steps(self, m: Module, name: str, depth: int, control: data.View, address: Value, charge: list[Signal],
               threshold: list[Signal], used: Value | int = 1) -> tuple[list[Value], list[Value]]:
        """Neurons that keep their potentials: spikes NEURON_STAGES cycles after `charge`, and the sums before they fire.

        `control`, `address`: of the group in the cycle before its charge; `used`: it has these neurons.
        """
        m.submodules[name] = neurons = StepNeurons(self.m, depth, len(charge[0]))
        m.d.comb += [neurons.valid.eq(control.valid & used), neurons.address.eq(address), neurons.initial.eq(self.initial),
                     neurons.enable.eq(self.desc.phases[0])]
        for lane in range(self.m.fire_lanes):
            m.d.comb += [neurons.charge[lane].eq(charge[lane]), neurons.threshold[lane].eq(threshold[lane])]
        every = range(self.m.fire_lanes)
        return [neurons.spike[lane] for lane in every], [neurons.sum[lane] for lane in every]

    def _phases(self, m: Module, stages: list[str], v: list[Signal], threshold: list[Signal], name: str,
                passing: list[Value] | None = None) -> tuple[list[Signal], list[Signal]]:
        """b pipelined phases of the neuron, in clock domains `stages`; `passing` values travel along."""
        b = self.m.planes
        counts: list[Signal] = [Signal(b, name=f"{name}_none{lane}") for lane in range(len(v))]
        passing = passing or []
        for stage, phase in zip(stages, reversed(range(b)), strict=False):
            enabled = self.desc.phases[phase]
            next_v, next_t, next_n = [], [], []
            for lane in range(len(v)):
                rest = Signal(signed(len(v[lane]) + 1), name=f"{name}_rest{phase}_{lane}")
                fires = Signal(name=f"{name}_fires{phase}_{lane}")
                m.d.comb += [rest.eq(v[lane] - (threshold[lane] << phase)), fires.eq((rest >= 0) & enabled)]
                next_v.append(_registered(m, stage, Mux(fires, rest, v[lane]), signed(len(v[lane])), f"{name}_v{phase}", lane))
                next_t.append(_registered(m, stage, threshold[lane], THRESHOLD_BITS, f"{name}_t{phase}", lane))
                next_n.append(_registered(m, stage, counts[lane] | (fires << phase), b, f"{name}_n{phase}", lane))
            v, threshold, counts = next_v, next_t, next_n
            passing = [_registered(m, stage, value, signed(STREAM_BITS + 1), f"{name}_pass{phase}", lane)
                       for lane, value in enumerate(passing)]
        return counts, passing

    def _pack(self, m: Module, stage: str, ctl: data.View, leaving: list[Signal]) -> None:
        """Collect a token's groups, then write its spike words, one a cycle, while the next token's groups come in."""
        cfg, d = self.m, self.desc
        lanes, b, words = cfg.fire_lanes, cfg.planes, value_words(cfg)
        word_type = data.ArrayLayout(words * b, cfg.lanes)
        collect, merged, ready = Signal(word_type, reset_less=True), Signal(word_type), Signal(word_type, reset_less=True)
        with m.If(~ctl.first):
            m.d.comb += merged.eq(collect)
        with m.Switch(ctl.group):
            for group in range(cfg.lanes // lanes):
                with m.Case(group):
                    for lane, value in enumerate(leaving):
                        m.d.comb += merged[group * lanes + lane].eq(value)
        left, final, finishing = Signal(range(words + 1)), Signal(), Signal()  # finishing: in the last write of all
        token, address = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        m.d.comb += [self.spike_write.en.eq(left != 0), self.spike_write.address.eq(address),
                     self.spike_write.data.eq(Cat(ready[lane][:b] for lane in range(cfg.lanes)))]
        words_clock = m.d[gated(m, "words", (left != 0) | ctl.valid)]
        with m.If(left != 0):
            m.d.sync += [left.eq(left - 1), address.eq(address + d.out_word_step), finishing.eq((left == 2) & final)]
            words_clock += [ready[lane].eq(ready[lane] >> b) for lane in range(cfg.lanes)]
        with m.If(finishing):
            m.d.comb += self.done.eq(1)
        with m.If(ctl.valid):
            m.d[stage] += collect.eq(merged)
            with m.If(ctl.last):
                words_clock += ready.eq(merged)
                m.d.sync += [left.eq(d.out_words + 1), address.eq(token), final.eq(ctl.final),
                             finishing.eq(ctl.final & (d.out_words == 0)), token.eq(token + d.out_step)]
        with m.If(self.start):
            m.d.sync += token.eq(d.out_base)


def _registered(m: Module, domain: str, value: object, shape: object, name: str, lane: int) -> Signal:
    signal = Signal(shape, name=f"{name}_{lane}", reset_less=True)
    m.d[domain] += signal.eq(value)
    return signal


def _clamped(value: Value, top: Value, high: Value) -> Value:
    """`value` [signed] between ~top and top: too large where a bit of `high` differs from the sign."""
    sign = value[-1]
    return Mux(((value.as_unsigned() ^ sign.replicate(len(value))) & high).any(), top ^ sign.replicate(PLANES_MAX),
               value[:PLANES_MAX])


def _taken_over(m: Module, domain: str, value: data.View, name: str) -> data.View:
    """`value` one cycle later."""
    signal = Signal(value.shape(), name=name, reset_less=True)
    m.d[domain] += signal.eq(value)
    return signal


def _add_or_subtract(a: Value, b: Value, subtract: Value) -> Value:
    """a + b, or a - b, in one adder: the complement, and a carry in from a bit below."""
    term = (b.as_unsigned() ^ subtract.replicate(len(b))).as_signed()
    return (Cat(subtract, a).as_signed() + Cat(subtract, term).as_signed()) >> 1


def _delayed(m: Module, domains: list[str], value: Signal, stages: int, name: str) -> list[Signal]:
    """`value` after 0 .. `stages` cycles."""
    chain = [value]
    for stage in range(1, stages + 1):
        signal = Signal.like(value, name=f"{name}{stage}", reset_less=True)
        m.d[domains[stage - 1]] += signal.eq(chain[-1])
        chain.append(signal)
    return chain


def _extended(value: Signal, bits: int) -> Signal:
    return Cat(value, *([value[-1]] * (bits - len(value)))) if len(value) < bits else value[:bits]
