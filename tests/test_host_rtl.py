"""The host side's blocks (registers, loader, result stream, memories), their benches, and that these can fail."""
import re
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from hwgen.config import MachineConfig
from hwgen.loader import Loader, beats_per_word, image_cycles
from hwgen.memory import RowMemory, Scratchpad, address_bits
from hwgen.registers import LoadTarget
from sim.host import image_beats, image_packet, patches, word_packet
from sim.runner import Results, SimulatorMissing, find_simulator, run_bench
from sim.tb.host_dut import CONFIGS, verilog_of

# components whose constructor refused them are never elaborated

BUILDS = Path(__file__).resolve().parent.parent / "rtl" / "build" / "benches" / "test_host_rtl"


def bench(block: str, name: str, simulator: str, run: str = "", testcase: str | list[str] | None = None,
          **env: str) -> Results:
    """Run a block's bench on configuration `name`; all blocks share one build."""
    folder = BUILDS / name
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "dut.v"
    text = verilog_of(name)
    if not source.is_file() or source.read_text() != text:
        source.write_text(text)
    return run_bench(name=run or block, toplevel="dut", sources=[source], test_module=f"sim.tb.tb_{block}",
                     build_dir=folder, simulator=simulator, env={"HOST_DUT": name, **env}, testcase=testcase)


@pytest.mark.parametrize(("block", "name", "simulator"), [
    ("csr", "wide", "verilator"), ("csr", "narrow", "icarus"),
    ("loader", "wide", "verilator"), ("loader", "narrow", "icarus"), ("loader", "single", "icarus"),
    ("result", "wide", "verilator"), ("result", "narrow", "icarus"), ("result", "single", "icarus"),
])
def test_block(block: str, name: str, simulator: str) -> None:
    try:
        find_simulator(simulator)
    except SimulatorMissing as error:
        if simulator == "verilator":
            raise
        pytest.skip(str(error))
    results = bench(block, name, simulator)
    assert results.failed == 0 and results.passed >= 8, results.summary()


def test_csr_of_a_stepwise_machine() -> None:
    whole = ["first_values", "errors_and_interrupts", "start_while_busy", "time_steps"]  # not `random_accesses` of STEPS
    results = bench("csr", "steps", "verilator", testcase=whole)
    assert (results.passed, results.failed) == (4, 0), results.summary()
    results = bench("csr", "steps", "verilator", "csr-CSR_STEPS", "time_steps", CSR_STEPS="1")
    assert (results.passed, results.failed) == (0, 1), results.summary()
    assert results.tests[0].message and "starts, expected" in results.tests[0].message


@pytest.mark.parametrize(("block", "testcase", "variable", "message"), [
    ("csr", "random_accesses/idle=3/stall=0", "CSR_WRONG", "is not 0x"),
    ("csr", "random_accesses/idle=0/stall=3", "CSR_MUTE", "starts, expected"),
    ("loader", "whole_images/idle=3", "LOADER_WRONG", r"item 1 of \d+ \(memory 0\) differs"),
    ("loader", "whole_images/idle=0", "LOADER_LATE", "20 cycles, predicted 21"),
    ("loader", "images_in_parts/idle=0", "LOADER_WHOLE", "did not come"),
    ("loader", "loads/idle=0", "LOADER_LOAD", r"\(memory 1\) differs"),
    ("loader", "discarded_packets", "LOADER_KEPT", "3 packets dropped"),
    ("result", "matrix/idle=0/stall=0", "RESULT_WRONG", r"\(packet 3\) differs"),
    ("result", "matrix/idle=3/stall=0", "RESULT_EXTRA", "1 of 18 missing"),
])
def test_bench_can_fail(block: str, testcase: str, variable: str, message: str) -> None:
    results = bench(block, "wide", "verilator", f"{block}-{variable}", testcase, **{variable: "1"})
    assert (results.passed, results.failed) == (0, 1), results.summary()
    assert results.tests[0].message and re.search(message, results.tests[0].message)


def test_image_cycles() -> None:
    wide = CONFIGS["wide"]  # 4 beats and 3 writes a word
    assert image_cycles(wide, 1, 32) == 2 + 4 + 1 + 3 + 1
    assert image_cycles(wide, 2, 32) == image_cycles(wide, 1, 32) + 4
    assert image_cycles(wide, 2, 8) == 2 + 1 + 1 + 3 + 3 + 1, "3 writes hide the one beat"
    assert image_cycles(CONFIGS["narrow"], 1, 9) == 2 + 2 + 1 + 8 + 8 + 1


def test_loader_arguments() -> None:
    narrow = MachineConfig(lanes=8, fire_lanes=8, bus_bytes=8)
    for target in (LoadTarget.NONE, LoadTarget.DISCARD):
        with pytest.raises(ValueError, match=f"{target.name} is no memory"):
            Loader(narrow, {target: (8, 8)})
    assert [beats_per_word(8, width) for width in (1, 64, 65)] == [1, 1, 2]


@pytest.mark.parametrize(("arguments", "message"), [
    (dict(width=0, depth=4), "at least 1 bit, not 0"),
    (dict(width=4, depth=0), "at least 1 word, not 0"),
    (dict(width=4, depth=1, init=[1, 2]), "2 initial words do not fit a memory of 1 words"),
    (dict(width=4, depth=4, init=[1, 16]), r"initial word 1 \(0x10\) does not fit 4 bits"),
])
def test_memory_arguments(arguments: dict[str, object], message: str) -> None:
    for kind in (RowMemory, Scratchpad):
        with pytest.raises(ValueError, match=message):
            kind(**arguments)  # type: ignore[arg-type]


def test_memory_ports() -> None:
    with pytest.raises(ValueError, match="at least 1 read port, not 0"):
        RowMemory(width=4, depth=4, ports=0)
    assert [address_bits(depth) for depth in (1, 2, 3, 4, 5)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("loadable", [True, False])
def test_row_memory(loadable: bool) -> None:
    """Two reads a cycle with a latency of one, held while `en` is low; without the write port, writes do nothing."""
    memory = RowMemory(width=8, depth=5, loadable=loadable, init=[10, 11, 12])
    top = Module()
    top.submodules.memory = memory
    simulator = Simulator(top)
    simulator.add_clock(1e-6)

    async def process(ctx: object) -> None:
        def put(**values: int) -> None:
            for name, value in values.items():
                port, _, member = name.partition("_")
                target = memory.write if port == "write" else memory.read[int(port[1:])]
                ctx.set(getattr(target, member), value)  # type: ignore[attr-defined]

        def got() -> list[int]:
            return [ctx.get(port.data) for port in memory.read]  # type: ignore[attr-defined]

        async def tick() -> None:
            await ctx.tick()  # type: ignore[attr-defined]

        put(r0_address=2, r0_en=1, r1_address=1, r1_en=1, write_address=4, write_data=99, write_en=1)
        await tick()
        assert got() == [12, 11]
        put(r0_address=4, r1_address=0, r1_en=0, write_en=0)
        await tick()
        assert got() == [99 if loadable else 0, 11], "port 1 must hold"

    simulator.add_testbench(process)
    simulator.run()


def test_patches_and_packets() -> None:
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    cut = patches(image, 2)
    assert cut.shape == (4, 12)
    assert cut[1].tolist() == [int(image[dy, 2 + dx, c]) for dy in range(2) for dx in range(2) for c in range(3)]
    assert cut[2, 0] == image[2, 0, 0]
    packet = image_packet(image, 2, 8)
    assert len(packet) == 4 * 16 and packet[:12] == bytes(cut[0]) and packet[12:16] == bytes(4)
    assert image_beats(image, 2, 8)[0] == int.from_bytes(packet[:8], "little")
    assert word_packet([0x123456789, 1], 36, 4) == bytes.fromhex("8967452301000000" "0100000000000000")


@pytest.mark.parametrize(("image", "patch", "message"), [
    (np.zeros((4, 4), np.uint8), 2, r"must be uint8 \[H, W, C\], not uint8 \[4, 4\]"),
    (np.zeros((4, 4, 3), np.int32), 2, r"must be uint8 \[H, W, C\], not int32 \[4, 4, 3\]"),
    (np.zeros((4, 6, 3), np.uint8), 4, "4x6 cannot be cut into patches of 4x4"),
])
def test_bad_image(image: np.ndarray, patch: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        patches(image, patch)


def test_bad_word() -> None:
    with pytest.raises(ValueError, match=r"word 1 \(0x10\) does not fit 4 bits"):
        word_packet([3, 16], 4, 8)
