"""The host driver over memory-mapped registers (UIO, /dev/mem): the stream window's accesses, on a file in their place."""
import mmap
import struct
from pathlib import Path

import pytest

from firmware.host.driver import HostError
from firmware.host.ports import open_port
from firmware.host.session import run
from firmware.host.window import SPAN, MappedRegisters, WindowBus
from hwgen.registers import WINDOW_MAGIC, WINDOW_REGISTERS, address_map

MAP = address_map(WINDOW_REGISTERS)


def put(file: Path, name: str, word: int) -> None:
    """A register's word in the file."""
    data = bytearray(file.read_bytes())
    struct.pack_into("<I", data, MAP[name].offset, word)
    file.write_bytes(data)


def word(file: Path, name: str, index: int = 0) -> int:
    """A register's word from the file."""
    return int(struct.unpack_from("<I", file.read_bytes(), MAP[name].offset + 4 * index)[0])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Registers that say: a stream window, room for 64 beats, a result of two logits."""
    path = tmp_path / "uio0"
    path.write_bytes(bytes(SPAN))
    put(path, "WINDOW_ID", WINDOW_MAGIC)
    put(path, "WINDOW_CAP", MAP["WINDOW_CAP"].field("beats").put(64) | MAP["WINDOW_CAP"].field("logits").put(10))
    put(path, "WINDOW_STATUS", MAP["WINDOW_STATUS"].field("free").put(64))
    return path


def test_packets_go_through_the_send_registers(file: Path) -> None:
    registers = MappedRegisters(file)
    bus = WindowBus(registers, patience=3)
    run(bus.send(struct.pack("<3I", 5, 6, 0xDEADBEEF)))
    assert (word(file, "SEND"), word(file, "SEND_LAST")) == (6, 0xDEADBEEF)
    for wrong in (b"", b"123"):
        with pytest.raises(HostError, match="whole words of 4 bytes"):
            run(bus.send(wrong))
    full = WindowBus(registers, patience=3)
    put(file, "WINDOW_STATUS", 0)
    with pytest.raises(HostError, match="took no input for 3 pauses"):
        run(full.send(bytes(4)))
    put(file, "WINDOW_ID", 1)
    with pytest.raises(HostError, match="no stream window"):
        run(WindowBus(registers).send(bytes(4)))
    registers.close()
    registers.close()


def test_results_come_from_the_logits_window(file: Path) -> None:
    registers = MappedRegisters(file)
    bus = WindowBus(registers)
    assert run(bus.receive()) is None
    put(file, "RESULT", MAP["RESULT"].field("valid").put(1) | MAP["RESULT"].field("count").put(2))
    data = bytearray(file.read_bytes())
    struct.pack_into("<2I", data, MAP["LOGITS"].offset, 7, 0xFFFFFFFE)
    file.write_bytes(data)
    assert run(bus.receive()) == [7, 0xFFFFFFFE]
    assert word(file, "RESULT") == MAP["RESULT"].field("valid").put(1)  # taken
    put(file, "RESULT", MAP["RESULT"].field("valid").put(1) | MAP["RESULT"].field("count").put(11))
    with pytest.raises(HostError, match="11 logits, the stream window holds 10"):
        run(bus.receive())
    registers.close()


def test_ports_that_cannot_be_opened_are_one_line(tmp_path: Path, file: Path) -> None:
    bus, close = open_port(f"uio:{file}")
    assert isinstance(bus, WindowBus) and run(bus.read32(MAP["WINDOW_ID"].offset)) == WINDOW_MAGIC
    close()
    for port, wanted in ((f"uio:{tmp_path / 'none'}", "No such file"), ("mem:here", "'here' is no address"),
                         (f"sim:{tmp_path / 'none'}", "build it with python -m sim.uart")):
        with pytest.raises(HostError, match=wanted) as caught:
            open_port(port)
        assert "\n" not in str(caught.value)
    with pytest.raises(HostError, match="not a multiple of"):
        MappedRegisters(file, mmap.ALLOCATIONGRANULARITY // 2)
