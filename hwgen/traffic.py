"""Bytes that a program moves to and from external memory, by layer and by what they are."""
from dataclasses import dataclass, field

from hwgen.descriptors import Memory
from hwgen.steps import Program, Transfer

CONSTANTS = (Memory.WEIGHTS, Memory.PARAMS, Memory.BRANCHES, Memory.ROM)


@dataclass(slots=True)
class Traffic:
    """Bytes moved for one layer, filling included: constants (weights, parameters, ROM), spikes and residuals in and out."""

    constants: int = 0
    spikes_in: int = 0
    spikes_out: int = 0
    residual_in: int = 0
    residual_out: int = 0
    chunks: int = field(default=1)

    @property
    def total(self) -> int:
        """All of it."""
        return self.constants + self.spikes_in + self.spikes_out + self.residual_in + self.residual_out


def traffic(program: Program) -> dict[str, Traffic]:
    """Traffic of one image, by layer, in execution order."""
    out = {name: Traffic() for name in program.layers}
    for name, found in out.items():
        found.chunks = len({id(step.outputs) for step in program.steps if step.layer == name})

    def size(transfer: Transfer) -> int:
        return transfer.beats * program.machine.memory_bits // 8

    for transfer in program.reads:
        found = out[transfer.layer]
        if transfer.memory in CONSTANTS:
            found.constants += size(transfer)
        elif transfer.memory == Memory.SPIKES:
            found.spikes_in += size(transfer)
        else:
            found.residual_in += size(transfer)
    for transfer in program.writes:
        found = out[transfer.layer]
        if transfer.memory == Memory.SPIKES:
            found.spikes_out += size(transfer)
        else:
            found.residual_out += size(transfer)
    return out


def traffic_line(program: Program) -> str:
    """One line: what an image moves, and what the least would be (every constant once, nothing else)."""
    found = traffic(program).values()
    constants, rest = sum(layer.constants for layer in found), sum(layer.total - layer.constants for layer in found)
    once = len(program.images.external)
    return (f"external memory: {(constants + rest) / 1e6:.2f} MB an image: {constants / 1e6:.2f} MB of constants "
            f"({once / 1e6:.2f} MB are stored), {rest / 1e6:.2f} MB of spikes and residuals; "
            f"{len(program.reads)} reads, {len(program.writes)} writes")
