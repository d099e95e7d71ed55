"""Sequencer: runs the program; fetches the next descriptor, and jumps the mask LFSR for it, while the current one runs.

Timing: `FETCH_CYCLES` from the cycle a fetch begins to the descriptor being ready (fetch of the words and the 32-cycle jump,
whichever unit is meant, so that cycles do not depend on masking). A ready descriptor is dispatched `HANDOVER` cycles after the
unit before is done; its unit starts in the next cycle, and the fetch of the one behind it begins.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import MachineConfig
from hwgen.descriptors import DESCRIPTOR_WORDS, HEADER, PAYLOAD_BITS, PROGRAM_BITS, SYNC, Kind, layout
from hwgen.lfsr import Jump
from hwgen.registers import STEPS_BITS, ErrorCode
from model.lfsr import STEP_SEED, WIDTH

FETCH_CYCLES = Jump.CYCLES + 4
"""From a dispatch to the first cycle in which the descriptor behind it can be dispatched."""
HANDOVER = 1
"""From a unit's done to that cycle: done goes to a register first, for much hangs on a dispatch."""


class Sequencer(wiring.Component):
    """`run` pulse: `images` runs of the program from descriptor `first`; `finished` pulse at the end.

    `start[kind]` pulses with `payload`, which lasts for that cycle only, `header` and `mask_state`, stable until the unit's
    `done` (`in_gemm`, `in_attention`: the header's kind, decoded). `dispatch` pulses with
    each descriptor, `image_done` with each END. An unknown kind raises BAD_DESCRIPTOR and stops; any error (`failed`) stops
    with `halt`. A descriptor whose header says `results` waits until the result stream is idle, and each one until `reads`
    and `writes` (transfers done in the image) have reached what its sync word asks: `stalled` is high in the cycles in
    which only that keeps it. `image_start` pulses where an image's program begins; `steps` counts its finished descriptors.
    The top resets the sequencer
    in the cycle after `halt`: a jump under way would otherwise outlast the run. `images` of 0 runs one.

    A stepwise machine runs the program `time_steps` times for each image, with other mask draws each time (`model.masking`);
    their number is taken with `run`. `initial` and `last_step` are levels, from END to END; IMAGE is only started in the
    initial step, and `image_done` comes with the last one.

    Without `transfers`, `reads` and `writes` never change, and what a descriptor waits for is a register.
    """

    def __init__(self, m: MachineConfig, address_bits: int, transfers: bool) -> None:
        self.m, self.transfers = m, transfers
        super().__init__(
            {
                "run": In(1),
                "first": In(address_bits),
                "images": In(32),
                "image_index": In(32),
                "seed": In(32),
                "failed": In(1),
                "time_steps": In(STEPS_BITS),
                "initial": Out(1, init=1),
                "last_step": Out(1),
                "finished": Out(1),
                "busy": Out(1),
                "error": Out(8),
                "image_done": Out(1),
                "read": Out(wiring.Signature({"address": Out(address_bits + 4), "en": Out(1), "data": In(PROGRAM_BITS)})),
                "header": Out(layout(HEADER)),
                "payload": Out(PAYLOAD_BITS),
                "mask_state": Out(WIDTH),
                "start_image": Out(1),
                "start_gemm": Out(1),
                "start_attention": Out(1),
                "in_gemm": Out(1),
                "in_attention": Out(1),
                "unit_done": In(1),
                "results_idle": In(1),
                "reads": In(16),
                "writes": In(16),
                "steps": Out(16),
                "image_start": Out(1),
                "stalled": Out(1),
                "halt": Out(1),
                "dispatch": Out(1),
                "descriptor": Out(32),
            }
        )
        self.address_bits = address_bits

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.jump = jump = Jump()
        words = Array(Signal(PROGRAM_BITS, name=f"word{index}", reset_less=True) for index in range(DESCRIPTOR_WORDS))
        pc, index = Signal(self.address_bits), Signal(range(DESCRIPTOR_WORDS + 1))
        address = Signal(self.address_bits + 4)
        reading, asked = Signal(), Signal(range(DESCRIPTOR_WORDS))
        arriving, arrived = Signal(), Signal(range(DESCRIPTOR_WORDS))
        word = Signal(PROGRAM_BITS, reset_less=True)  # a block RAM's output is late
        fetching, ready = Signal(), Signal()
        running, left, last_image = Signal(), Signal(32), Signal()  # last_image: left is 0 or 1
        next_header = Signal(layout(HEADER))
        m.d.comb += next_header.eq(words[0])

        # Fetch
        begin, restart = Signal(), Signal()
        m.d.comb += [self.read.address.eq(address), self.read.en.eq(fetching & (index != DESCRIPTOR_WORDS))]
        m.d.sync += [reading.eq(self.read.en), asked.eq(index), arriving.eq(reading), arrived.eq(asked), word.eq(self.read.data)]
        with m.If(self.read.en):
            m.d.sync += [index.eq(index + 1), address.eq(address + 1)]
        with m.If(arriving):
            m.d.sync += words[arrived].eq(word)
        state, seed = Signal(WIDTH), Signal(WIDTH)
        step, step_seed = Signal(STEPS_BITS), Signal(WIDTH)
        time_steps = Signal(STEPS_BITS)
        m.d.comb += [
            seed.eq(self.seed ^ step_seed if self.m.stepwise else self.seed),
            self.last_step.eq(step + 1 == time_steps if self.m.stepwise else 1),
            state.eq(Mux(seed == self.image_index, 1, seed ^ self.image_index)),
            jump.start.eq(arriving & (arrived == 0)),
            jump.state.eq(state),
            jump.polynomial.eq(layout(HEADER)(word).jump),
        ]
        with m.If(fetching & jump.done):
            m.d.sync += [fetching.eq(0), ready.eq(1)]
        with m.If(begin):
            m.d.sync += [fetching.eq(1), ready.eq(0), index.eq(0), pc.eq(Mux(restart, self.first, pc + 1))]
            with m.If(restart):
                m.d.sync += address.eq((self.first << 3) + self.first)

        # Dispatch
        unit_busy = Signal()
        free, dispatch = Signal(), Signal()
        sync = Signal(layout(SYNC))
        behind = Signal(2)
        m.d.comb += sync.eq(words[1])
        domain = m.d.comb if self.transfers else m.d.sync
        domain += behind.eq(Cat(self.reads < sync.reads, self.writes < sync.writes))
        m.d.comb += [
            free.eq(ready & ~unit_busy & ~self.failed & (self.results_idle | ~next_header.results)),
            dispatch.eq(free & (behind == 0)),
            self.stalled.eq(free & (behind != 0)),
            self.image_start.eq(begin & restart),
            self.dispatch.eq(dispatch),
            self.descriptor.eq(pc),
            self.busy.eq(running),
            self.payload.eq(Cat(words[part + 2] for part in range(DESCRIPTOR_WORDS - 2))),
        ]
        starts = ((Kind.IMAGE, self.start_image), (Kind.GEMM, self.start_gemm), (Kind.ATTENTION, self.start_attention))
        # Decoded once: the header stands long before the descriptor is ready. Later steps find the image where it is.
        begun, found = Signal(), {kind: Signal(name=f"next_{kind.name.lower()}") for kind in Kind}
        known = Signal()
        m.d.sync += [*(signal.eq(next_header.kind == kind) for kind, signal in found.items()),
                     known.eq(Cat(next_header.kind == kind for kind in Kind).any()),
                     *(start.eq(dispatch & found[kind] & begun) for kind, start in starts)]
        m.d.comb += begun.eq(~found[Kind.IMAGE] | self.initial)
        with m.If(self.image_start):
            m.d.sync += self.steps.eq(0)
        with m.Elif(self.unit_done):
            m.d.sync += self.steps.eq(self.steps + 1)
        with m.If(self.unit_done):
            m.d.sync += unit_busy.eq(0)
        with m.If(self.run):
            m.d.comb += [begin.eq(1), restart.eq(1)]
            m.d.sync += [running.eq(1), left.eq(self.images), last_image.eq(self.images <= 1), unit_busy.eq(0), step.eq(0),
                         step_seed.eq(0), self.initial.eq(1)]
            if self.m.stepwise:
                m.d.sync += time_steps.eq(self.time_steps)
        with m.Elif(dispatch):
            m.d.sync += [self.header.eq(words[0]), self.mask_state.eq(jump.result),
                         self.in_gemm.eq(found[Kind.GEMM]), self.in_attention.eq(found[Kind.ATTENTION])]
            with m.If(~known):
                m.d.comb += [self.error.eq(ErrorCode.BAD_DESCRIPTOR), self.finished.eq(1)]
                m.d.sync += [running.eq(0), ready.eq(0)]
            with m.Elif(~found[Kind.END]):
                m.d.comb += begin.eq(1)
                m.d.sync += unit_busy.eq(begun)
            with m.Elif(~self.last_step):
                m.d.comb += [begin.eq(1), restart.eq(1)]
                m.d.sync += [step.eq(step + 1), step_seed.eq(step_seed + STEP_SEED), self.initial.eq(0)]
            with m.Else():
                m.d.comb += self.image_done.eq(1)
                m.d.sync += [left.eq(left - 1), last_image.eq(left <= 2), step.eq(0), step_seed.eq(0), self.initial.eq(1)]
                with m.If(last_image):
                    m.d.comb += self.finished.eq(1)
                    m.d.sync += [running.eq(0), ready.eq(0)]
                with m.Else():
                    m.d.comb += [begin.eq(1), restart.eq(1)]
        with m.If(self.failed & running):
            m.d.comb += [self.finished.eq(1), self.halt.eq(1)]
            m.d.sync += [running.eq(0), ready.eq(0), fetching.eq(0)]
        return m
