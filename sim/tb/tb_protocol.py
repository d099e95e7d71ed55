"""The machine's AXI ports under random stalls, and under a host that is never ready before it must be (sim/protocol.py watches).

Environment: MST_JOB as for tb_top; PROTOCOL_BREAK=1 lets the host itself withdraw a VALID: the bench must turn red.
"""
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, FallingEdge, ReadOnly, RisingEdge

from hwgen.registers import LoadTarget
from sim.cocotb_bus import CocotbBus
from sim.host import Host
from sim.job import Job
from sim.protocol import check_protocol
from sim.streams import start_clock
from sim.tb.host_bench import pauses

VALIDS = ("s_axil_bvalid", "s_axil_rvalid", "m_axis_tvalid")
READYS = ("s_axil_bready", "s_axil_rready", "m_axis_tready")


def until(valid: Any) -> Iterator[bool]:
    """Pause for as long as `valid` is low."""
    while True:
        yield not int(valid.value)


async def work(dut: Any, bus: CocotbBus, images: int) -> list[list[int]]:
    """Load, run and read the counters; the logits."""
    job = Job.load(Path(os.environ["MST_JOB"]))
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    host = Host(bus)
    await host.probe()
    for target, bits, file in job.memories:
        await host.load(LoadTarget(target), [int(line, 16) for line in Path(file).read_text().split()], bits)
    await host.set_mask(job.seed, job.mask_enable, job.mask_ratio)
    pixels = np.load(job.images_file, allow_pickle=False)[:images]
    logits = await host.classify(pixels, job.patch, job.first_image)
    await host.counters()
    try:
        await bus.write32(0, 1)  # read only: SLVERR
    except Exception as error:
        assert "SLVERR" in str(error), error
    return [list(map(int, row)) for row in logits]


def stalled_bus(dut: Any, seed: int) -> CocotbBus:
    """Every channel pauses at random."""
    bus = CocotbBus(dut, idle=3, stall=3, seed=seed)
    lite = bus.lite
    for name, channel in (("aw", lite.write_if.aw_channel), ("w", lite.write_if.w_channel), ("b", lite.write_if.b_channel),
                          ("ar", lite.read_if.ar_channel), ("r", lite.read_if.r_channel)):
        channel.set_pause_generator(pauses(5, f"{seed} {name}"))
    return bus


@cocotb.test()
async def random_stalls(dut: Any) -> None:
    """The same logits whatever the stalls, and no rule broken."""
    found = []
    for seed in (1, 2):
        dut.rst.value = 1
        if seed == 1:
            start_clock(dut)
        bus = stalled_bus(dut, seed)
        found.append(await work(dut, bus, 1))
        for task in (bus.source.task, bus.sink.task):
            task.cancel()
    if os.environ.get("PROTOCOL_BREAK") == "1":
        dut.s_axis_tvalid.value = 1
        await ClockCycles(dut.clk, 2)
        dut.s_axis_tvalid.value = 0
        await ClockCycles(dut.clk, 2)
    assert found[0] == found[1], "stalls changed the logits"
    check_protocol(dut)


@cocotb.test()
async def valid_waits_for_no_ready(dut: Any) -> None:
    """READY of every answer comes only once its VALID is there; within a cycle VALID does not follow READY either."""
    dut.rst.value = 1
    start_clock(dut)
    bus = CocotbBus(dut, lazy=True)
    bus.lite.write_if.b_channel.set_pause_generator(until(dut.s_axil_bvalid))
    bus.lite.read_if.r_channel.set_pause_generator(until(dut.s_axil_rvalid))
    seen = dict.fromkeys(VALIDS, 0)

    async def probe() -> None:
        while True:
            await RisingEdge(dut.clk)
            await FallingEdge(dut.clk)
            if int(dut.rst.value):
                continue
            before = [int(getattr(dut, name).value) for name in VALIDS]
            kept = [int(getattr(dut, name).value) for name in READYS]
            for value in (1, 0):
                for name in READYS:
                    getattr(dut, name).value = value
                await ReadOnly()
                after = [int(getattr(dut, name).value) for name in VALIDS]
                assert after == before, ("VALID follows READY within a cycle: "
                                         f"{dict(zip(VALIDS, zip(before, after, strict=True), strict=True))}")
                await cocotb.triggers.Timer(1, "step")
            for name, value in zip(READYS, kept, strict=True):
                getattr(dut, name).value = value
            for name, value in zip(VALIDS, before, strict=True):
                seen[name] += value

    task = cocotb.start_soon(probe())
    await work(dut, bus, 1)
    task.cancel()
    assert all(seen.values()), f"never valid: {seen}"
    check_protocol(dut)
