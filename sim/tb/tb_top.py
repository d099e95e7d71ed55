"""The top bench: a host that only knows AXI loads the memories, runs images and reads logits and counters.

Layer boundaries are compared after the run, from the trace that the simulation top wrote (`sim.verify`).
"""
import os
from fractions import Fraction
from pathlib import Path

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles

from hwgen.registers import LoadTarget
from sim.axi_memory import AxiMemory, Timing
from sim.cocotb_bus import CocotbBus, start_memory
from sim.host import Host
from sim.job import Answer, Job
from sim.protocol import check_protocol
from sim.streams import start_clock


@cocotb.test()
async def run_images(dut: object) -> None:
    """Load, run every image of the job, and write the answer."""
    job = Job.load(Path(os.environ["MST_JOB"]))
    dut.rst.value = 1  # type: ignore[attr-defined]
    start_clock(dut)
    if job.external_file:
        data = bytearray(Path(job.external_file).read_bytes().ljust(job.external_bytes, b"\0"))
        start_memory(dut, AxiMemory(data, base=job.external_base, bits=job.external_bits, timing=Timing(
            job.latency, Fraction(*job.bandwidth), job.memory_stall)))
    bus = CocotbBus(dut, idle=job.idle, stall=job.stall)
    await ClockCycles(dut.clk, 4)  # type: ignore[attr-defined]
    dut.rst.value = 0  # type: ignore[attr-defined]
    host = Host(bus)
    identity = await host.probe()
    assert identity.build_id == job.build_id, f"BUILD_ID {identity.build_id:#x}, expected {job.build_id:#x}: run make rtl"
    for target, bits, file in job.memories:
        words = [int(line, 16) for line in Path(file).read_text().split()]
        await host.load(LoadTarget(target), words, bits)
    if job.external_file:
        await host.set_memory(job.external_base)
    await host.set_mask(job.seed, job.mask_enable, job.mask_ratio)
    if job.steps:
        await host.write("STEPS", value=job.steps)
    images = np.load(job.images_file, allow_pickle=False)
    for image in images:
        await host.send_image(image, job.patch)
    await host.start(len(images), job.first_image)
    logits = [(await host.result()).tolist() for _ in images]
    await host.finish()
    counters = await host.counters()
    check_protocol(dut)
    Answer(logits, counters.cycles, counters.events, counters.stalls, counters.image_index).save(Path(job.answer_file))
