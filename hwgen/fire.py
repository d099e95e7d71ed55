"""Fire unit: takes a finished token's accumulators, `fire_lanes` channels a cycle, while the next token accumulates.

A feed-forward pipeline that never stalls: offset -> b phases of soft reset (compare, subtract `threshold << p`) -> spike
mask -> residual (stream += gain * count, as gated shifts) -> offset -> b phases, or rounding shift -> spike mask -> packed
spike words. The token is outermost: no membrane potential is ever stored in memory.

Timing: `ready` in cycle h starts a token; its group g is at stage 0 in cycle h + 1 + g; its first spike word is written
`gemm_cycles.write_delay` cycles after its last group was at stage 0.
"""
from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import MachineConfig
from hwgen.descriptors import ADDRESS_BITS, GEMM, After, layout
from hwgen.lfsr import advanced, draw_bytes, next_row
from hwgen.parameters import OFFSET_BITS, branch_words, neuron_words
from model.masking import LEAP, WIDTH
from quantize.formats import GAIN_BITS, LOGIT_BITS, PIXEL_BITS, STREAM_BITS, THRESHOLD_BITS

PLANES_MAX = 12
"""Most bit planes of a requantised residual (`stream_bits`)."""


def value_words(m: MachineConfig) -> int:
    """Spike words that the widest multi-bit value takes (pixels, requantised residuals)."""
    return -(-max(PLANES_MAX, PIXEL_BITS) // m.planes)


class FireUnit(wiring.Component):
    """Neuron, residual, second neuron or requantise, masks and packing for the tokens of one GEMM descriptor.

    `start`: pulse, with `desc` and `mask_state` (LFSR state before the first draw) stable from then on. `done`: pulse in the
    cycle of the last write. Logits leave through `logits` instead of the scratchpad.
    """

    def __init__(self, m: MachineConfig) -> None:
        self.m = m
        address = {"address": Out(ADDRESS_BITS), "en": Out(1)}
        super().__init__({
            "start": In(1), "desc": In(layout(GEMM)), "masked": In(1), "mask_state": In(WIDTH), "done": Out(1),
            "override": In(1), "override_ratio": In(8),
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
        lanes, b = cfg.fire_lanes, cfg.planes
        control = data.StructLayout({"valid": 1, "first": 1, "last": 1, "final": 1, "group": 7,
                                     "stream": ADDRESS_BITS})

        # Sequencing: one group a cycle out of a buffer that was loaded when the accumulators were ready.
        buffer = Signal(data.ArrayLayout(signed(cfg.acc_bits), cfg.lanes))
        left, group = Signal(8), Signal(7)
        row, column = Signal(10), Signal(10)
        stream = Signal(ADDRESS_BITS)
        s0 = Signal(control)
        m.d.comb += [s0.valid.eq(left != 0), s0.first.eq(group == 0), s0.last.eq(left == 1), s0.group.eq(group),
                     s0.stream.eq(stream + group), s0.final.eq(s0.last & (row == d.tokens_y) & (column == d.tokens_x))]
        with m.If(left != 0):
            shifted = Cat(buffer.as_value()[lanes * cfg.acc_bits:])
            m.d.sync += [buffer.eq(shifted), left.eq(left - 1), group.eq(group + 1)]
            with m.If(s0.last):
                m.d.sync += stream.eq(stream + d.stream_step)
                with m.If(column == d.tokens_x):
                    m.d.sync += [column.eq(0), row.eq(row + 1)]
                with m.Else():
                    m.d.sync += column.eq(column + 1)
        with m.If(self.ready):
            m.d.sync += [buffer.eq(self.acc), left.eq(d.groups + 1), group.eq(0)]
        with m.If(self.start):
            m.d.sync += [stream.eq(d.stream_base), row.eq(0), column.eq(0)]
        neuron_group = Signal(7)
        m.d.comb += [neuron_group.eq(Mux(self.ready, 0, group + 1)),
                     self.neuron_read.address.eq(d.neuron_base + neuron_group),
                     self.neuron_read.en.eq(self.ready | (left != 0))]

        # Spike mask: one draw a channel, in order; a new mask row with each token.
        mask_row, mask_now = Signal(WIDTH), Signal(WIDTH)
        with m.If(self.start):
            m.d.sync += mask_row.eq(self.mask_state)
        with m.Elif(self.ready):
            m.d.sync += [mask_row.eq(next_row(mask_row)), mask_now.eq(mask_row)]
        with m.Elif(left != 0):
            m.d.sync += mask_now.eq(advanced(mask_now, LEAP * lanes))

        ctl = [s0]
        for stage in range(1, 2 * b + 6):
            signal = Signal(control, name=f"ctl{stage}")
            m.d.sync += signal.eq(ctl[-1])
            if stage == 2:  # logits have left: what is behind them belongs to the next descriptor
                m.d.sync += signal.valid.eq(ctl[-1].valid & (d.after != After.LOGITS))
            ctl.append(signal)

        parameters = self.neuron_read.data
        drops = Signal(lanes)
        for lane, byte in enumerate(draw_bytes(mask_now, lanes)):
            ratio = Signal(8, name=f"ratio{lane}")
            select = parameters[lane].select
            with m.If((select != 0) & self.masked):
                m.d.comb += ratio.eq(Mux(self.override, self.override_ratio, Mux(select == 2, d.ratio1, d.ratio0)))
            m.d.comb += drops[lane].eq(byte < ratio)
        drop = _delayed(m, drops, 2 * b + 5, "drop")

        # Stage 1: initial potential; stages 2 .. b+1: the neuron.
        v_bits = max(cfg.acc_bits, OFFSET_BITS) + 1
        sums = [buffer[lane] + parameters[lane].offset for lane in range(lanes)]
        v = [_registered(m, value, signed(v_bits), "v1", lane) for lane, value in enumerate(sums)]
        m.d.comb += [self.logits.valid.eq(ctl[1].valid & (d.after == After.LOGITS)), self.logits.last.eq(ctl[1].last),
                     self.logits.data.eq(Cat(_extended(value, LOGIT_BITS) for value in v))]
        threshold = [_registered(m, parameters[lane].threshold, THRESHOLD_BITS, "t1", lane) for lane in range(lanes)]
        counts, _ = self._phases(m, v, threshold, "n")
        # Stage b+2: mask of the neuron itself (only where nothing follows), gated shifts of the gain.
        residual = (d.after == After.NORM) | (d.after == After.PLANES)
        m.d.comb += [self.branch_read.address.eq(d.branch_base + ctl[b].group),
                     self.branch_read.en.eq(ctl[b].valid & residual),
                     self.stream_read.address.eq(ctl[b + 1].stream),
                     self.stream_read.en.eq(ctl[b + 1].valid & residual & ~d.fresh)]
        branch = self.branch_read.data
        plain = d.after == After.COUNTS
        kept = [_registered(m, Mux(drop[b + 1][lane] & plain, 0, counts[lane]), b, "kept", lane) for lane in range(lanes)]
        product = [_registered(m, sum((Mux(counts[lane][p], branch[lane].gain << p, 0) for p in range(1, b)),
                                      Mux(counts[lane][0], branch[lane].gain, 0)), signed(GAIN_BITS + b), "product", lane)
                   for lane in range(lanes)]
        later = Signal.like(branch.as_value(), name="branch2")
        m.d.sync += later.eq(branch.as_value())
        branch2 = data.View(branch_words(cfg), later)
        # Stage b+3: the residual.
        old = [self.stream_read.data[lane * STREAM_BITS:(lane + 1) * STREAM_BITS].as_signed() for lane in range(lanes)]
        total = [_registered(m, Mux(d.fresh, 0, old[lane]) + product[lane], signed(STREAM_BITS), "stream", lane)
                 for lane in range(lanes)]
        offset3 = [_registered(m, branch2[lane].offset, signed(OFFSET_BITS), "offset3", lane) for lane in range(lanes)]
        negate3 = [_registered(m, branch2[lane].negate, 1, "negate3", lane) for lane in range(lanes)]
        threshold3 = [_registered(m, branch2[lane].threshold, THRESHOLD_BITS, "t3", lane) for lane in range(lanes)]
        kept3 = [_registered(m, value, b, "kept3", lane) for lane, value in enumerate(kept)]
        m.d.comb += [self.stream_write.address.eq(ctl[b + 3].stream),
                     self.stream_write.en.eq(ctl[b + 3].valid & residual),
                     self.stream_write.data.eq(Cat(total))]
        # Stage b+4: second initial potential, or the rounded shift.
        v4 = [_registered(m, Mux(negate3[lane], -total[lane], total[lane]) + offset3[lane], signed(OFFSET_BITS + 1),
                          "v4", lane) for lane in range(lanes)]
        threshold4 = [_registered(m, threshold3[lane], THRESHOLD_BITS, "t4", lane) for lane in range(lanes)]
        passing4 = [_registered(m, Mux(d.after == After.PLANES, self._requantised(m, total[lane], lane), kept3[lane]),
                                PLANES_MAX, "pass4", lane) for lane in range(lanes)]
        # Stages b+5 .. 2b+4: the second neuron.
        counts2, passing = self._phases(m, v4, threshold4, "m", passing4)
        # Stage 2b+5: mask, and what leaves.
        leaving = []
        for lane in range(lanes):
            second = Mux(drop[2 * b + 4][lane], 0, counts2[lane])
            leaving.append(_registered(m, Mux(d.after == After.NORM, second, passing[lane]), PLANES_MAX, "leave", lane))
        self._pack(m, ctl[2 * b + 5], leaving)
        with m.If(ctl[1].valid & ctl[1].final & (d.after == After.LOGITS)):
            m.d.comb += self.done.eq(1)
        return m

    def _phases(self, m: Module, v: list[Signal], threshold: list[Signal], name: str,
                passing: list[Signal] | None = None) -> tuple[list[Signal], list[Signal]]:
        """b pipelined phases of the neuron; `passing` values travel along."""
        b = self.m.planes
        counts: list[Signal] = [Signal(b, name=f"{name}_none{lane}") for lane in range(len(v))]
        passing = passing or []
        for phase in reversed(range(b)):
            enabled = self.desc.phases[phase]
            next_v, next_t, next_n = [], [], []
            for lane in range(len(v)):
                rest = Signal(signed(len(v[lane]) + 1), name=f"{name}_rest{phase}_{lane}")
                fires = Signal(name=f"{name}_fires{phase}_{lane}")
                m.d.comb += [rest.eq(v[lane] - (threshold[lane] << phase)), fires.eq((rest >= 0) & enabled)]
                next_v.append(_registered(m, Mux(fires, rest, v[lane]), signed(len(v[lane])), f"{name}_v{phase}", lane))
                next_t.append(_registered(m, threshold[lane], THRESHOLD_BITS, f"{name}_t{phase}", lane))
                next_n.append(_registered(m, counts[lane] | (fires << phase), b, f"{name}_n{phase}", lane))
            v, threshold, counts = next_v, next_t, next_n
            passing = [_registered(m, value, PLANES_MAX, f"{name}_pass{phase}", lane) for lane, value in enumerate(passing)]
        return counts, passing

    def _requantised(self, m: Module, value: Signal, lane: int) -> Signal:
        """clamp((value + half) >> shift) to the descriptor's signed plane bits, two's complement in PLANES_MAX bits."""
        d = self.desc
        rounded, shifted = (Signal(signed(STREAM_BITS + 1), name=f"{kind}{lane}") for kind in ("rounded", "shifted"))
        half, top = Signal(STREAM_BITS + 1, name=f"half{lane}"), Signal(PLANES_MAX, name=f"top{lane}")
        out = Signal(signed(PLANES_MAX), name=f"planes{lane}")
        m.d.comb += [half.eq((1 << d.shift) >> 1), top.eq((1 << d.plane_bits) - 1),
                     rounded.eq(value + half), shifted.eq(rounded >> d.shift), out.eq(shifted)]
        with m.If(shifted > top):
            m.d.comb += out.eq(top)
        with m.Elif(shifted < ~top.as_signed()):
            m.d.comb += out.eq(~top)
        return out

    def _pack(self, m: Module, ctl: data.View, leaving: list[Signal]) -> None:
        """Collect a token's groups, then write its spike words, one a cycle, while the next token's groups come in."""
        cfg, d = self.m, self.desc
        lanes, b, words = cfg.fire_lanes, cfg.planes, value_words(cfg)
        word_type = data.ArrayLayout(words * b, cfg.lanes)
        collect, merged, ready = Signal(word_type), Signal(word_type), Signal(word_type)
        with m.If(~ctl.first):
            m.d.comb += merged.eq(collect)
        with m.Switch(ctl.group):
            for group in range(cfg.lanes // lanes):
                with m.Case(group):
                    for lane, value in enumerate(leaving):
                        m.d.comb += merged[group * lanes + lane].eq(value)
        left, final = Signal(range(words + 1)), Signal()
        token, address = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        m.d.comb += [self.spike_write.en.eq(left != 0), self.spike_write.address.eq(address),
                     self.spike_write.data.eq(Cat(ready[lane][:b] for lane in range(cfg.lanes)))]
        with m.If(left != 0):
            m.d.sync += [left.eq(left - 1), address.eq(address + d.out_word_step)]
            m.d.sync += [ready[lane].eq(ready[lane] >> b) for lane in range(cfg.lanes)]
            with m.If((left == 1) & final):
                m.d.comb += self.done.eq(1)
        with m.If(ctl.valid):
            m.d.sync += collect.eq(merged)
            with m.If(ctl.last):
                m.d.sync += [ready.eq(merged), left.eq(d.out_words + 1), address.eq(token), final.eq(ctl.final),
                             token.eq(token + d.out_step)]
        with m.If(self.start):
            m.d.sync += token.eq(d.out_base)


def _registered(m: Module, value: object, shape: object, name: str, lane: int) -> Signal:
    signal = Signal(shape, name=f"{name}_{lane}")
    m.d.sync += signal.eq(value)
    return signal


def _delayed(m: Module, value: Signal, stages: int, name: str) -> list[Signal]:
    """`value` after 0 .. `stages` cycles."""
    chain = [value]
    for stage in range(1, stages + 1):
        signal = Signal.like(value, name=f"{name}{stage}")
        m.d.sync += signal.eq(chain[-1])
        chain.append(signal)
    return chain


def _extended(value: Signal, bits: int) -> Signal:
    return Cat(value, *([value[-1]] * (bits - len(value)))) if len(value) < bits else value[:bits]
