"""In which number format a training computes: `[train] precision = "auto"` is chosen by what the machine has.

bfloat16 pays where the processor or GPU has arithmetic for it. Elsewhere each operation converts there and back:
cifar10-tiny trains at 198 images a second of processor time instead of 357 in float32.
"""
from pathlib import Path

import torch

from model.train_config import AUTO

CPUINFO = Path("/proc/cpuinfo")


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` (a CPU or a CUDA GPU) has instructions that compute in bfloat16, not merely a format to keep it in."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # NVIDIA's compute capability of Ampere, the first that has it
    return device.type == "cpu" and _cpu_flag(_cpu_flags())


def _cpu_flags() -> set[str]:
    """Instruction sets of this processor: as torch tells them, or (torch before 2.11) as Linux does; none where nobody does."""
    tell = getattr(torch.cpu, "get_capabilities", None)
    if tell is not None:
        return {str(name) for name, there in tell().items() if there is True}
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.partition(":")[2].split()}


def _cpu_flag(flags: set[str]) -> bool:
    """Whether `flags` name bfloat16 arithmetic: avx512_bf16, amx_bf16, avx10_2 of x86; bf16, svebf16 of ARM."""
    return any(flag.lower().endswith("bf16") for flag in flags) or "avx10_2" in flags


def chosen(wanted: str, device: torch.device, saved: str | None = None) -> tuple[str, str]:
    """The format that a run with `[train] precision = wanted` computes in, and why, as one phrase.

    `saved`: the format of the state that the run goes on from. Under "auto" the run keeps it, so that it repeats
    what an uninterrupted one computes, whatever machine it goes on at.
    """
    if wanted != AUTO:
        return wanted, "as [train] precision says"
    if saved is not None:
        return saved, "as the run began"
    what = "GPU" if device.type == "cuda" else "processor"
    if has_bfloat16(device):
        return "bfloat16", f"this {what} has bfloat16 arithmetic"
    return "float32", f"this {what} has no bfloat16 arithmetic"
