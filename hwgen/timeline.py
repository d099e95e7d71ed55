"""When descriptors and transfers happen on a machine with external memory: a model of bursts, not of single beats.

Descriptors cost what `hwgen.schedule` says. Transfers are cut into bursts that one memory serves in turn, reads and writes
alternating, at `bandwidth` beats a cycle; a read's first burst comes `latency` cycles after its conditions hold, later ones
without a gap (addresses go out ahead, at most `memory_outstanding` bursts). On-chip ports are taken as always granted: where
the units keep a scratchpad's port busy, transfers take longer than this.
"""
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

from hwgen.descriptors import Kind
from hwgen.external import bursts, packing
from hwgen.sequencer import FETCH_CYCLES
from hwgen.shapes import local_shapes
from hwgen.steps import Program, Transfer

READ_TAIL = 4
"""Cycles from a read's last beat to its descriptor's dispatch."""
WRITE_HEAD = 5
"""Cycles from a write's conditions to its first beat."""


@dataclass(frozen=True, slots=True)
class MemoryTiming:
    """External memory: `latency` in cycles (address to first data, last data to response), `bandwidth` in beats a cycle."""

    latency: int = 30
    bandwidth: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        """ValueError names what is out of range."""
        if self.latency < 0:
            raise ValueError(f"latency of external memory must be 0 cycles or more, not {self.latency}")
        if not 0 < self.bandwidth <= 1:
            raise ValueError(f"bandwidth of external memory must be above 0 and at most 1 beat a cycle, not {self.bandwidth}")


class _Channel:
    """One program of transfers, burst by burst."""

    def __init__(self, program: Program, transfers: list[Transfer], writes: bool) -> None:
        machine = program.machine
        self.transfers, self.is_write = transfers, writes
        self.next, self.done, self.ready, self.flow = 0, [0], 0.0, 0.0
        self._burst = machine.memory_burst
        self._shapes, self._bus = local_shapes(machine), machine.memory_bits
        self.left: list[int] = []
        self.ends: deque[float] = deque(maxlen=machine.memory_outstanding)  # of the last bursts: no more are under way

    def open(self, steps_at: list[int], writes_at: list[int], latency: int) -> float | None:
        """When the next burst may go; None while something before it has no time yet."""
        if self.next == len(self.transfers):
            return None
        transfer = self.transfers[self.next]
        if not self.left:
            if transfer.steps >= len(steps_at) or transfer.writes >= len(writes_at):
                return None
            self.left = [size for _, size in bursts(transfer.address, transfer.beats, self._burst)]
            released = max(steps_at[transfer.steps], writes_at[transfer.writes])
            self.ready = released + (WRITE_HEAD if self.is_write else latency)
        under_way = self.ends[0] + latency + 1 if len(self.ends) == self.ends.maxlen else 0.0
        return max(self.ready, self.flow, under_way)

    def serve(self, at: float, beat: float, latency: int) -> float:
        """One burst from `at` on; the time at which the memory is free again."""
        transfer = self.transfers[self.next]
        size = self.left.pop(0)
        end = at + size * beat
        # where several words share a beat, the on-chip side takes one a cycle
        pace = packing(self._shapes[transfer.memory][0], self._bus).words_per_beat
        self.ends.append(end)
        self.flow = max(end, at + size * max(beat, pace))
        if not self.left:
            self.next += 1
            self.done.append(round(self.flow) + (latency if self.is_write else READ_TAIL))
        return end


def run_timeline(program: Program, cycles: list[int], memory: MemoryTiming) -> tuple[list[int], list[int]]:
    """(dispatch cycle of each descriptor and of END, stalls of each descriptor) of one image.

    `cycles`: of each descriptor but END, from its dispatch to the next one's, were memory never in the way.
    """
    beat = float(1 / memory.bandwidth)
    reads, writes = _Channel(program, program.reads, False), _Channel(program, program.writes, True)
    steps_at, starts, stalls = [0], [], []
    free, turn = 0.0, 0
    at, last = 0, 0
    while True:
        moved = False
        while at < len(program.steps):
            step = program.steps[at]
            if step.reads >= len(reads.done) or step.writes >= len(writes.done):
                break
            ready = FETCH_CYCLES if at == 0 else last + cycles[at - 1]
            start = max(ready, reads.done[step.reads], writes.done[step.writes])
            starts.append(start)
            stalls.append(start - ready)
            last = start
            if step.kind != Kind.END:
                steps_at.append(start + cycles[at])
            at, moved = at + 1, True
        if at == len(program.steps):
            return starts, stalls
        offers = [channel.open(steps_at, writes.done, memory.latency) for channel in (reads, writes)]
        known = [(max(offer, free), (index + turn) % 2, index) for index, offer in enumerate(offers) if offer is not None]
        if known:
            when, _, index = min(known)
            turn = index + 1
            free = (reads, writes)[index].serve(when, beat, memory.latency)
            moved = True
        if not moved:
            raise AssertionError(f"the program waits for ever at descriptor {at}, read {reads.next}, write {writes.next}")
