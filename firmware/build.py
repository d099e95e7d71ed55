"""Compiles the firmware: the driver for this machine and for rv32, and the SoC's image. Sizes are the compiler's."""
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror")
PREFIX = "riscv64-unknown-elf-"
RV32 = ("-Os", "-march=rv32im", "-mabi=ilp32", "-ffreestanding", "-nostdlib", "-nostartfiles", "-ffunction-sections",
        "-fdata-sections")
SOC = ("soc/start.S", "soc/main.c", "mst.c")


class FirmwareError(RuntimeError):
    """The firmware cannot be compiled: the message says what is missing or shows the compiler's complaint."""


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of code and constants, of initialised data, of zeros."""

    text: int
    data: int
    bss: int

    def __str__(self) -> str:
        return f"{self.text} bytes of code and constants, {self.data} of data, {self.bss} of zeros"


def host_compiler() -> str:
    """The system's C compiler; FirmwareError when there is none."""
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return name
    raise FirmwareError("no C compiler (cc) on PATH: apt-get install gcc")


def rv32_compiler() -> str:
    """The RISC-V compiler; FirmwareError when there is none."""
    if shutil.which(f"{PREFIX}gcc") is None:
        raise FirmwareError(f"{PREFIX}gcc not found: apt-get install gcc-riscv64-unknown-elf")
    return f"{PREFIX}gcc"


def run(command: Sequence[str]) -> str:
    """Standard output; FirmwareError with the command and its complaint when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FirmwareError(f"{command[0]} failed on {command[-1]}:\n{(done.stderr or done.stdout).strip()}")
    return done.stdout


def size_of(file: Path, tool: str) -> Size:
    """What the `size` tool says of an object or program."""
    found = re.search(r"^\s*(\d+)\s+(\d+)\s+(\d+)", run([tool, str(file)]), re.MULTILINE)
    if found is None:
        raise FirmwareError(f"{tool} {file}: no sizes in its output")
    return Size(*map(int, found.groups()))


def driver(folder: Path, rv32: bool) -> Path:
    """mst.c as an object, for this machine or for rv32."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / ("mst-rv32.o" if rv32 else "mst-host.o")
    compiler, flags = (rv32_compiler(), RV32) if rv32 else (host_compiler(), ("-O2",))
    run([compiler, *STRICT, *flags, "-c", str(HERE / "mst.c"), "-o", str(target)])
    return target


def soc_image(folder: Path) -> Path:
    """The SoC's firmware (rtl/soc/mst_soc.v) as an ELF file."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "soc.elf"
    run([rv32_compiler(), *STRICT, *RV32, "-Wl,--gc-sections", "-Wl,--no-warn-rwx-segments", "-T", str(HERE / "soc" / "soc.ld"),
         *(str(HERE / source) for source in SOC), "-lgcc", "-o", str(target)])
    return target


def flat(elf: Path) -> bytes:
    """The bytes of an ELF file as they lie in memory, filled up to words."""
    target = elf.with_suffix(".raw")
    run([f"{PREFIX}objcopy", "-O", "binary", str(elf), str(target)])
    data = target.read_bytes()
    return data + bytes(-len(data) % 4)
