"""A whole test set through the RTL: every image's logits, and every layer of some images, equal to the golden model.

Images run in chunks, each in a process of the compiled harness; while one runs, the golden model works on the same chunk.
A chunk that was found right leaves a file; a run that finds it does not do it again. Files are kept apart by everything they
depend on: build, network, mask, images, and the sources that judged them.
"""
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hwgen.emit import Build
from hwgen.files import claimed, digest, json_text, write_if_changed
from model.config import MaskingConfig
from model.masking import SpikeMask
from quantize.layers import Network
from quantize.network import digest as network_digest
from sim.fast.harness import build as build_harness
from sim.fast.harness import run as run_harness
from sim.job import Answer
from sim.runner import STAMP
from sim.trace_file import TRACE_SUFFIX
from sim.verify import golden_logits, golden_trace, time_steps, verify

CHUNK = 50
"""Images of one process: loading the machine costs less than one of them, and a broken-off run loses at most this many each."""
SUMMARY = "verify-all.json"


@dataclass(slots=True)
class Chunk:
    """What is known of the images `first` and following. `failures`: one line each; `wrong`: indices of the images they name."""

    first: int
    logits: list[list[int]]
    cycles: list[int]
    layers: int
    traced: int
    failures: list[str] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)

    def fail(self, image: int, what: str) -> None:
        """Note a failure of one image."""
        self.failures.append(f"image {image}, {what}")
        if image not in self.wrong:
            self.wrong.append(image)


@dataclass(frozen=True, slots=True)
class Summary:
    """How it ended. `seconds`, `ran`: of this call alone, the rest were known before; `correct`: of the RTL's own logits."""

    images: int
    of: int
    traced: int
    layers: int
    failures: tuple[str, ...]
    correct: int | None
    cycles: int
    ran: int
    seconds: float
    processes: int

    @property
    def passed(self) -> bool:
        """Every image was run and is equal."""
        return not self.failures and self.images == self.of

    def line(self) -> str:
        """The one line that ends a run."""
        rate = f"{self.ran / self.seconds:.2f} images/s in this run" if self.ran else "nothing left to run"
        if not self.passed:
            return f"FAIL {self.images}/{self.of} images bit-exact, {rate}: {self.failures[0]}"
        return (f"PASS {self.images}/{self.of} images bit-exact, {self.traced} images x {self.layers} layers, "
                f"{self.cycles / self.images:.0f} cycles/image, {rate}, {self.processes} processes")


@dataclass(frozen=True, slots=True)
class Task:
    """What all chunks of one run share. `images` uint8 [N, H, W, C]; `every`: the layers of every so many images are compared."""

    build: Build
    network: Network
    masking: MaskingConfig
    ratio: int | None
    images: NDArray[np.uint8]
    every: int
    program: Path
    folder: Path

    def chunk(self, first: int) -> Chunk:
        """Run and judge the images from `first` on."""
        images, machine = self.images[first:first + CHUNK], self.build.machine
        steps = time_steps(machine, None)
        traced = [index for index in range(first, first + len(images)) if index % self.every == 0]
        work = self.folder / f"work-{first}"
        mask = SpikeMask.of(self.masking)
        with ThreadPoolExecutor(1) as side:
            running = side.submit(run_harness, self.build, images, program=self.program, folder=work, seed=self.masking.seed,
                                  ratio=self.ratio, first_image=first, traced=traced)
            want = golden_logits(self.network, machine, images, mask=mask, first_image=first, steps=steps)
            answers = running.result()
        out = Chunk(first, [answer.logits.tolist() for answer in answers], [answer.cycles for answer in answers],
                    len(self.build.program.layers), len(traced))
        got = np.stack([answer.logits for answer in answers])
        for image, channel in np.argwhere(got != want):
            out.fail(first + int(image), f"head, class {channel}: logit {got[image, channel]}, expected {want[image, channel]}")
        for index in traced:
            one = images[index - first][None]
            answer = answers[index - first]
            trace = golden_trace(self.network, machine, one, mask=mask, first_image=index, steps=steps)
            seen = Answer([answer.logits.tolist()], answer.cycles, answer.events, answer.stalls, index + 1)
            verdict = verify(self.build.program, trace, one, seen, work / f"{index}{TRACE_SUFFIX}", steps=steps)
            for failure in verdict.failures:
                out.fail(index, failure.removeprefix("image 0, "))
        if not out.failures:
            for file in work.iterdir():
                file.unlink()
            work.rmdir()
        return out


def verify_all(build: Build, network: Network, masking: MaskingConfig, images: NDArray[np.uint8],
               labels: NDArray[np.int64] | None = None, *, ratio: float | None = None, every: int = 100,
               processes: int | None = None, resume: bool = True, quiet: bool = False) -> Summary:
    """Run `images` uint8 [N, H, W, C] and compare all logits, and all layers and cycles of image 0, `every`, 2 `every`, ...

    `masking`: with the ratio that holds; `ratio`: the same, set over the registers, or None for the program's own. `labels`
    int64 [N] give the accuracy. `processes`: at a time, one a core by default. `resume=False` forgets what is known. `quiet`:
    no progress bar. It stops at the first wrong chunk. The summary goes to verify-all/verify-all.json in the build folder.
    ValueError: bad numbers; BusyError where another run has the folder; and what `sim.fast.build` and `run` raise.
    """
    workers = processes if processes is not None else os.cpu_count() or 1
    for name, value in (("processes", workers), ("every", every), ("images", len(images))):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    program = build_harness(build, trained=not build.machine.memory_bits)
    root = build.folder / "verify-all"
    folder = root / _key(build, network, masking, program, images, every)
    folder.mkdir(parents=True, exist_ok=True)
    task = Task(build, network, masking, None if ratio is None else masking.ratio256, images, every, program, folder)
    begin = time.monotonic()
    with claimed(folder):
        if not resume:
            for old in folder.glob("chunk-*.json"):
                old.unlink()
        firsts = range(0, len(images), CHUNK)
        known = {first: chunk for first in firsts if (chunk := _known(folder, first)) is not None}
        ran = 0
        with tqdm(total=len(images), initial=sum(len(chunk.logits) for chunk in known.values()), unit="image",
                  disable=True if quiet else None, mininterval=1) as bar:
            for chunk in _run([first for first in firsts if first not in known], task, workers):
                known[chunk.first] = chunk
                ran += len(chunk.logits)
                bar.update(len(chunk.logits))
                if not chunk.failures:
                    write_if_changed(_file(folder, chunk.first), json_text(asdict(chunk)))
    summary = _summary([known[first] for first in sorted(known)], images, labels, ran, time.monotonic() - begin, workers)
    write_if_changed(root / SUMMARY, json_text({**asdict(summary), "passed": summary.passed, "build_id": build.build_id,
                                                "network": network_digest(network), "mask_ratio": masking.ratio}))
    return summary


def _run(firsts: Sequence[int], task: Task, workers: int) -> Iterator[Chunk]:
    """Chunks as they end; none is begun once one was wrong."""
    todo = iter(firsts)
    pool = ThreadPoolExecutor(workers)
    running: set[Future[Chunk]] = set()
    good = True
    try:
        while True:
            while good and len(running) < workers and (first := next(todo, None)) is not None:
                running.add(pool.submit(task.chunk, first))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                chunk = future.result()
                good = good and not chunk.failures
                yield chunk
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _key(build: Build, network: Network, masking: MaskingConfig, program: Path, images: NDArray[np.uint8], every: int) -> str:
    root = Path(__file__).resolve().parent.parent
    judges = [*sorted((root / "golden").glob("*.py")), root / "verify.py", root / "trace_file.py", Path(__file__)]
    return digest(build.build_id, network_digest(network), repr(masking), program.with_name(STAMP).read_text(),
                  images.tobytes(), str((every, CHUNK, images.shape)), *(path.read_bytes() for path in judges))[:16]


def _file(folder: Path, first: int) -> Path:
    return folder / f"chunk-{first}.json"


def _known(folder: Path, first: int) -> Chunk | None:
    """A chunk of an earlier run; None where there is none, or no whole one."""
    try:
        return Chunk(**json.loads(_file(folder, first).read_text()))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None


def _summary(chunks: Sequence[Chunk], images: NDArray[np.uint8], labels: NDArray[np.int64] | None, ran: int, seconds: float,
             workers: int) -> Summary:
    failures = tuple(failure for chunk in chunks for failure in chunk.failures)
    right = sum(len(chunk.logits) - len(chunk.wrong) for chunk in chunks)
    correct = None
    if labels is not None:
        correct = sum(int((np.argmax(chunk.logits, axis=1) == labels[chunk.first:chunk.first + len(chunk.logits)]).sum())
                      for chunk in chunks)
    return Summary(images=right, of=len(images), traced=sum(chunk.traced for chunk in chunks),
                   layers=max(chunk.layers for chunk in chunks), failures=failures, correct=correct,
                   cycles=sum(sum(chunk.cycles) for chunk in chunks), ran=ran, seconds=seconds, processes=workers)
