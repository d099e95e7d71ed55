"""Files generated from the register description and committed: C header, Python map, document. A test holds them to it."""
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hwgen import packed
from hwgen.files import write_if_changed
from hwgen.registers import (
    ACCESS,
    ALL_REGISTERS,
    ERROR_DOC,
    MAGIC,
    REGISTERS,
    TARGET_DOC,
    VERSION,
    WINDOW_ADDRESS_BITS,
    WINDOW_MAGIC,
    WINDOW_REGISTERS,
    ErrorCode,
    LoadTarget,
    address_map,
)

ROOT = Path(__file__).resolve().parent.parent
FILES = {"mst_regs.h.j2": "firmware/mst_regs.h", "mst_regs.py.j2": "firmware/mst_regs.py", "registers.md.j2": "docs/registers.md"}
"""Template in hwgen/templates -> file, from the repository's root on."""


def render() -> dict[str, str]:
    """File -> text. RegisterError when the description is not well formed."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    address_map(ALL_REGISTERS)
    values = {
        "registers": REGISTERS, "window_registers": WINDOW_REGISTERS, "all_registers": ALL_REGISTERS, "magic": MAGIC,
        "window_magic": WINDOW_MAGIC, "version": VERSION, "size": 1 << WINDOW_ADDRESS_BITS, "access": ACCESS,
        "targets": list(LoadTarget), "target_doc": TARGET_DOC, "errors": list(ErrorCode), "error_doc": ERROR_DOC,
        "packed": packed,
    }
    return {file: environment.get_template(template).render(values) for template, file in FILES.items()}


def write(root: Path = ROOT) -> list[Path]:
    """Write what changed below `root`; the files written."""
    return [root / file for file, text in render().items() if write_if_changed(root / file, text)]


def stale(root: Path = ROOT) -> list[Path]:
    """Files below `root` that are missing or differ from the description."""
    return [root / file for file, text in render().items()
            if not (root / file).is_file() or (root / file).read_text(encoding="utf-8") != text]
