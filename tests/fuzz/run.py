"""Mutated files into every reader: `python tests/fuzz/run.py --count 10000`, or make fuzz-files. Goes on where it was stopped.

A reader may return or raise what a command line tells in a line. A traceback, more than 2 s of processor time or 500 MB of memory
is a finding: the file is kept, and the exit code is 1. Worker processes have a limit of address space; one that dies or hangs
is a finding too, and is replaced.
"""
import argparse
import contextlib
import io
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import mutate  # noqa: E402
import readers  # noqa: E402

from firmware.host.driver import HostError  # noqa: E402

SECONDS, MEGABYTES = 2.0, 500
PATIENCE = 60
"""Wall seconds after which a worker that says nothing is replaced."""
CHUNK = 500
KINDS = ("read", "refused", "traceback", "over_limit", "died")
RESULT = ROOT / "docs" / "results" / "trust.json"


@dataclass(frozen=True, slots=True)
class Finding:
    """What went wrong with mutation `index` of `reader`: `kind` is traceback, over_limit or died."""

    reader: str
    index: int
    kind: str
    what: str


def _memory(field: str) -> int:
    """MB of this process: VmSize, VmRSS, or VmHWM, the most since it was last set back."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) // 1024
    return 0


def one(reader: readers.Reader, data: bytes, folder: Path) -> tuple[str, str]:
    """(kind, what) of one file: kind "read", "refused", "traceback" or "over_limit"."""
    path = folder / reader.name
    path.write_bytes(data)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back
    before, started = _memory("VmRSS"), time.process_time()
    kind, what = "read", ""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(path)
    except (ValueError, OSError, HostError) as error:
        kind, what = "refused", str(error)
        ours = type(error).__module__.partition(".")[0] in ("model", "quantize", "hwgen", "sim", "firmware")
        if not what or "\n" in what or not ours and path.name not in what or len(what) > 4000:
            kind, what = "traceback", f"not a line that names the file: {what[:200]!r} ({type(error).__name__})"
    except MemoryError:
        kind, what = "over_limit", "MemoryError"
    except Exception:
        kind, what = "traceback", traceback.format_exc(limit=-3)
    seconds, most = time.process_time() - started, _memory("VmHWM") - before
    if kind != "traceback" and (seconds > SECONDS or most > MEGABYTES or "MemoryError" in what):
        kind, what = "over_limit", f"{seconds:.1f} s, {most} MB; {what[:200]}"
    return kind, what


def file_of(name: str, whole: list[bytes], seed: int, index: int) -> bytes:
    """Mutation `index` of reader `name`."""
    reader = readers.READERS[name]
    data = mutate.mutated(whole, f"{seed} {name} {index}", reader.text)
    return reader.repair(data) if reader.repair is not None and index % 2 else data


def _work(pipe: Connection, seed: int) -> None:
    """A worker: takes (reader, first, count), says each index before it begins and its verdict after."""
    import torch
    torch.set_num_threads(1)
    seeds: dict[str, list[bytes]] = {}
    with tempfile.TemporaryDirectory() as folder:
        while True:
            task = pipe.recv()
            if task is None:
                return
            name, first, count = task
            place = Path(folder) / name
            place.mkdir(exist_ok=True)
            if name not in seeds:
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_AS)[1]))
                seeds[name] = readers.READERS[name].seeds()
                for data in (*seeds[name], *seeds[name]):  # first it imports what it needs
                    kind, what = one(readers.READERS[name], data, place)
                    if kind not in ("read", "over_limit"):
                        pipe.send(("verdict", name, -1, "traceback", f"a whole file is {kind}: {what}"))
            limit = (_memory("VmSize") + MEGABYTES + 100) << 20
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
            for index in range(first, first + count):
                pipe.send(("begin", name, index, "", ""))
                kind, what = one(readers.READERS[name], file_of(name, seeds[name], seed, index), place)
                pipe.send(("verdict", name, index, kind, what))
            pipe.send(("done", name, first, "", ""))


class Worker:
    """A process that works on one chunk at a time, and is made anew when it dies."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, self.seed), daemon=True)
        self.process.start()
        other.close()

    def run(self, name: str, first: int, count: int) -> tuple[dict[str, int], list[Finding]]:
        """Kinds and findings of mutations `first` to `first + count` of reader `name`."""
        kinds: dict[str, int] = {}
        findings: list[Finding] = []
        end, current, ready = first + count, first, False
        self.pipe.send((name, first, count))
        while True:
            try:
                if not self.pipe.poll(PATIENCE):
                    raise EOFError
                said, _, index, kind, what = self.pipe.recv()
            except (EOFError, ConnectionError):
                self.process.kill()
                self.process.join()
                if not ready:
                    raise RuntimeError(f"{name}: the whole files cannot be made, see above") from None
                what = f"the process ended with {self.process.exitcode}"
                findings.append(Finding(name, current, "died", what))
                kinds["died"] = kinds.get("died", 0) + 1
                self._start()
                current += 1
                if current >= end:
                    return kinds, findings
                self.pipe.send((name, current, end - current))
                continue
            if said == "done":
                return kinds, findings
            current, ready = max(index, first), True
            if index < 0 and said == "verdict":
                raise RuntimeError(f"{name}: {what}")
            if said == "verdict":
                kinds[kind] = kinds.get(kind, 0) + 1
                if kind not in ("read", "refused"):
                    findings.append(Finding(name, index, kind, what))

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


def record(path: Path, state: dict[str, dict[str, int]]) -> None:
    """Write the figures into the keys of `path` that are theirs; the others stay."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    total = {kind: sum(kinds.get(kind, 0) for kinds in state.values()) for kind in KINDS}
    known |= {"files_fuzzed": sum(total.values()), "readers": len(state), "tracebacks": total["traceback"] + total["died"],
              "over_limit": total["over_limit"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Fuzz; the exit code is 1 where there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="mutated files a reader (default: 10000)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the mutations (default: 1)")
    parser.add_argument("--only", help="readers, with commas between (default: all)")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "fuzz-files",
                        help="state and findings (default: runs/fuzz-files)")
    parser.add_argument("--record", action="store_true", help="write the figures of all readers to docs/results/trust.json")
    args = parser.parse_args(argv)
    names = args.only.split(",") if args.only else list(readers.READERS)
    unknown = [name for name in names if name not in readers.READERS]
    if unknown or args.count < 1:
        print(f"--only: no reader {unknown[0]!r}; known: {', '.join(readers.READERS)}" if unknown else
              f"--count must be at least 1, not {args.count}", file=sys.stderr)
        return 2
    os.environ["OMP_NUM_THREADS"] = "1"
    args.folder.mkdir(parents=True, exist_ok=True)
    file = args.folder / f"state-{args.seed}.json"
    state: dict[str, dict[str, int]] = json.loads(file.read_text()) if file.is_file() else {}
    worker, findings = Worker(args.seed), 0
    try:
        for name in names:
            kinds = state.setdefault(name, {})
            while (done := sum(kinds.values())) < args.count:
                found, wrong = worker.run(name, done, min(CHUNK, args.count - done))
                for kind, count in found.items():
                    kinds[kind] = kinds.get(kind, 0) + count
                for finding in wrong:
                    print(f"{finding.reader} {finding.index}: {finding.kind}: {finding.what}", flush=True)
                    kept = args.folder / f"{name.replace(' ', '-')}-{finding.index}"
                    kept.write_bytes(file_of(name, readers.READERS[name].seeds(), args.seed, max(finding.index, 0)))
                file.write_text(json.dumps(state))
            print(f"{name}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()), flush=True)
            findings += sum(count for kind, count in kinds.items() if kind not in ("read", "refused"))
    finally:
        worker.close()
    if args.record:
        record(RESULT, state)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
