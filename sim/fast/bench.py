"""How much faster the compiled path is than the cocotb bench, on the same build and images, measured in one run."""
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hwgen.emit import emit
from hwgen.inputs import machine_of
from model.config import Config
from quantize.layers import Network
from sim.fast.harness import build as build_harness
from sim.fast.harness import run
from sim.run import run_top
from sim.runner import SimulationFailed

Result = TypeVar("Result")
COCOTB_IMAGES, FAST_IMAGES = 8, 64


def speedup(config: Config, network: Network, images: NDArray[np.uint8], *, folder: Path, processes: int | None = None,
            cocotb_images: int = COCOTB_IMAGES, fast_images: int = FAST_IMAGES) -> dict[str, float | int]:
    """Images per second of the compiled path, one process and `processes` (default: one a core), over those of the cocotb bench.

    `images` uint8 [N, H, W, C], N >= `cocotb_images`, are repeated as needed. Times are of whole processes, after both programs
    were built: start, loading the machine over AXI, images, reading the answers. The cocotb bench is the one of `make sim`: its
    Python drives the ports and its simulation top writes the trace of every image; the compiled path writes no trace. The golden
    model and the comparison of layers are in neither. SimulationFailed when the two give other logits.

    Keys: cocotb_images_per_s, fast_images_per_s (one process), fast_images_per_s_all, processes, fast_cycles_per_s (one process),
    sim_speedup (all processes over one cocotb bench), sim_speedup_one: all by wall time; sim_speedup_cpu (one process): by
    processor time, which other work on the same cores disturbs less.
    """
    workers = processes if processes is not None else os.cpu_count() or 1
    build = emit(network, machine_of(config), config.masking, folder)
    program = build_harness(build, trained=not build.machine.memory_bits)
    few = images[:cocotb_images]

    def cocotb(some: NDArray[np.uint8]) -> list[list[int]]:
        return run_top(build, config, config.masking, None, some, "verilator", False, 0, 0, 0)[0].logits

    many = images[np.arange(fast_images) % len(images)]

    def fast(worker: int) -> tuple[list[list[int]], int]:
        answers = run(build, many, program=program, folder=folder / "sim" / f"speedup-{worker}", seed=config.masking.seed)
        return [answer.logits.tolist() for answer in answers], sum(answer.cycles for answer in answers)

    cocotb(few[:1])  # builds it
    slow_logits, slow_seconds, slow_cpu = _timed(lambda: cocotb(few))
    (logits, cycles), seconds, cpu = _timed(lambda: fast(0))
    with ThreadPoolExecutor(workers) as pool:
        every, all_seconds, _ = _timed(lambda: list(pool.map(fast, range(workers))))
    if any(one[0] != logits for one in every) or logits[:len(few)] != slow_logits:
        raise SimulationFailed("the compiled path and the cocotb bench give different logits: run make sim")
    slow, one, together = len(few) / slow_seconds, fast_images / seconds, workers * fast_images / all_seconds
    return {"cocotb_images_per_s": slow, "fast_images_per_s": one, "fast_images_per_s_all": together, "processes": workers,
            "fast_cycles_per_s": cycles / seconds, "sim_speedup": together / slow, "sim_speedup_one": one / slow,
            "sim_speedup_cpu": (slow_cpu / len(few)) / (cpu / fast_images)}


def _timed(work: Callable[[], Result]) -> tuple[Result, float, float]:
    """What `work` gives, its wall seconds, and the processor seconds of the processes that it started and waited for."""
    before, begin = os.times(), time.monotonic()
    result = work()
    seconds, after = time.monotonic() - begin, os.times()
    return result, seconds, after.children_user + after.children_system - before.children_user - before.children_system
