"""Three passes over Yosys' ECP5 netlist, before it is placed. None changes what any register holds in any cycle.

*Output registers*: a DP16KD can delay its outputs by a cycle. Where each output of a port goes to nothing but a register that
takes it over, all in the same cycles, with the same clock, no reset and first value 0, that is what these registers do; so they
move into the block RAM, whose output then comes almost 5 ns earlier.
*Copies*: a register or LUT with many loads gets copies with the same inputs, each of which drives some of the loads, neighbours
by name (by that of the block RAM that a load also reads, where there is one): one wire need not reach everywhere. Loads that are
few of a name, control as a rule, stay with the original: among the bits of a bus, a copy would lie where the bus does.
*Sites*: where the weight memory takes more block RAMs than a row of them has on the chip, each gets a site: those that hold the
same bits of different rows side by side, the slices in a line through three rows. The placer, left alone, scatters them, and the
wires to them fill the channels along the rows: it then routes for hours, if at all.

`module` is a module of Yosys' JSON (`write_json`), changed in place.
"""
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

MOST_LOADS = {"LUT4": 64, "TRELLIS_FF": 16}
"""Loads that one LUT or register keeps."""
OUTPUT_BITS, WIDE_BITS = 18, 36
"""Outputs of a DP16KD's port; bits of a port that takes those of both."""
SITES = tuple((first + 2 * place, place) for first in (4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114) for place in range(4))
"""(column, place in its block of four) of the block RAMs in a row of an LFE5U-85F, as nextpnr names them."""
SITE_ROWS = (70, 46, 22)
"""Rows that the weight memory is spread over; the fourth, 82, is left to the other memories."""
WEIGHTS = re.compile(r"weights\.slice(\d+)_bank(\d+)\.memory\.\d+\.(\d+)$")

Module = dict[str, Any]
Reader = tuple[str, str, int]
"""(cell, port, bit of the port); the cell "" is the module itself."""
Loads = dict[int, list[Reader]]
"""Of each net: what reads it."""
Place = tuple[list[tuple[int, str]], list[tuple[int, str]]]


def improve(path: Path, top: str) -> dict[str, int]:
    """All passes on module `top` of the netlist file; what it consists of afterwards: cell type -> number."""
    netlist = json.loads(path.read_text(encoding="utf-8"))
    module = netlist["modules"][top]
    absorb_output_registers(module)
    for kind, most in MOST_LOADS.items():
        copy_drivers(module, kind, most)
    choose_sites(module)
    path.write_text(json.dumps(netlist), encoding="utf-8")
    return dict(Counter(cell["type"] for cell in module["cells"].values()))


def absorb_output_registers(module: Module) -> int:
    """Moves registers behind DP16KD outputs into the DP16KD; the number of registers that are gone."""
    cells, loads, gone = module["cells"], _loads(module), 0
    for ram in [cell for cell in cells.values() if cell["type"] == "DP16KD"]:
        wide = [int(ram["parameters"][f"DATA_WIDTH_{side}"], 2) == WIDE_BITS for side in "AB"]
        for side, sides in (("B", "AB"),) if all(wide) else () if any(wide) else (("A", "A"), ("B", "B")):
            registers = _registers_behind(ram, side, sides, cells, loads)
            if registers:
                ram["parameters"] |= {f"REGMODE_{each}": "OUTREG" for each in sides}
                enable = _enable(cells[next(iter(registers.values()))])
                ram["connections"] |= {f"OCE{each}": list(enable) for each in sides}
            for port, name in registers.items():
                ram["connections"][port] = cells.pop(name)["connections"]["Q"]
                gone += 1
    return gone


def _registers_behind(ram: Module, side: str, sides: str, cells: Module, loads: Loads) -> dict[str, str]:
    """Register behind each output in use of the port `side`; none where one of them cannot be in the block RAM.

    `sides`: whose outputs these are. A port of 36 bits takes both: what is written through A is read through B.
    """
    parameters, wires = ram["parameters"], ram["connections"]
    fit = (all(parameters[f"REGMODE_{each}"] == "NOREG" for each in sides) and parameters[f"CLK{side}MUX"] == f"CLK{side}"
           and wires[f"OCE{side}"] == ["1"] and wires[f"RST{side}"] == ["0"])
    found: dict[str, str] = {}
    for port in (f"DO{each}{bit}" for each in sides for bit in range(OUTPUT_BITS)):
        bits = wires.get(port, [])
        readers = loads[bits[0]] if bits else []
        if not readers:
            continue
        name, pin, _ = readers[0]
        if not fit or len(readers) > 1 or pin != "DI" or not _takes_over(cells[name], wires[f"CLK{side}"]):
            return {}
        found[port] = name
    return found if len({_enable(cells[name]) for name in found.values()}) == 1 else {}


def _takes_over(cell: Module, clock: list[Any]) -> bool:
    """Whether `cell` is a register that does nothing but take its input, perhaps when enabled, and holds 0 at first."""
    parameters, wires = cell["parameters"], cell["connections"]
    return bool(cell["type"] == "TRELLIS_FF" and wires["CLK"] == clock and parameters["CLKMUX"] == "CLK"
                and parameters["CEMUX"].strip() in ("1", "CE") and wires.get("LSR", ["0"]) == ["0"]
                and parameters["REGSET"] == "RESET")


def _enable(register: Module) -> tuple[int | str, ...]:
    """The wire that lets a register take its input: "1" for always."""
    return tuple(register["connections"]["CE"]) if register["parameters"]["CEMUX"].strip() == "CE" else ("1",)


def copy_drivers(module: Module, kind: str, most: int) -> int:
    """Copies each LUT4 or TRELLIS_FF (`kind`) that has more than `most` loads; the number of copies."""
    made, output, loads, places = 0, "Z" if kind == "LUT4" else "Q", _loads(module), _places(module)
    fresh = 1 + max((bit for bit in loads if isinstance(bit, int)), default=0)
    fresh = max([fresh, *(1 + bit for net in module["netnames"].values() for bit in net["bits"] if isinstance(bit, int))])
    for name, cell in [item for item in module["cells"].items() if item[1]["type"] == kind]:
        bit = cell["connections"][output][0]
        readers = sorted((reader for reader in loads[bit] if reader[0]), key=lambda reader: (places[reader[0]], reader[1:]))
        for copy, group in enumerate(_groups(readers, most, places)[1:], 1):  # the first group stays with the original
            wires = {port: list(bits) for port, bits in cell["connections"].items()} | {output: [fresh]}
            module["cells"][f"{name}_copy{copy}"] = cell | {"connections": wires}
            module["netnames"][f"{name}_copy{copy}_{output}"] = {"hide_name": 1, "bits": [fresh], "attributes": {}}
            for reader, port, place in group:
                module["cells"][reader]["connections"][port][place] = fresh
            fresh += 1
            made += 1
    return made


def _groups(readers: list[Reader], most: int, places: Mapping[str, Place]) -> list[list[Reader]]:
    """`readers`, in order, in groups of at most `most`: those that are few of a name, then buses, unbroken where they fit."""
    if len(readers) <= most:
        return [readers]
    runs = [list(run) for _, run in groupby(readers, lambda reader: (_stem(places[reader[0]]), reader[1]))]
    few = [reader for run in runs if len(run) < most // 4 for reader in run]
    groups, bus = _split(few, most), list[Reader]()
    for run in [run for run in runs if len(run) >= most // 4]:
        if len(bus) + len(run) > most:
            groups, bus = groups + _split(bus, most), []
        bus = bus + run
    return groups + _split(bus, most)


def _split(readers: list[Reader], most: int) -> list[list[Reader]]:
    parts = -(-len(readers) // most)
    return [readers[part * len(readers) // parts:(part + 1) * len(readers) // parts] for part in range(parts)]


def choose_sites(module: Module) -> int:
    """Gives the block RAMs of the weight memory their sites (attribute BEL), if they are many; their number, or 0.

    0 also where they are more than SITE_ROWS have: then the placer may use the whole chip.
    """
    found = []
    for name, cell in module["cells"].items():
        if cell["type"] == "DP16KD" and (match := WEIGHTS.search(name)):
            piece, bank, bits = map(int, match.groups())
            found.append((piece, bits, bank, name))
    each = -(-len(found) // (4 * len(SITE_ROWS))) * 4  # of a row, in blocks of four
    if not len(SITES) < len(found) <= len(SITE_ROWS) * len(SITES):
        return 0
    start = (len(SITES) - each) // 8 * 4
    sites = [(column, row, place) for number, row in enumerate(SITE_ROWS)
             for column, place in SITES[start:start + each][::-1 if number % 2 else 1]]
    for (*_, name), (column, row, place) in zip(sorted(found), sites, strict=False):
        module["cells"][name].setdefault("attributes", {})["BEL"] = f"X{column}/Y{row}/EBR{place}"
    return len(found)


def _places(module: Module) -> dict[str, Place]:
    """A key for each cell that brings together what should lie together: name of a block RAM that it reads, its own name."""
    rams = {bits[0]: name for name, cell in module["cells"].items() if cell["type"] == "DP16KD"
            for port, bits in cell["connections"].items() if bits and cell["port_directions"][port] == "output"}
    found = {}
    for name, cell in module["cells"].items():
        read = [rams[bit] for port, bits in cell["connections"].items() if cell["port_directions"][port] == "input"
                for bit in bits if bit in rams]
        found[name] = (_natural(min(read, default=name)), _natural(name))
    return found


def _loads(module: Module) -> Loads:
    loads: Loads = defaultdict(list)
    for name, cell in module["cells"].items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "input":
                for place, bit in enumerate(bits):
                    loads[bit].append((name, port, place))
    for name, port in module["ports"].items():
        if port["direction"] != "input":
            for place, bit in enumerate(port["bits"]):
                loads[bit].append(("", name, place))
    return loads


def _stem(place: Place) -> tuple[str, ...]:
    """A place without its numbers: the same for all bits of a bus."""
    return tuple(text for part in place for number, text in part if number < 0)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts lane 2 before lane 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
