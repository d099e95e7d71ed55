"""Builds the C++ harness for a machine, and runs images through it: `build` and `run`."""
import contextlib
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwgen.emit import Build
from hwgen.files import digest, write_if_changed
from quantize.random_network import random_images
from sim.fast.latch import LATCHED, latched_verilog
from sim.fast.rewrite import rewritten
from sim.fast.script import ANSWERS, HALTED, MACHINE_ERROR, SNAPSHOT, Answer, ExternalMemory, formats_header, read_answers, script
from sim.golden.network import check_images
from sim.host import MachineError
from sim.runner import STAMP, SimulationFailed, build_program
from sim.trace_file import TRACE_SUFFIX

OPTIMISE = "-O3"
ARGS = ("--x-assign", "fast", "--x-initial", "fast", "--no-assert", "-fno-table", "-fno-split")
"""What gained, in processor time of one process on the same images (cifar10-tiny, 64 lanes): the latched inputs
(`sim.fast.latch`) 2.2 times, compiling for this processor 1.1. Then, each over what was there before it: clocks of their own for
the stages of fetcher, lanes and fire unit (`hwgen.clock_gate.gated`) 1.43; for the weight banks and the draws of a mask that is
off, with bits reversed by a stream operator (`sim.fast.rewrite`), 1.10; lanes in loops that -O3 vectorises (`sim.fast.roll`)
1.29; ones counted by one instruction 1.06; the emitter's entry in registers of its own, no word of 250 bits, 1.06; evaluation
without the model's locks 1.03. Together 2.3 since the latched inputs.

Then, 1.5 together: no clock nets and one evaluation a cycle (`sim.fast.clocks`) with what is the same computed once
(`sim.fast.merge`) and runs of bits in words (`sim.fast.stream`) 1.15; equal registers merged 1.02; chosen words as `if`s
(`sim.fast.select`) 1.07; memories that stand still (`sim.fast.memories`) 1.04; vectors reversed once 1.03; Verilator without
look-up tables (-fno-table) 1.04 and with always-blocks whole (-fno-split) 1.03; one round an evaluation 1.02; gcc's profile
(`trained`) 1.07, which gained nothing before.

What gained nothing: -flto with -fno-plt, -fno-semantic-interposition and -fno-strict-aliasing, -fno-stack-protector, vectors of
256 bits; huge pages for data or code; loops over the fire unit's 8 lanes (each register by itself, or all of a stage together);
enables of all memories as events (98 events cost more than their tests: 0.8); of Verilator's passes without reorder, life,
subst, case, reloop, dedup (within 1 %), merge-cond, life-post (0.9), dfg (0.7). -O3 is best: -O2 0.98, -fno-tree-slp-vectorize
0.97, -fno-tree-vectorize 0.75. Copies of one program differ by up to 20 % (where its pages lie, and what the neighbours do):
measure fresh copies in turn. --savable costs nothing."""
PROGRAM = "harness"
HERE = Path(__file__).resolve().parent
HEADERS = ("machine.hpp", "memory.hpp")

Progress = Callable[[int, int, int], None]


class Halted(SimulationFailed):
    """The run stopped after the snapshots that it was asked for; `descriptor` runs next. Run again to go on."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(f"halted at descriptor {descriptor}: run again to go on from its snapshot")
        self.descriptor = descriptor


def build(build: Build, *, savable: bool = False, trained: bool = False) -> Path:
    """The harness of `build`'s machine (its Verilog `sim.fast.rewrite.rewritten`), compiled where it changed; its path.

    `savable`: it can write and read snapshots. `trained`: compiled twice, the second time for what one random image makes it do
    often: for long runs, and machines without external memory. ValueError when the Verilog is missing; SimulatorMissing;
    SimulationFailed when it does not compile (names the log). One caller at a time.
    """
    base = build.folder / "sim" / f"fast{'-savable' * savable}{'-trained' * trained}"
    write_if_changed(base / "formats.hpp", formats_header(build.machine, savable))
    write_if_changed(base / f"{LATCHED}.v", latched_verilog(build.machine))
    machine = base / build.verilog.name
    write_if_changed(machine, rewritten(build.verilog.read_text()))
    return build_program(
        name=PROGRAM, toplevel=LATCHED, build_dir=base / "build", optimise=OPTIMISE,
        sources=[base / f"{LATCHED}.v", machine, HERE / "harness.cpp"],
        includes=[base / "formats.hpp", *(HERE / name for name in HEADERS)],
        args=[*ARGS, *(["--savable"] if savable else [])],
        train=(lambda program: _train(build, program, base / "train")) if trained else None)


def _train(build: Build, program: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    image = random_images(build.program.network.model, 0, 1)
    (folder / "script.bin").write_bytes(b"".join(script(build, image, first_image=0, traced=[], seed=1, ratio=None)))
    done = subprocess.run([program, folder / "script.bin", folder, "", "-1", "0"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SimulationFailed(f"{program}: the training run failed: {done.stderr.strip()}")


def run(build: Build, images: NDArray[np.uint8], *, program: Path, folder: Path, seed: int, ratio: int | None = None,
        first_image: int = 0, traced: Sequence[int] = (), memory: ExternalMemory | None = None,
        snapshot_seconds: int | None = None, halt_after: int = 0, progress: Progress | None = None) -> list[Answer]:
    """Run `images` uint8 [B, H, W, C] through the RTL in one process of `program` (from `build(...)`); one Answer each, in order.

    Image number i has index `first_image + i`, which picks its spike mask. `seed` (32 bits) and `ratio` (in 1/256; None: the
    program's own) are the mask's. `folder` takes the script, the answers and, for the indices in `traced`, `<index>.trace`
    (`sim.trace_file.read_trace`); files of an earlier run are replaced. `memory`: what lies behind the AXI4 master.
    With `snapshot_seconds` (program: `savable`) the state is saved where a layer begins, at most that often, and a run that
    finds the snapshot of the same job goes on from it; after `halt_after` snapshots (0: never) it stops (Halted).
    `progress(image, descriptor, cycle)` is called about once a second.

    MachineError: the machine reported an error. SimulationFailed: it hung, broke AXI, or the harness died, or the snapshot is of
    another job. ValueError: wrong images.
    """
    check_images(build.program.network.model, images)
    folder.mkdir(parents=True, exist_ok=True)
    script_file, log = folder / "script.bin", folder / "harness.log"
    parts = script(build, images, first_image=first_image, traced=traced, seed=seed, ratio=ratio, memory=memory)
    with script_file.open("wb") as file:
        for part in parts:
            file.write(part)
    key = digest(program.with_name(STAMP).read_text(), script_file.read_bytes())
    if snapshot_seconds is None or not (folder / SNAPSHOT).exists():
        for old in (SNAPSHOT, ANSWERS):
            (folder / old).unlink(missing_ok=True)
        for old_trace in folder.glob(f"*{TRACE_SUFFIX}"):
            old_trace.unlink()
    command = [str(program.resolve()), str(script_file), str(folder), key,
               str(-1 if snapshot_seconds is None else snapshot_seconds), str(halt_after)]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if progress is not None:
                    progress(*map(int, line.split()))
            code = process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
    if code:
        raise _failure(code, log)
    answers = read_answers(folder / ANSWERS)
    if [answer.image for answer in answers] != list(range(first_image, first_image + len(images))):
        raise SimulationFailed(f"{folder / ANSWERS}: {len(answers)} answers for {len(images)} images")
    return answers


def _failure(code: int, log: Path) -> Exception:
    text = log.read_text(errors="replace").strip()
    last = text.splitlines()[-1] if text else ""
    word, *numbers = last.split() or [""]
    if word == MACHINE_ERROR:
        return MachineError(*map(int, numbers))
    if word == HALTED:
        return Halted(int(numbers[0]))
    return SimulationFailed(last or f"the harness died (exit {code}) without a word: {log}")
