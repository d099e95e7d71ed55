"""One image of a large network through the compiled RTL: saved layer by layer, then compared at every layer boundary."""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hwgen.emit import EXTERNAL, Build
from hwgen.files import digest
from hwgen.timeline import MemoryTiming
from model.config import MaskingConfig
from model.masking import SpikeMask
from sim.fast.harness import build as build_harness
from sim.fast.harness import run as run_harness
from sim.fast.script import Answer, ExternalMemory
from sim.job import Answer as JobAnswer
from sim.trace_file import TRACE_SUFFIX
from sim.verify import Verdict, golden_trace, time_steps, verify

SNAPSHOT_SECONDS = 20
"""Least time between two saved states."""


@dataclass(frozen=True, slots=True)
class Single:
    """A verified image: the verdict, and what the harness saw."""

    verdict: Verdict
    answer: Answer


def external_memory(build: Build, timing: MemoryTiming) -> ExternalMemory | None:
    """The memory that the harness puts behind `build`'s AXI4 master; None where it has none."""
    machine = build.machine
    if not machine.memory_bits:
        return None
    num, den = timing.bandwidth.as_integer_ratio()
    size = build.program.external_beats * machine.memory_bits // 8
    return ExternalMemory(build.folder / EXTERNAL, size, timing.latency, num, den)


def run_single(build: Build, image: NDArray[np.uint8], masking: MaskingConfig, *, ratio: float | None = None,
               timing: MemoryTiming | None = None, halt_after: int = 0, say: Callable[[str], None] = print) -> Single:
    """Run `image` uint8 [H, W, C] on `build`; resumes from the last saved layer of an earlier, broken-off call.

    `timing`: of external memory. `halt_after`: stop after so many saved states (`sim.fast.harness.Halted`), for tests.
    Raises what `sim.fast.harness.run` raises.
    """
    timing = timing or MemoryTiming()
    program = build_harness(build, savable=True)
    mask = SpikeMask.of(masking)
    job = digest(build.build_id, repr(mask), repr(timing), image.tobytes())
    folder = build.folder / "single" / job[:16]  # what another build or another job left is of no use here
    steps = build.program.steps
    with tqdm(total=len(steps) - 1, desc="RTL, descriptors", unit="", mininterval=1) as bar:
        def progress(_image: int, descriptor: int, cycle: int) -> None:
            bar.set_postfix_str(f"{steps[descriptor].layer}, {cycle / 1e6:.2f} M cycles", refresh=False)
            bar.update(descriptor - bar.n)

        (answer,) = run_harness(build, image[None], program=program, folder=folder, seed=masking.seed,
                                ratio=None if ratio is None else masking.ratio256, traced=[0],
                                memory=external_memory(build, timing), snapshot_seconds=SNAPSHOT_SECONDS, halt_after=halt_after,
                                progress=progress)
        bar.update(bar.total - bar.n)
    say("golden model, and comparison of every layer")
    count = time_steps(build.machine, None)
    trace = golden_trace(build.program.network, build.machine, image[None], mask=mask, steps=count)
    seen = JobAnswer([answer.logits.tolist()], answer.cycles, answer.events, answer.stalls, 1)
    return Single(verify(build.program, trace, image[None], seen, folder / f"0{TRACE_SUFFIX}", timing, steps=count), answer)
