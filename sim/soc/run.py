"""The SoC in RTL simulation: PicoRV32 boots the firmware, loads a network, classifies; the UART against the golden."""
import importlib.util
import re
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from firmware.build import flat, soc_image
from hwgen.config import MachineConfig
from hwgen.emit import MMIO, emit, emit_mmio
from hwgen.files import hex_image, write_if_changed
from hwgen.packed import pack
from model.config import MaskingConfig
from model.masking import SpikeMask
from quantize.layers import Network
from sim.golden.network import run as run_golden
from sim.runner import SimulationFailed, build_program

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGES_MAGIC = 0x4D535449
"""First word of the images in flash (firmware/soc/main.c): "MSTI"."""
RAM_BYTES, FLASH_BYTES = 64 << 10, 4 << 20
LINE = re.compile(r"^(?P<what>[a-z, ]*image )(?P<index>\d+): class (?P<class>\d+), (?P<cycles>\d+) cycles, "
                  r"logits(?P<logits>( -?\d+)+)$")


class SocError(RuntimeError):
    """The SoC cannot be simulated: one line that says what is missing."""


@dataclass(frozen=True, slots=True)
class Run:
    """What the UART said. `images`: (index, class, cycles, logits) of every classification, in order.

    `failures`: differences from the golden model, one line each.
    """

    text: str
    images: list[tuple[int, int, int, list[int]]]
    failures: list[str]

    @property
    def passed(self) -> bool:
        """The firmware says PASS, and the golden model agrees."""
        return not self.failures


def cpu_source() -> Path:
    """PicoRV32's Verilog; SocError when its package is not installed."""
    found = importlib.util.find_spec("pythondata_cpu_picorv32")
    if found is None or found.origin is None:
        raise SocError("PicoRV32 not found: pip install pythondata-cpu-picorv32==1.0.post218 (make soc-sim does)")
    return Path(found.origin).parent / "verilog" / "picorv32.v"


def images_block(images: NDArray[np.uint8], logits: NDArray[np.int32], mishaps: bool) -> bytes:
    """Images uint8 [B, H, W, C] and their logits int [B, classes] as firmware/soc/main.c reads them."""
    size = images[0].size
    head = struct.pack("<5I", IMAGES_MAGIC, len(images), size, logits.shape[1], int(mishaps))
    return head + b"".join(image.tobytes() + bytes(-size % 4) for image in images) + logits.astype("<i4").tobytes()


def simulate_soc(network: Network, machine: MachineConfig, masking: MaskingConfig, images: NDArray[np.uint8], folder: Path, *,
                 mishaps: bool = False, cycles: int = 1_000_000_000, spoil: int | None = None,
                 echo: Callable[[str], None] | None = None) -> Run:
    """Build and run the SoC for `network` on `images` uint8 [B, H, W, C]; the image's index is its place.

    `mishaps`: also the same image again, another one between, aborts and errors, each followed by the same image. `cycles`: most
    cycles. `spoil`: flip a bit of this byte of the flash (for tests). `echo`: gets every UART line as it comes.
    SocError, FirmwareError, SimulationFailed, CompileError when something is missing or breaks.
    """
    cpu, elf = cpu_source(), soc_image(folder / "firmware")
    build = emit(network, machine, masking, folder)
    if build.machine.memory_bits:
        raise SocError(f"memory_bits is {build.machine.memory_bits}: this SoC has no external memory for the accelerator, use 0")
    trace = run_golden(network, images, mask=SpikeMask.of(masking))
    flash = bytearray(pack(build.program, build.machine, masking, build.id32) + images_block(images, trace.logits, mishaps))
    if len(flash) > FLASH_BYTES:
        raise SocError(f"network and images take {len(flash)} bytes, the flash has {FLASH_BYTES}: give fewer images")
    if spoil is not None:
        flash[spoil] ^= 1
    verilog = folder / f"{MMIO}.v"
    if build.regenerated or not verilog.is_file():
        emit_mmio(build)
    program = build_program(name="mst_soc", toplevel="mst_soc", sources=[
        ROOT / "rtl" / "soc" / "mst_soc.v", verilog, cpu, Path(__file__).parent / "harness.cpp"], includes=[],
        build_dir=folder / "soc", optimise="-O1")
    files = {"ram": flat(elf), "flash": bytes(flash)}
    for name, data in files.items():
        words = np.frombuffer(data + bytes(-len(data) % 4), "<u4")
        write_if_changed(folder / f"{name}.hex", hex_image(map(int, words), 32))
    text = _go([str(program), *(f"+{name}={folder / f'{name}.hex'}" for name in files), f"+cycles={cycles}"], echo)
    return judge(text, trace.logits)


def _go(command: list[str], echo: Callable[[str], None] | None) -> str:
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            lines.append(line)
            if echo is not None:
                echo(line.rstrip("\n"))
        complaint = process.stderr.read()
    if process.returncode:
        raise SimulationFailed(f"the SoC did not stop by itself (exit {process.returncode}): {complaint.strip()}; its UART ends: "
                               f"{''.join(lines[-3:]).strip()!r}")
    return "".join(lines)


def judge(text: str, logits: NDArray[np.int32]) -> Run:
    """The UART's text against the golden logits [B, classes]: classes, logits, and PASS at its end."""
    images, failures = [], []
    for line in text.splitlines():
        found = LINE.match(line)
        if found is None:
            continue
        index, said = int(found["index"]), [int(value) for value in found["logits"].split()]
        images.append((index, int(found["class"]), int(found["cycles"]), said))
        want = logits[index].tolist() if index < len(logits) else []
        if said != want:
            failures.append(f"{found['what']}{index}: logits {said}, golden {want}")
        elif int(found["class"]) != int(logits[index].argmax()):
            failures.append(f"{found['what']}{index}: class {found['class']}, golden {logits[index].argmax()}")
    missing = set(range(len(logits))) - {index for index, *_ in images}
    failures += [f"image {index}: nothing was said of it" for index in sorted(missing)]
    if text.splitlines()[-1:] != ["PASS"]:
        failures.append(f"the firmware ends with {''.join(text.splitlines()[-1:])!r}, not PASS")
    return Run(text, images, failures)
