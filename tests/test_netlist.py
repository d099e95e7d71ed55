"""hwgen/netlist.py: netlists before and after its passes show the same outputs in every cycle."""
import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from hwgen.netlist import SITE_ROWS, SITES, absorb_output_registers, choose_sites, copy_drivers, improve

CYCLES = 40
Wires = dict[str, list[Any]]


def cell(kind: str, inputs: Wires, outputs: Wires, **parameters: str) -> dict[str, Any]:
    directions = dict.fromkeys(inputs, "input") | dict.fromkeys(outputs, "output")
    return {"type": kind, "parameters": parameters, "port_directions": directions, "connections": {**inputs, **outputs}}


def register(data: int, out: int, ce: int | None = None, **parameters: str) -> dict[str, Any]:
    settings = {"CLKMUX": "CLK", "CEMUX": "1 " if ce is None else "CE", "LSRMUX": "LSR", "REGSET": "RESET"} | parameters
    inputs: Wires = {"CLK": [2], "DI": [data], "LSR": ["0"]} | ({} if ce is None else {"CE": [ce]})
    return cell("TRELLIS_FF", inputs, {"Q": [out]}, **settings)


def design(seed: int = 1) -> dict[str, Any]:
    """A 2-bit counter of address registers, a block RAM with three outputs, a register behind each, LUTs, outputs."""
    rng = random.Random(seed)
    ram = cell("DP16KD", {"CLKA": [2], "OCEA": ["1"], "RSTA": ["0"], "ADA4": [10], "ADA5": [11]},
               {"DOA0": [20], "DOA1": [21], "DOA2": [22]}, DATA_WIDTH_A="10010", DATA_WIDTH_B="10010", REGMODE_A="NOREG",
               REGMODE_B="NOREG", CLKAMUX="CLKA", CLKBMUX="CLKB")
    ram["connections"] |= {"OCEB": ["1"], "RSTB": ["0"], "CLKB": [2]}
    ram["port_directions"] |= {"OCEB": "input", "RSTB": "input", "CLKB": "input"}
    cells = {"ram": ram, "a0": register(12, 10), "a1": register(13, 11)}
    for name, inputs, out in (("next0", [10, "0", "0", "0"], 12), ("next1", [10, 11, "0", "0"], 13)):
        table = "01" * 8 if name == "next0" else "0110" * 4
        cells[name] = cell("LUT4", dict(zip("ABCD", ([bit] for bit in inputs), strict=True)), {"Z": [out]}, INIT=table)
    for bit in range(3):
        cells[f"taken{bit}"] = register(20 + bit, 30 + bit)
    for number in range(12):
        inputs = [rng.choice([30, 31, 32, 10, 11]) for _ in range(4)]
        cells[f"lut{number}"] = cell("LUT4", dict(zip("ABCD", ([bit] for bit in inputs), strict=True)), {"Z": [40 + number]},
                                     INIT="".join(rng.choice("01") for _ in range(16)))
    ports = {"clk": {"direction": "input", "bits": [2]},
             "out": {"direction": "output", "bits": [*range(40, 52), 10]}}
    return {"cells": cells, "ports": ports, "netnames": {}}


def outputs(ram: dict[str, Any]) -> list[str]:
    return [port for port in ("DOA0", "DOA1", "DOA2", "DOB0") if port in ram["connections"]]


def simulate(module: dict[str, Any]) -> list[list[int]]:
    """The output port in each cycle; a DP16KD holds 5 * address + 3 in its low bits (FPGA-TN-02204: OUTREG is a cycle later)."""
    cells = module["cells"].values()
    state: dict[int, int] = {}
    late: dict[int, int] = {}
    seen = []
    for _ in range(CYCLES):
        value = dict(state)

        def read(bit: Any, value: dict[int, int] = value) -> int:
            if isinstance(bit, str):
                return int(bit)
            if bit not in value:
                lut = next(c for c in cells if c["type"] == "LUT4" and c["connections"]["Z"] == [bit])
                index = sum(read(lut["connections"][port][0]) << place for place, port in enumerate("ABCD"))
                value[bit] = int(lut["parameters"]["INIT"][15 - index])
            return value[bit]

        following: dict[int, int] = {}
        for part in cells:
            wires = part["connections"]
            if part["type"] == "TRELLIS_FF":
                first = int(part["parameters"]["REGSET"] == "SET")
                value.setdefault(wires["Q"][0], first)
            elif part["type"] == "DP16KD":
                for port in outputs(part):
                    value.setdefault(wires[port][0], 0)
        for part in cells:
            wires = part["connections"]
            if part["type"] == "TRELLIS_FF":
                loads = part["parameters"]["CEMUX"] != "CE" or read(wires["CE"][0])
                following[wires["Q"][0]] = read(wires["DI"][0]) if loads else value[wires["Q"][0]]
            elif part["type"] == "DP16KD":
                late_by_one = part["parameters"]["REGMODE_A"] == "OUTREG"
                if late_by_one and not read(wires["OCEB" if "DOB0" in wires else "OCEA"][0]):
                    following |= {wires[port][0]: value[wires[port][0]] for port in outputs(part)}
                word = 5 * (read(wires["ADA4"][0]) + 2 * read(wires["ADA5"][0])) + 3
                for place, port in enumerate(outputs(part)):
                    bit, now = wires[port][0], word >> place & 1
                    following.setdefault(bit, late.get(place, 0) if late_by_one else now)
                    late[place] = now
        seen.append([read(bit) for bit in module["ports"]["out"]["bits"]])
        state = following
    return seen


def test_registers_behind_a_block_ram_move_into_it() -> None:
    module = design()
    before = simulate(module)
    assert absorb_output_registers(module) == 3
    assert not any(name.startswith("taken") for name in module["cells"])
    assert module["cells"]["ram"]["parameters"]["REGMODE_A"] == "OUTREG"
    assert module["cells"]["ram"]["parameters"]["REGMODE_B"] == "NOREG"
    assert simulate(module) == before


def enabled(wires: list[int]) -> dict[str, Any]:
    """The registers behind the block RAM take its outputs only when their wire is 1."""
    module = design()
    for bit, wire in enumerate(wires):
        module["cells"][f"taken{bit}"] = register(20 + bit, 30 + bit, ce=wire)
    return module


def test_registers_with_one_enable_move_with_it() -> None:
    module = enabled([10, 10, 10])
    before = simulate(module)
    assert before != simulate(design()) and absorb_output_registers(module) == 3
    assert module["cells"]["ram"]["connections"]["OCEA"] == [10] and simulate(module) == before
    module["cells"]["ram"]["connections"]["OCEA"] = [11]
    assert simulate(module) != before


def test_registers_with_different_enables_stay() -> None:
    module = enabled([10, 11, 10])
    kept = copy.deepcopy(module)
    assert absorb_output_registers(module) == 0 and module == kept


def wide() -> dict[str, Any]:
    """The block RAM with words of 36 bits: port A writes, port B reads, and the outputs are those of both."""
    module = design()
    ram = module["cells"]["ram"]
    ram["parameters"] |= {"DATA_WIDTH_A": "100100", "DATA_WIDTH_B": "100100", "CLKBMUX": "CLKB"}
    for group in (ram["connections"], ram["port_directions"]):
        group["DOB0"] = group.pop("DOA2")
    return module


@pytest.mark.parametrize("enable", [None, 10])
def test_registers_behind_a_wide_port_move_into_it(enable: int | None) -> None:
    module = wide()
    for bit in range(3):
        module["cells"][f"taken{bit}"] = register(20 + bit, 30 + bit, ce=enable)
    before = simulate(module)
    assert absorb_output_registers(module) == 3 and simulate(module) == before
    ram = module["cells"]["ram"]
    assert [ram["parameters"][f"REGMODE_{side}"] for side in "AB"] == ["OUTREG", "OUTREG"]
    assert all(ram["connections"][f"OCE{side}"] == (["1"] if enable is None else [enable]) for side in "AB")


def spoilt(change: str) -> dict[str, Any]:
    module = design()
    ram, taken = module["cells"]["ram"], module["cells"]["taken1"]
    match change:
        case "enable":
            module["cells"]["taken1"] = register(21, 31, ce=10)
        case "reset":
            taken["connections"]["LSR"] = [10]
        case "set":
            taken["parameters"]["REGSET"] = "SET"
        case "clock":
            taken["connections"]["CLK"] = [3]
        case "edge":
            taken["parameters"]["CLKMUX"] = "INV"
        case "second load":
            module["cells"]["lut0"]["connections"]["A"] = [21]
        case "output":
            module["ports"]["out"]["bits"].append(21)
        case "wide port A":
            ram["parameters"]["DATA_WIDTH_A"] = "100100"
        case "wide, another enable":
            module = wide()
            module["cells"]["taken1"] = register(21, 31, ce=10)
        case "wide, another clock":
            module = wide()
            module["cells"]["ram"]["connections"]["CLKB"] = [3]
        case "output enable":
            ram["connections"]["OCEA"] = [10]
        case "output reset":
            ram["connections"]["RSTA"] = [10]
    return module


@pytest.mark.parametrize("change", ["enable", "reset", "set", "clock", "edge", "second load", "output", "wide port A",
                                    "wide, another enable", "wide, another clock", "output enable", "output reset"])
def test_any_other_register_stays(change: str) -> None:
    module = spoilt(change)
    kept = copy.deepcopy(module)
    assert absorb_output_registers(module) == 0 and module == kept


def test_absorbing_a_register_with_an_enable_would_be_seen() -> None:
    """The simulation above tells the difference that the conditions are there for."""
    module = spoilt("enable")
    before = simulate(module)
    module["cells"]["taken1"] = register(21, 31)
    assert absorb_output_registers(module) == 3 and simulate(module) != before


@pytest.mark.parametrize("most", [1, 2, 3, 5, 100])
def test_copies_share_the_loads(most: int) -> None:
    module = design()
    before = simulate(module)
    made = sum(copy_drivers(module, kind, most) for kind in ("LUT4", "TRELLIS_FF"))
    assert (made > 0) == (most < 100) and simulate(module) == before
    for driver in (c for c in module["cells"].values() if c["type"] == "TRELLIS_FF"):  # (a LUT may have more copies as loads)
        bit = driver["connections"]["Q"][0]
        readers = sum(bits.count(bit) for c in module["cells"].values() for port, bits in c["connections"].items()
                      if c["port_directions"][port] == "input")
        assert readers <= most


def test_loads_are_grouped_by_the_block_ram_that_they_read() -> None:
    """Loads by turns of two block RAMs, not in the order of their names: each copy drives those of one."""
    module = design()
    module["cells"]["enable"] = register(12, 99)
    for number, row in enumerate(("slice10", "slice2")):
        module["cells"][row] = cell("DP16KD", {}, {"DOA0": [100 + number]})
    for number in range(8):
        module["cells"][f"load{number}"] = cell("LUT4", {"A": [99], "B": [100 + number % 2]}, {"Z": [110 + number]})
    copy_drivers(module, "TRELLIS_FF", 4)
    drivers = [{tuple(module["cells"][f"load{number}"]["connections"]["A"]) for number in range(first, 8, 2)}
               for first in range(2)]
    assert all(len(bits) == 1 for bits in drivers) and drivers[0] != drivers[1]


def test_control_stays_with_the_original_and_buses_get_copies() -> None:
    """Buses of 6 and 4 bits and three loads of other names, at most 8 for a driver: no copy drives a bus and something else."""
    module = design()
    module["cells"]["enable"] = register(12, 99)
    names = [f"data_{bit}" for bit in range(6)] + ["begin", "state_1", "tail"] + [f"word_{bit}_q" for bit in range(4)]
    for number, name in enumerate(names):
        module["cells"][name] = cell("LUT4", {"A": [99]}, {"Z": [110 + number]})
    copy_drivers(module, "TRELLIS_FF", 8)
    assert [name for name in module["cells"] if "enable" in name] == ["enable", "enable_copy1", "enable_copy2"]
    driver = {name: module["cells"][name]["connections"]["A"][0] for name in names}
    assert {driver[name] for name in ("begin", "state_1", "tail")} == {99}
    assert [len({driver[name] for name in names if name.startswith(bus)} - {99}) for bus in ("data", "word")] == [1, 1]
    assert driver["data_0"] != driver["word_0_q"]


def weights(slices: int, banks: int) -> dict[str, Any]:
    names = [f"machine.weights.slice{number}_bank{bank}.memory.0.{bits}"
             for bank in range(banks) for bits in range(4) for number in range(slices)]
    return {"cells": {name: cell("DP16KD", {}, {}) for name in [*names, "machine.params.memory.0.0"]}}


def test_many_block_rams_of_weights_get_sites_in_a_line() -> None:
    module = weights(8, 4)
    assert choose_sites(module) == 128 and "attributes" not in module["cells"]["machine.params.memory.0.0"]
    sites = {name: part["attributes"]["BEL"] for name, part in module["cells"].items() if "weights" in name}
    known = {f"X{column}/Y{row}/EBR{place}" for column, place in SITES for row in SITE_ROWS}
    assert len(set(sites.values())) == 128 and set(sites.values()) <= known
    columns = [int(sites[f"machine.weights.slice3_bank{bank}.memory.0.2"][1:].split("/")[0]) for bank in range(4)]
    assert max(columns) - min(columns) == 6  # the same bits of different rows lie in one block of four


@pytest.mark.parametrize(("slices", "banks"), [(1, 1), (13, 1), (10, 4)])
def test_few_block_rams_of_weights_or_too_many_are_left_to_the_placer(slices: int, banks: int) -> None:
    module = weights(slices, banks)
    kept = copy.deepcopy(module)
    assert choose_sites(module) == 0 and module == kept


def test_a_file_is_improved_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "netlist.json"
    path.write_text(json.dumps({"modules": {"top": design()}}))
    assert improve(path, "top") == {"DP16KD": 1, "TRELLIS_FF": 2, "LUT4": 14}
    assert simulate(json.loads(path.read_text())["modules"]["top"]) == simulate(design())
