"""Neurons of a `stepwise` machine (docs/semantics.md, section 6): potentials in a memory, from time step to time step.

`StepNeurons` takes `fire_lanes` channels a cycle: charge, add what was kept, fire where v >= L * threshold, soft reset, keep.
A machine of `exact` firing has none of this: there a neuron integrates its whole input before it fires (`hwgen.fire`).
"""
from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import MachineConfig
from hwgen.descriptors import ADDRESS_BITS
from hwgen.memory import Scratchpad
from quantize.formats import CURRENT_FRACTION, SCORE_SHIFT, THRESHOLD_BITS

NEURON_STAGES = 3
"""Cycles from a charge to its spike."""
SUM_STAGES = 2
"""Cycles from a charge to the potential before it fires."""


def neuron_stages(m: MachineConfig) -> int:
    """Cycles from a neuron's charge to its count: one for each firing phase of `exact`."""
    return NEURON_STAGES if m.stepwise else m.planes


def times_levels(value: Value, level_bits: int) -> Value:
    """L * `value`: a subtraction."""
    return (value << level_bits) - value


def score_potential_bits(m: MachineConfig) -> int:
    """Bits of an attention score's potential, which is never negative: half a threshold and the charges of all steps."""
    charge = m.head_lanes * ((1 << m.level_bits) - 1) << SCORE_SHIFT
    return (m.steps * charge + (1 << THRESHOLD_BITS)).bit_length()


def output_potential_bits(m: MachineConfig) -> int:
    """Bits of an attention output's potential, which is never negative."""
    return ((m.steps << m.current_bits) + (1 << CURRENT_FRACTION)).bit_length()


def kept_width(m: MachineConfig) -> dict[str, int]:
    """Bits of a word of each potential memory, by the knob of its depth."""
    return {"neuron_potentials": m.fire_lanes * m.potential_bits, "norm_potentials": m.fire_lanes * m.potential_bits,
            "score_potentials": m.attention_rows * score_potential_bits(m),
            "output_potentials": m.head_lanes * output_potential_bits(m)}


class StepNeurons(wiring.Component):
    """`fire_lanes` neurons a cycle, and the memory of `depth` words of their potentials.

    Ports: `valid` and `address` in the cycle before `charge` (signed, `charge_bits`) and `threshold` (not yet L-fold);
    `initial`: the first time step, v starts at half a threshold; `enable`: they may fire. `sum`: v before it fires, SUM_STAGES
    cycles after its charge; `spike` NEURON_STAGES cycles after. A word is back in its memory a cycle later.
    """

    def __init__(self, m: MachineConfig, depth: int, charge_bits: int) -> None:
        self.m, self.depth = m, depth
        lanes = m.fire_lanes
        super().__init__({
            "valid": In(1), "address": In(ADDRESS_BITS), "initial": In(1), "enable": In(1),
            "charge": In(data.ArrayLayout(signed(charge_bits), lanes)), "threshold": In(data.ArrayLayout(THRESHOLD_BITS, lanes)),
            "sum": Out(data.ArrayLayout(signed(m.potential_bits), lanes)), "spike": Out(lanes)})

    def elaborate(self, platform: object) -> Module:
        """Charge and threshold; sum; fire."""
        m, cfg = Module(), self.m
        bits = cfg.potential_bits
        m.submodules.memory = memory = Scratchpad(width=cfg.fire_lanes * bits, depth=max(self.depth, 1))
        kept = data.ArrayLayout(signed(bits), cfg.fire_lanes)
        old, new = Signal(kept, reset_less=True), Signal(kept, reset_less=True)
        valid, address = [self.valid], [self.address]
        for stage in range(NEURON_STAGES + 1):
            later_valid, later_address = Signal(name=f"valid{stage}"), Signal(ADDRESS_BITS, name=f"address{stage}")
            m.d.sync += [later_valid.eq(valid[-1]), later_address.eq(address[-1])]
            valid.append(later_valid)
            address.append(later_address)
        m.d.comb += [memory.read.address.eq(self.address), memory.read.en.eq(self.valid),
                     memory.write.address.eq(address[-1]), memory.write.en.eq(valid[-1]), memory.write.data.eq(new)]
        m.d.sync += old.eq(memory.read.data)  # a block RAM's output is late: it goes straight to a register
        for lane in range(cfg.fire_lanes):
            charge = Signal.like(self.charge[lane], name=f"charge{lane}", reset_less=True)
            first, second = (Signal(THRESHOLD_BITS + cfg.level_bits, name=f"threshold{lane}_{stage}", reset_less=True)
                             for stage in range(2))
            v = self.sum[lane]
            rest = Signal(signed(bits + 1), name=f"rest{lane}")
            m.d.sync += [charge.eq(self.charge[lane]), first.eq(times_levels(self.threshold[lane], cfg.level_bits)),
                         second.eq(first), v.eq(charge + Mux(self.initial, first >> 1, old[lane]))]
            fires = Signal(name=f"fires{lane}")
            m.d.comb += [rest.eq(v - second), fires.eq((rest >= 0) & self.enable)]
            m.d.sync += [self.spike[lane].eq(fires), new[lane].eq(Mux(fires, rest, v))]
        return m
