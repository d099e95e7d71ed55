"""Compile, simulate the generated RTL as a host would drive it, and compare everything with the golden model."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgen.config import MachineConfig
from hwgen.emit import EXTERNAL, IMAGE_FILES, Build, emit
from hwgen.files import claimed, write_if_changed
from hwgen.inputs import machine_of
from hwgen.registers import LoadTarget
from hwgen.shapes import memory_shapes
from hwgen.timeline import MemoryTiming
from model.config import CONV_SITE, SITES, Config, ConfigError, MaskingConfig, ModelConfig
from model.masking import SpikeMask
from quantize.layers import Network
from sim.golden.network import Trace
from sim.job import Answer, Job
from sim.runner import SimulationFailed, run_bench
from sim.verify import Verdict, golden_trace, time_steps, verify
from sim.wrapper import WRAPPER, wrapper_verilog

EXTERNAL_BASE = 0x1000_0000
"""Byte address of the machine's external memory in simulation: not 0, so that MEMORY_BASE counts."""
BUILD_ROOT = Path("rtl") / "build"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verified run and what it ran on."""

    verdict: Verdict
    build: Build
    trace: Trace
    images: NDArray[np.uint8]
    mask: SpikeMask
    masking: MaskingConfig
    waveform: Path | None = None


def masked_config(config: Config, ratio: float | None) -> MaskingConfig:
    """The configuration's masking with another ratio; ConfigError: no multiple of 1/256 in [0, 1), or it would mask nothing."""
    if ratio is None:
        return config.masking
    masking = config.masking.at(ratio)
    named = {*config.masking.sites, *(key.rpartition(".")[2] for key, own in config.masking.ratios if own)}
    attends = isinstance(config.model, ModelConfig)
    if ratio and named.isdisjoint(SITES if attends else [CONV_SITE]):
        sites = "paper" if attends else CONV_SITE
        raise ConfigError(f"a mask ratio of {ratio} would mask nothing here: set [masking] sites, such as sites = \"{sites}\"")
    return masking


def simulate(
    config: Config,
    network: Network,
    images: NDArray[np.uint8],
    *,
    ratio: float | None = None,
    simulator: str = "verilator",
    waves: bool = False,
    first_image: int = 0,
    folder: Path | None = None,
    machine: MachineConfig | None = None,
    idle: int = 0,
    stall: int = 0,
    memory: MemoryTiming | None = None,
    steps: int | None = None,
) -> Outcome:
    """Run `network` on `images` uint8 [B, H, W, C] in RTL simulation and compare with the golden model.

    `ratio`: mask ratio in place of the configuration's, set over the mask registers: the program stays as it is. `idle`,
    `stall`: most idle cycles of the image stream and stalls of the result stream (cycles then differ from the prediction).
    `memory`: how fast external memory is, where the machine has any. `steps`: time steps of a stepwise machine (default: all
    that it has). ValueError when it has not so many, or is not stepwise; BusyError while another run has the folder.
    """
    folder = folder or BUILD_ROOT / config.name
    with claimed(folder / "sim"):
        build = emit(network, machine or machine_of(config), config.masking, folder)
        masking = masked_config(config, ratio)
        mask = SpikeMask.of(masking)
        count = time_steps(build.machine, steps)
        trace = golden_trace(network, build.machine, images, mask=mask, first_image=first_image, steps=count)
        memory = memory or MemoryTiming()
        answer, trace_file, waveform = run_top(build, config, masking, ratio, images, simulator, waves, first_image, idle, stall,
                                              memory, steps=steps or 0)
        verdict = verify(build.program, trace, images, answer, trace_file, memory, steps=count)
        return Outcome(verdict, build, trace, images, mask, masking, waveform)


def run_top(
    build: Build,
    config: Config,
    masking: MaskingConfig,
    ratio: float | None,
    images: NDArray[np.uint8],
    simulator: str,
    waves: bool,
    first_image: int,
    idle: int,
    stall: int,
    memory: MemoryTiming = MemoryTiming(),  # noqa: B008 (frozen)
    netlist: Sequence[Path] = (),
    includes: Sequence[Path] = (),
    steps: int = 0,
) -> tuple[Answer, Path, Path | None]:
    """The cocotb bench alone, on a build: what the host saw, the trace file, and the waveform where one was asked for.

    `netlist`, with `includes`: sources that take the place of the build's Verilog.
    """
    work = (build.folder / "sim").resolve()
    work.mkdir(parents=True, exist_ok=True)
    images_file, answer_file, trace_file = work / "images.npy", work / "answer.json", work / "trace.txt"
    np.save(images_file, images, allow_pickle=False)
    answer_file.unlink(missing_ok=True)
    trace_file.unlink(missing_ok=True)
    shapes = memory_shapes(build.machine)
    loads = (
        [
            (int(target), shapes[target][0], str((build.folder / IMAGE_FILES[target]).resolve()))
            for target in LoadTarget
            if target in shapes
        ]
        if build.machine.weights == "loadable"
        else []
    )
    external: dict[str, Any] = {}
    if build.machine.memory_bits:
        external = {"external_file": str((build.folder / EXTERNAL).resolve()), "external_base": EXTERNAL_BASE,
                    "external_bits": build.machine.memory_bits,
                    "external_bytes": build.program.external_beats * build.machine.memory_bits // 8,
                    "latency": memory.latency, "bandwidth": memory.bandwidth.as_integer_ratio()}
    Job(
        str(images_file),
        config.model.patch,
        masking.seed,
        True,
        None if ratio is None else masking.ratio256,
        first_image,
        build.id32,
        loads,
        str(answer_file),
        idle,
        stall,
        steps=steps,
        **external,
    ).save(work / "job.json")
    wrapper = work / f"{WRAPPER}.v"
    write_if_changed(wrapper, wrapper_verilog(build.machine))
    results = run_bench(
        name="netlist" if netlist else "top",
        toplevel=WRAPPER,
        sources=[*(netlist or [build.verilog]), wrapper],
        includes=includes,
        test_module="sim.tb.tb_top",
        build_dir=work,
        simulator=simulator,
        waves=waves,
        env={"MST_JOB": str(work / "job.json"), "PYTHONPATH": os.getcwd()},
        plusargs=[f"+trace={trace_file}"],
    )
    if results.failed or not answer_file.exists():
        raise SimulationFailed(f"the top bench failed: {results.summary()}; see {work}")
    return Answer.load(answer_file), trace_file, results.waves
