"""The files generated from the register description are up to date, agree with it, and a stale one is found."""
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

from firmware.build import host_compiler
from firmware.mst_regs import ERRORS, ID_VALUE, LOAD_TARGETS, LOGITS_COUNT, VERSION_VALUE, WINDOW_ID_VALUE
from firmware.mst_regs import REGISTERS as MAP
from hwgen import __main__ as hwgen_main
from hwgen import register_files
from hwgen.registers import ALL_REGISTERS, ERROR_DOC, LOGITS_MOST, MAGIC, VERSION, WINDOW_MAGIC, ErrorCode, LoadTarget


def test_files_are_up_to_date() -> None:
    assert register_files.stale() == [], "run make regs"


def test_a_stale_file_is_found_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(register_files, "ROOT", tmp_path)
    monkeypatch.setattr(register_files.stale, "__defaults__", (tmp_path,))
    monkeypatch.setattr(register_files.write, "__defaults__", (tmp_path,))
    assert hwgen_main.main(["registers"]) == 0
    assert len(list(tmp_path.rglob("*.*"))) == 3
    assert hwgen_main.main(["registers", "--check"]) == 0
    header = tmp_path / "firmware" / "mst_regs.h"
    header.write_text(header.read_text().replace("0x044u", "0x048u"))
    capsys.readouterr()
    assert hwgen_main.main(["registers", "--check"]) == 2
    assert capsys.readouterr().err == "firmware/mst_regs.h: not as hwgen/registers.py says: run make regs\n"
    assert hwgen_main.main(["registers"]) == 0 and hwgen_main.main(["registers", "--check"]) == 0


def test_python_map() -> None:
    assert MAP == {register.name: (register.offset, {field.name: (field.low, field.width) for field in register.fields})
                   for register in ALL_REGISTERS}
    assert (ID_VALUE, WINDOW_ID_VALUE, VERSION_VALUE, LOGITS_COUNT) == (MAGIC, WINDOW_MAGIC, VERSION, LOGITS_MOST)
    assert LOAD_TARGETS == {target.name: target.value for target in LoadTarget}
    assert ERRORS == {code.value: (code.name, ERROR_DOC[code]) for code in ErrorCode}
    spec = importlib.util.find_spec("firmware.mst_regs")
    assert spec is not None and spec.origin is not None and "import" not in Path(spec.origin).read_text().split('"""')[2]


def test_c_header(tmp_path: Path) -> None:
    """The C compiler sees the numbers of the description."""
    prints, want = [], []
    for register in ALL_REGISTERS:
        prints.append(f"MST_{register.name}_OFFSET")
        want.append(register.offset)
        for field in register.fields:
            if field.width < 32:
                name = f"MST_{register.name}_{field.name.upper()}"
                prints += [f"{name}_MASK", f"{name}_SHIFT"]
                want += [field.mask, field.low]
    for target in LoadTarget:
        prints.append(f"MST_TARGET_{target.name}")
        want.append(target)
    source = tmp_path / "print.c"
    lines = "".join(f'    printf("%lu\\n", (unsigned long){name});\n' for name in prints)
    source.write_text(f'#include <stdio.h>\n#include "mst_regs.h"\nint main(void) {{\n{lines}    return 0;\n}}\n')
    program = tmp_path / "print"
    subprocess.run([host_compiler(), "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", f"-I{register_files.ROOT}/firmware",
                    str(source), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], check=True, capture_output=True, text=True)
    assert [int(line) for line in done.stdout.split()] == want


def test_every_register_of_the_issue_is_documented() -> None:
    text = (register_files.ROOT / "docs" / "registers.md").read_text()
    for register in ALL_REGISTERS:
        assert f"**{register.name}**" in text
    for code in ErrorCode:
        assert re.search(rf"\| {code.value} \| {code.name} \|", text)
