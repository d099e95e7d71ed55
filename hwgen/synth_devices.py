"""The FPGAs that `hwgen synth` knows: how Yosys maps to each, what its cells occupy, how it is placed and routed."""
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """An FPGA. Counts are numbers of Yosys cells weighted by what they occupy; `route` is empty where there is no open router."""

    name: str
    part: str
    script: str
    """Yosys command; `{top}` and `{json}` are filled in"""
    luts: Mapping[str, float]
    """cell -> LUTs that it occupies"""
    registers: tuple[str, ...]
    """prefixes of register cells"""
    memories: Mapping[str, float]
    """cell -> block RAMs"""
    multipliers: tuple[str, ...]
    """prefixes of multiplier cells: none may occur"""
    capacity: Mapping[str, int]
    """LUTs, registers and block RAMs of the part"""
    block_ram: str
    """what one block RAM is"""
    router: str = ""
    """program that places and routes"""
    place: tuple[str, ...] = ()
    """its flags for placing; `{json}`, `{placed}`, `{seed}`, `{frequency}` and `{report}` are filled in"""
    route: tuple[str, ...] = ()
    """the same for routing what was placed"""

    def count(self, cells: Mapping[str, int]) -> dict[str, int]:
        """LUTs, registers, block RAMs and multipliers among `cells` (type -> number)."""
        def prefixed(prefixes: tuple[str, ...]) -> int:
            return sum(number for cell, number in cells.items() if cell.startswith(prefixes))

        return {"luts": round(sum(weight * cells.get(cell, 0) for cell, weight in self.luts.items())),
                "registers": prefixed(self.registers),
                "block_rams": round(sum(weight * cells.get(cell, 0) for cell, weight in self.memories.items()) + 1e-9),
                "multipliers": prefixed(self.multipliers)}


ECP5_FLAGS = ("--85k", "--package", "CABGA381", "--speed", "6", "--lpf-allow-unconstrained", "--timing-allow-fail", "--freq",
              "{frequency}", "--seed", "{seed}", "--report", "{report}")

# One LUT each for LUT4; a CCU2C is a slice in carry mode, a DPR16X4 four LUTs as memory (Lattice FPGA-TN-02204).
ECP5 = Device(
    "ecp5-85f", "Lattice LFE5U-85F-6BG381", "synth_ecp5 -top {top} -json {json}",
    luts={"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 4}, registers=("TRELLIS_FF",), memories={"DP16KD": 1, "PDPW16KD": 1},
    multipliers=("MULT", "ALU54"), capacity={"luts": 83640, "registers": 83640, "block_rams": 208}, block_ram="DP16KD, 18 Kbit",
    router="nextpnr-ecp5",
    place=(*ECP5_FLAGS, "--json", "{json}", "--no-route", "--write", "{placed}"),
    # nextpnr's first router: its second one loses a tenth of the clock or more.
    route=(*ECP5_FLAGS, "--json", "{placed}", "--no-pack", "--no-place"))

XILINX7 = Device(
    "xilinx-7a200t", "AMD Artix-7 XC7A200T (7-series)", "synth_xilinx -family xc7 -flatten -top {top} -json {json}",
    luts={**{f"LUT{inputs}": 1 for inputs in range(1, 7)}, "RAM32M": 4, "RAM32X1D": 2, "RAM64M": 4, "RAM64X1D": 2,
          "RAM128X1D": 4, "SRL16E": 1, "SRLC32E": 1},
    registers=("FD",), memories={"RAMB36E1": 1, "RAMB18E1": 0.5}, multipliers=("DSP48",),
    capacity={"luts": 134600, "registers": 269200, "block_rams": 365}, block_ram="RAMB36E1, 36 Kbit")

GOWIN = Device(
    "gowin-gw5a-138", "Gowin GW5A(T)-138", "synth_gowin -family gw5a -top {top} -json {json}",
    luts={**{f"LUT{inputs}": 1 for inputs in range(1, 5)}, "ALU": 1, "RAM16SDP4": 4, "RAM16SDP2": 2, "RAM16SDP1": 1,
          "RAM16S4": 4, "INV": 1},
    registers=("DFF",), memories={"SP": 1, "SPX9": 1, "SDPB": 1, "SDPX9B": 1, "DPB": 1, "DPX9B": 1, "pROM": 1, "pROMX9": 1},
    multipliers=("MULT", "PADD"), capacity={"luts": 138240, "registers": 138240, "block_rams": 340}, block_ram="18 Kbit")

GW2A = dataclasses.replace(
    GOWIN, name="gowin-gw2a-18", part="Gowin GW2A-LV18PG256C8/I7", script="synth_gowin -family gw2a -top {top} -json {json}",
    capacity={"luts": 20736, "registers": 15552, "block_rams": 46})

DEVICES = {device.name: device for device in (ECP5, XILINX7, GOWIN, GW2A)}
