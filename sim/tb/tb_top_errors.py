"""The whole machine under a careless host: broken packets, aborts, starts at the wrong time. Afterwards it works as before."""
import os
from pathlib import Path

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles

from hwgen.registers import ErrorCode, LoadTarget
from sim.cocotb_bus import CocotbBus
from sim.host import Host, MachineError, image_packet
from sim.job import Job
from sim.streams import start_clock


async def ready_machine(dut: object) -> tuple[Host, Job, np.ndarray]:
    """Reset, load, and set the mask as the job says."""
    job = Job.load(Path(os.environ["MST_JOB"]))
    dut.rst.value = 1  # type: ignore[attr-defined]
    start_clock(dut)
    host = Host(CocotbBus(dut))
    await ClockCycles(dut.clk, 4)  # type: ignore[attr-defined]
    dut.rst.value = 0  # type: ignore[attr-defined]
    await host.probe()
    for target, bits, file in job.memories:
        await host.load(LoadTarget(target), [int(line, 16) for line in Path(file).read_text().split()], bits)
    await host.set_mask(job.seed, job.mask_enable, job.mask_ratio)
    return host, job, np.load(job.images_file, allow_pickle=False)


async def expect_error(host: Host, code: ErrorCode) -> None:
    """The run ends with this error, which then can be cleared."""
    try:
        await host.finish()
    except MachineError as error:
        assert error.code == code, f"error {error.code}, expected {code.name}"
    else:
        raise AssertionError(f"no error came, expected {code.name}")
    await host.abort()
    await host.check()


@cocotb.test()
async def errors_and_aborts_leave_no_trace(dut: object) -> None:
    """The same image gives the same logits before and after every mishap."""
    host, job, images = await ready_machine(dut)
    want = await host.classify(images[:1], job.patch, job.first_image)
    good = image_packet(images[0], job.patch, host.bus_bytes)

    await host.bus.send(good[:-host.bus_bytes])  # TLAST one beat early
    await host.start(1)
    await expect_error(host, ErrorCode.STREAM_SHORT)
    assert (await host.classify(images[:1], job.patch, job.first_image) == want).all(), "after a short image"

    await host.bus.send(good + bytes(2 * host.bus_bytes))  # two beats too many
    await host.start(1)
    await expect_error(host, ErrorCode.STREAM_LONG)
    assert (await host.classify(images[:1], job.patch, job.first_image) == want).all(), "after a long image"

    for pause in (50, 700, 2500):
        await host.send_image(images[0], job.patch)
        await host.start(1)
        await ClockCycles(dut.clk, pause)  # type: ignore[attr-defined]
        await host.abort()
        assert not await host.read_field("STATUS", "busy"), f"aborted after {pause} cycles"
        assert (await host.classify(images[:1], job.patch, job.first_image) == want).all(), f"after an abort at {pause}"

    await host.send_image(images[0], job.patch)
    await host.start(1)
    await host.write("CTRL", start=1)
    await expect_error(host, ErrorCode.BUSY)
    await host.start(1, job.first_image)  # the image still waits: the run was stopped before it was taken
    assert (await host.result() == want[0]).all(), "after a start while busy"
    await host.finish()

    await host.load(LoadTarget.PROGRAM, [0xF], 64)  # a kind that does not exist
    await host.start(1)
    await expect_error(host, ErrorCode.BAD_DESCRIPTOR)
    await host.load(LoadTarget.PROGRAM, [int(line, 16) for line in _program(job)[:1]], 64)
    assert (await host.classify(images[:1], job.patch, job.first_image) == want).all(), "after a bad program"


def _program(job: Job) -> list[str]:
    return next(Path(file).read_text().split() for target, _, file in job.memories if target == LoadTarget.PROGRAM)
