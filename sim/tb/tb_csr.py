"""Bench of the registers, over AXI4-Lite, on `sim.tb.host_dut`.

Environment: HOST_DUT names the configuration; CSR_WRONG=1 makes the model ignore byte strobes, CSR_MUTE=1 expects a
start that never comes and CSR_STEPS=1 one with a time step too many: each must turn the bench red.
"""
import os
import random
from typing import Any

import cocotb
from cocotb.triggers import Combine, RisingEdge, with_timeout

from hwgen.registers import REGISTERS, STEPS_BITS, ErrorCode, constants
from sim.streams import cycles
from sim.tb.host_bench import MAP, OKAY, SLVERR, Rules, begin, begin_raw, pulse
from sim.tb.host_dut import BUILD_ID, CONFIGS, TO_MACHINE

WRITABLE = [register for register in REGISTERS if register.writable]


def reset_words() -> dict[str, int]:
    """Every register's word after reset."""
    constant = constants(CONFIGS[os.environ["HOST_DUT"]], BUILD_ID)
    return {name: sum(field.put(constant.get((name, field.name), field.reset)) for field in register.fields)
            for name, register in MAP.items()}


@cocotb.test()
async def first_values(dut: Any) -> None:
    """Every register reads its constant or reset value; unknown addresses answer SLVERR and 0."""
    csrs = await begin(dut)
    for name, word in reset_words().items():
        assert await csrs.read(name) == word, f"{name} is not {word:#x}"
    known = {register.offset for register in REGISTERS}
    for offset in range(0, 256, 4):
        if offset not in known:
            answer = await csrs.lite.read(offset, 4)
            assert (answer.resp, answer.data) == (SLVERR, bytes(4)), f"{offset:#x}: {answer}"


@cocotb.test()
@cocotb.parametrize(idle=[0, 3], stall=[0, 3])
async def random_accesses(dut: Any, idle: int, stall: int) -> None:
    """Random writes (whole, partial, read-only, unknown) against a model of bytes, then everything is read back."""
    csrs = await begin(dut, idle, stall)
    generator = random.Random(f"accesses {idle} {stall}")
    model = reset_words()
    offsets = {register.offset: register for register in REGISTERS}
    starts = 0

    async def one_write() -> None:
        nonlocal starts
        offset = generator.choice([*(register.offset for register in WRITABLE), generator.randrange(0, 256, 4)])
        byte = generator.randrange(4)
        data = generator.randbytes(generator.randint(1, 4 - byte) if generator.random() < 0.5 else 4 - byte)
        register = offsets.get(offset)
        want = OKAY if register is not None and register.writable else SLVERR
        assert await csrs.put(offset + byte, data) == want, f"write to {offset:#x}"
        if register is None or not register.writable:
            return
        strobe = 0xFFFFFFFF if os.environ.get("CSR_WRONG") == "1" else ((1 << 8 * len(data)) - 1) << 8 * byte
        word = int.from_bytes(data, "little") << 8 * byte
        for field in register.fields:
            if field.access in ("rw", "rwh"):
                kept = model[register.name] & ~(strobe & field.mask)
                model[register.name] = kept | (word & strobe & field.mask)
        if register.name == "CTRL" and byte == 0 and data[0] & 3 == 1:
            starts += 1

    async def some_reads() -> None:
        for _ in range(generator.randint(0, 3)):
            name = generator.choice([name for name in MAP if name.startswith("CAP_")])
            assert await csrs.read(name) == model[name]

    for _ in range(60):
        await Combine(cocotb.start_soon(one_write()), cocotb.start_soon(some_reads()))
    for name, word in model.items():
        assert await csrs.read(name) == word, f"{name} is not {word:#x}"
    for name in TO_MACHINE:
        register, field = {"mask_enable": ("MASK_CTRL", "enable"), "mask_override": ("MASK_CTRL", "override"),
                           "mask_ratio": ("MASK_CTRL", "ratio"), "load_target": ("LOAD_TARGET", "target"),
                           "failed": ("ERROR", "code")}.get(name, (name.upper(), "value"))
        assert int(getattr(dut, name).value) == MAP[register].field(field).get(model[register]), name
    await cycles(dut.clk, 3)
    starts += os.environ.get("CSR_MUTE") == "1"
    assert csrs.rules.pulses["start"] == starts, f"{csrs.rules.pulses['start']} starts, expected {starts}"


@cocotb.test()
@cocotb.parametrize(lead=[-6, -1, 0, 1, 6], hold=[0, 9])
async def pipelined_writes(dut: Any, lead: int, hold: int) -> None:
    """Writes one behind the other, data `lead` cycles ahead of addresses, answers refused for `hold` cycles: one each."""
    await begin_raw(dut)
    rules = Rules(dut)
    writes = [(MAP["IMAGES"].offset, 11, OKAY), (0xFC, 1, SLVERR), (MAP["PROGRAM_START"].offset, 22, OKAY),
              (MAP["ID"].offset, 2, SLVERR), (MAP["IMAGES"].offset, 33, OKAY)]
    answers: list[int] = []

    async def offer(channel: str, payloads: list[dict[str, int]], wait: int) -> None:
        await cycles(dut.clk, wait + 1)
        valid, ready = getattr(dut, f"s_axil_{channel}valid"), getattr(dut, f"s_axil_{channel}ready")
        for payload in payloads:
            for name, value in payload.items():
                getattr(dut, f"s_axil_{name}").value = value
            valid.value = 1
            await RisingEdge(dut.clk)
            while not int(ready.value):
                await RisingEdge(dut.clk)
        valid.value = 0

    async def take() -> None:
        while len(answers) < len(writes):
            dut.s_axil_bready.value = 0
            await cycles(dut.clk, hold)
            dut.s_axil_bready.value = 1
            await RisingEdge(dut.clk)
            while not int(dut.s_axil_bvalid.value):
                await RisingEdge(dut.clk)
            answers.append(int(dut.s_axil_bresp.value))

    tasks = [cocotb.start_soon(offer("aw", [{"awaddr": offset} for offset, _, _ in writes], max(lead, 0))),
             cocotb.start_soon(offer("w", [{"wdata": value, "wstrb": 15} for _, value, _ in writes], max(-lead, 0))),
             cocotb.start_soon(take())]
    await with_timeout(Combine(*tasks), 5000, "ns")
    assert answers == [want for _, _, want in writes]
    await cycles(dut.clk, 5)
    assert not int(dut.s_axil_bvalid.value), "an answer too many"
    assert (int(dut.images.value), int(dut.program_start.value)) == (33, 22)
    assert rules.pulses["start"] == 0


@cocotb.test()
async def errors_and_interrupts(dut: Any) -> None:
    """The first error is kept until cleared; causes are kept until cleared; irq follows enable and cause."""
    csrs = await begin(dut)
    await pulse(dut, "raise_error", ErrorCode.STREAM_SHORT)
    await pulse(dut, "raise_error", ErrorCode.STREAM_LONG)
    assert await csrs.read("ERROR") == ErrorCode.STREAM_SHORT
    assert await csrs.read("IRQ_STATUS") == 0b010 and await csrs.read("STATUS") == 0b0100
    assert int(dut.irq.value) == 0 and int(dut.failed.value) == 1
    await csrs.write("IRQ_ENABLE", 0b010)
    await cycles(dut.clk, 2)
    assert int(dut.irq.value) == 1
    await csrs.write("IRQ_STATUS", 0b101)  # other causes: this one stays
    assert await csrs.read("IRQ_STATUS") == 0b010
    await csrs.write("IRQ_STATUS", 0b010)
    await csrs.write("ERROR", 0x80)  # any bit of the field clears it
    assert await csrs.read("ERROR") == 0 and await csrs.read("STATUS") == 0 and int(dut.irq.value) == 0
    await pulse(dut, "done")
    assert await csrs.read("IRQ_STATUS") == 0b001 and await csrs.read("STATUS") == 0b0010 and int(dut.irq.value) == 0
    await csrs.write("IRQ_ENABLE", 0b001)
    await cycles(dut.clk, 2)
    assert int(dut.irq.value) == 1
    await csrs.write("CTRL", 1)
    assert await csrs.read("STATUS") == 0 and csrs.rules.pulses["start"] == 1


@cocotb.test()
async def start_while_busy(dut: Any) -> None:
    """A start during a run is refused with BUSY; an abort passes."""
    csrs = await begin(dut)
    dut.machine_busy.value = 1
    await csrs.write("CTRL", 1)
    assert await csrs.read("ERROR") == ErrorCode.BUSY and csrs.rules.pulses["start"] == 0
    assert await csrs.read("STATUS") == 0b0101
    await csrs.write("CTRL", 3)
    await cycles(dut.clk, 3)
    assert csrs.rules.pulses == {"start": 0, "abort_run": 1}


@cocotb.test()
async def counters(dut: Any) -> None:
    """64-bit counters read as one value although they run on; the image index counts up from what the host wrote."""
    csrs = await begin(dut)
    dut.cycles.value, dut.events.value, dut.layer.value = 0x1_FFFFFFFF, 0xABCDEF01_23456789, 77
    await cycles(dut.clk, 1)
    assert await csrs.read("CYCLES_LO") == 0xFFFFFFFF
    dut.cycles.value = 0x2_00000000
    assert await csrs.read("CYCLES_HI") == 1, "the high word must be the one of the low word's time"
    assert await csrs.read("CYCLES_LO") == 0 and await csrs.read("CYCLES_HI") == 2
    assert await csrs.read("EVENTS_LO") == 0x23456789 and await csrs.read("EVENTS_HI") == 0xABCDEF01
    assert await csrs.read("LAYER") == 77
    dut.stalls.value = 0x5_00000006
    await cycles(dut.clk, 1)
    assert await csrs.read("STALLS_LO") == 6 and await csrs.read("STALLS_HI") == 5
    await csrs.write("MEMORY_BASE", 0x12345)
    assert int(dut.memory_base.value) == 0x12345 == await csrs.read("MEMORY_BASE")
    await csrs.write("IMAGE_INDEX", 0xFFFFFFFE)
    for _ in range(3):
        await pulse(dut, "image_done")
    assert await csrs.read("IMAGE_INDEX") == 1


@cocotb.test()
async def time_steps(dut: Any) -> None:
    """STEPS resets to CAP_FIRING.steps; a start with 0 or more of them is refused with BAD_STEPS; an exact machine ignores it."""
    csrs = await begin(dut)
    m = CONFIGS[os.environ["HOST_DUT"]]
    most = m.steps if m.stepwise else 0
    cap = MAP["CAP_FIRING"].field("steps").get(await csrs.read("CAP_FIRING"))
    assert [cap, await csrs.read("STEPS"), int(dut.steps.value)] == [most] * 3
    starts, above = 0, os.environ.get("CSR_STEPS") == "1"
    for steps in (most, 0, 1, most + 1, 2 * most + 1, (1 << STEPS_BITS) - 1, most):
        await pulse(dut, "done")
        await csrs.write("STEPS", steps)
        assert await csrs.read("STEPS") == steps == int(dut.steps.value)
        await csrs.write("CTRL", 1)
        await cycles(dut.clk, 3)
        good = not m.stepwise or 1 <= steps <= most + above
        starts += good
        assert csrs.rules.pulses["start"] == starts, f"{csrs.rules.pulses['start']} starts, expected {starts}: STEPS is {steps}"
        found = await csrs.read("ERROR"), await csrs.read("STATUS"), await csrs.read("IRQ_STATUS")
        # a refused start leaves STATUS.done as it was
        assert found == ((0, 0, 0b001) if good else (ErrorCode.BAD_STEPS, 0b0110, 0b011)), f"STEPS is {steps}: {found}"
        await csrs.write("ERROR", 0xFF)
        await csrs.write("IRQ_STATUS", 0b111)
    dut.machine_busy.value = 1
    await csrs.write("STEPS", 0)
    await csrs.write("CTRL", 1)
    assert await csrs.read("ERROR") == ErrorCode.BUSY, "during a run a start is refused for that, whatever STEPS is"
