"""The C driver: on mock registers with every error, without a line left out, and compiled strictly for this machine and rv32."""
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from firmware import build
from firmware.__main__ import main

TESTS = build.HERE / "tests"


def mock_test(folder: Path, driver: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Compile a driver with the mock and its tests, and run them."""
    folder.mkdir(exist_ok=True)
    compiler = build.host_compiler()
    objects = []
    for source, more in ((driver, ("-Wconversion", *flags)), (TESTS / "mock.c", ()), (TESTS / "test_mst.c", ())):
        objects.append(str(folder / f"{source.stem}.o"))
        build.run([compiler, "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-g", *more, f"-I{build.HERE}", "-c",
                   str(source), "-o", objects[-1]])
    build.run([compiler, *flags, *objects, "-o", str(folder / "test")])
    return subprocess.run([str(folder / "test")], capture_output=True, text=True, check=False, cwd=folder)


def test_driver_on_mock_registers(tmp_path: Path) -> None:
    """Every check passes, every error code is seen (test_mst.c asks), and no line of the driver is left out."""
    done = mock_test(tmp_path, build.HERE / "mst.c", "--coverage")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"[5-9]\d\d checks, 0 failures\n", done.stdout)
    if shutil.which("gcov") is None:
        pytest.skip("gcov not found, line coverage not measured: apt-get install gcc")
    report = subprocess.run(["gcov", "mst.o"], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    found = re.search(r"File '[^']*mst\.c'\nLines executed:([\d.]+)% of (\d+)", report)
    assert found is not None and float(found[1]) == 100 and int(found[2]) > 300, report


@pytest.mark.parametrize(("old", "new"), [
    ("return mst_check(m); /* a run", "return MST_OK; /* a run"),
    ("crc >> 4 ^ table[crc & 15];\n        crc = crc >> 4", "crc >> 4 ^ table[crc & 15];\n        crc = crc >> 5"),
    ("if (passed > m->timeout)", "if (passed > m->timeout + 1)"),
    ("put(m, MST_SEND_LAST_OFFSET, 0); /* end", "put(m, MST_SEND_OFFSET, 0); /* end"),
    ("(row + y) * m->side + column", "(row + y) * m->side + row"),
    ("count > header[MST_PACKED_SIZE] - offset", "count > header[MST_PACKED_SIZE]"),
    ("put(m, MST_LOAD_TARGET_OFFSET, MST_TARGET_DISCARD)", "put(m, MST_LOAD_TARGET_OFFSET, MST_TARGET_NONE)"),
])
def test_a_wrong_driver_is_found(tmp_path: Path, old: str, new: str) -> None:
    text = (build.HERE / "mst.c").read_text()
    assert text.count(old) == 1
    (tmp_path / "mst.c").write_text(text.replace(old, new))
    done = mock_test(tmp_path, tmp_path / "mst.c")
    assert done.returncode != 0, f"{new}: {done.stdout}"


def test_no_library_is_needed(tmp_path: Path) -> None:
    """The driver for rv32 asks for nothing but the two functions that its user writes."""
    try:
        build.rv32_compiler()
    except build.FirmwareError as error:
        pytest.skip(str(error))
    names = build.run([f"{build.PREFIX}nm", "-u", str(build.driver(tmp_path, True))])
    assert names.split() == ["U", "mst_read32", "U", "mst_write32"]


def test_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        build.rv32_compiler()
    except build.FirmwareError as error:
        pytest.skip(str(error))
    assert main(["build", "-o", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(re.search(r": \d+ bytes of code and constants, 0 of data, \d+ of zeros", line) for line in lines)


def test_missing_compilers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name.startswith(build.PREFIX) else real(name))
    assert main(["build", "-o", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "riscv64-unknown-elf-gcc not found: apt-get install gcc-riscv64-unknown-elf\n"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main(["build", "-o", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "no C compiler (cc) on PATH: apt-get install gcc\n"
