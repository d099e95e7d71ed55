"""Bench of docs/integration.md's LiteX snippet: the machine's and the window's identity, read through LiteX's interconnect."""
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiLiteBus, AxiLiteMaster

from hwgen.registers import ALL_REGISTERS, MAGIC, VERSION, WINDOW_MAGIC, address_map
from sim.streams import start_clock

ORIGIN = 0x4000_0000


@cocotb.test()
async def identities(dut: Any) -> None:
    """ID, VERSION and WINDOW_ID; a register that was written reads back."""
    dut.rst.value = 1
    start_clock(dut)
    lite = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    registers = address_map(ALL_REGISTERS)

    async def read(name: str) -> int:
        return int.from_bytes((await lite.read(ORIGIN + registers[name].offset, 4)).data, "little")

    assert [await read(name) for name in ("ID", "VERSION", "WINDOW_ID")] == [MAGIC, VERSION, WINDOW_MAGIC]
    await lite.write(ORIGIN + registers["MASK_SEED"].offset, (0xC0FFEE42).to_bytes(4, "little"))
    assert await read("MASK_SEED") == 0xC0FFEE42
