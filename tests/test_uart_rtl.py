"""The host driver against the machine's RTL behind its UART bridge, over a wire in simulation: answers, and every fault on it."""
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from firmware.host.cli import main
from firmware.host.driver import HostError, MachineError
from firmware.host.frames import Decoder, encode
from firmware.host.link import Link, LinkBus, LinkError
from firmware.host.session import Session, load_file, run
from firmware.host.simulated import SimulatedWire
from hwgen.config import MachineConfig
from hwgen.emit import emit
from hwgen.packed import pack
from hwgen.wire import ANSWER, END, Operation, Status
from model.config import MaskingConfig, ModelConfig
from model.masking import SpikeMask
from quantize.random_network import random_images, random_network
from sim.golden.network import run as golden
from sim.uart import build

MODEL = ModelConfig(image_size=8, in_channels=1, classes=3, patch=2, embedding=8, depths=(1,), heads=(1,), window=2,
                    mlp_ratio=1.0, levels=3)
MACHINE = MachineConfig(lanes=8, fire_lanes=4, planes=2, head_lanes=8, window_tokens=4, attention_rows=1)
MASKING = MaskingConfig(sites=("q", "k", "fc1"), ratio=0.25)
IMAGES = random_images(MODEL, 9, 3)
TIMEOUT = 0.05
"""Seconds of simulated time: 500,000 cycles."""


class Board:
    """A compiled board and the packed network that it runs."""

    def __init__(self, folder: Path) -> None:
        made = emit(random_network(MODEL, 4), MACHINE, MASKING, folder)
        self.program, self.packed, self.network = build(made), folder / "network.bin", made.program.network
        self.packed.write_bytes(pack(made.program, made.machine, MASKING, made.id32))
        self.logits = golden(self.network, IMAGES, mask=SpikeMask.of(MASKING)).logits


@pytest.fixture(scope="module")
def board() -> Board:
    """Built once."""
    return Board(Path("rtl/build/benches/test_uart_rtl").resolve())


class Faulty:
    """A wire that spoils bytes: `out` and `back` change what is written and what is read; None leaves it."""

    def __init__(self, wire: SimulatedWire, out: Callable[[bytes], bytes] | None = None,
                 back: Callable[[bytes], bytes] | None = None) -> None:
        self.wire, self.name, self.out, self.back = wire, wire.name, out, back

    def write(self, data: bytes) -> None:
        self.wire.write(data if self.out is None else self.out(data))

    def read(self, seconds: float) -> bytes:
        data = self.wire.read(seconds)
        return data if self.back is None or not data else self.back(data)

    def now(self) -> float:
        return self.wire.now()

    def close(self) -> None:
        self.wire.close()


class Once:
    """Applies a change to one message: the one with number `at`, counted from 0."""

    def __init__(self, at: int, change: Callable[[bytes], bytes]) -> None:
        self.at, self.change, self.seen = at, change, 0

    def __call__(self, data: bytes) -> bytes:
        self.seen += 1
        return self.change(data) if self.seen == self.at + 1 else data


def session_over(board: Board, **faults: Callable[[bytes], bytes]) -> tuple[Session, Link]:
    """A session whose wire has these faults, with the network loaded."""
    wire = Faulty(SimulatedWire(board.program))
    link = Link(wire, TIMEOUT)
    link.hello()
    session = Session(LinkBus(link), wire.close)
    session.load(load_file(board.packed))
    for name, fault in faults.items():
        setattr(wire, name, fault)
    return session, link


def test_classes_and_logits_are_the_goldens(board: Board) -> None:
    with Session.open(f"sim:{board.program}", timeout=TIMEOUT) as session:
        session.load(load_file(board.packed))
        first = [session.classify(image, index) for index, image in enumerate(IMAGES)]
        again = session.classify(IMAGES[0], 0)
        assert [answer.logits.tolist() for answer in first] == board.logits.tolist()
        assert [answer.class_index for answer in first] == np.argmax(board.logits, axis=1).tolist()
        assert again.logits.tolist() == first[0].logits.tolist() and again.counters.cycles > 0
        other = session.classify(IMAGES[0], 1).logits  # another image number, another mask
        assert other.tolist() != first[0].logits.tolist()
        wire = session.bus.link.wire  # type: ignore[attr-defined]
        assert wire.lamps == int(np.argmax(other)) | 1 << 4  # the class is valid, nothing busy, no error


FAULTS: dict[str, tuple[str, Callable[[bytes], bytes], bool]] = {
    "a byte lost on the way out": ("out", lambda data: data[:3] + data[4:], True),
    "a bit flipped on the way out": ("out", lambda data: data[:5] + bytes([data[5] ^ 16]) + data[6:], True),
    "a request lost": ("out", lambda data: b"", True),
    "half a request": ("out", lambda data: data[:len(data) // 2], True),
    "garbage before a request": ("out", lambda data: b"\x13\x37\xc0\xdb\x00" + data, False),
    "a request twice": ("out", lambda data: data + data, False),
    "a byte lost on the way back": ("back", lambda data: data[:3] + data[4:], True),
    "a bit flipped on the way back": ("back", lambda data: data[:5] + bytes([data[5] ^ 1]) + data[6:], True),
    "an answer lost": ("back", lambda data: b"", True),
    "garbage before an answer": ("back", lambda data: b"\xff\x00\xdb\xdb" + data, False),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at", [0, 5])
def test_one_fault_changes_nothing(board: Board, fault: str, at: int) -> None:
    """Whatever happens to one message, the image's logits are right; a request that was executed is not executed again."""
    side, change, costs = FAULTS[fault]
    once = Once(at, change)
    session, link = session_over(board, **{side: once})
    with session:
        before = link.repeated
        assert session.classify(IMAGES[1], 1).logits.tolist() == board.logits[1].tolist()
        assert once.seen > at
        if costs:
            assert link.repeated > before


def test_nothing_is_executed_twice(board: Board) -> None:
    """The answer to each request is lost once, so each is sent twice: streams, results and starts among them."""
    seen = iter(range(1 << 20))
    session, link = session_over(board, back=lambda data: data if next(seen) % 2 else b"")
    with session:
        before = link.sent
        assert session.classify(IMAGES[1], 1).logits.tolist() == board.logits[1].tolist()
        assert link.repeated >= link.sent - before > 5


def test_a_dead_line_is_one_error_in_bounded_time(board: Board) -> None:
    session, link = session_over(board, out=lambda data: b"")
    with session:
        sent, begin = link.sent, link.wire.now()
        with pytest.raises(LinkError, match="no answer within 0.05 s, 5 times: is the board on and configured"):
            session.classify(IMAGES[0])
        assert link.sent == sent + 1 and link.wire.now() - begin < 6 * TIMEOUT
    session, _ = session_over(board, out=lambda data: data[:6] + bytes([data[6] ^ 1]) + data[7:])
    with session, pytest.raises(LinkError, match="the bridge received it damaged, 5 times"):
        session.classify(IMAGES[0])


def test_a_simulation_that_ends_is_one_error(board: Board) -> None:
    session, link = session_over(board)
    link.wire.wire._process.kill()  # type: ignore[attr-defined]
    with session, pytest.raises(HostError, match="the simulation"):
        session.classify(IMAGES[0])


def test_a_session_after_a_cut_connection(board: Board) -> None:
    """Half a packet, then another host: it finds the machine, and right logits."""
    session, link = session_over(board)
    with session:
        link.request(Operation.STREAM, bytes(24))  # a packet that nobody ends
        other = Session(LinkBus(Link(link.wire, TIMEOUT)))
        other.load(load_file(board.packed))
        assert other.classify(IMAGES[2], 2).logits.tolist() == board.logits[2].tolist()


def test_reset_ends_a_run(board: Board) -> None:
    """RESET while the machine waits for its image: it is idle at once, without an abort, and right afterwards."""
    session, link = session_over(board)
    with session:
        run(session.host.start(1))
        link.request(Operation.STREAM, bytes(24))
        assert run(session.host.read_field("STATUS", "busy")) == 1
        link.request(Operation.RESET)
        assert run(session.host.read_field("STATUS", "busy")) == 0
        session.load(load_file(board.packed))
        assert session.classify(IMAGES[2], 2).logits.tolist() == board.logits[2].tolist()


def test_errors_of_the_machine_are_named_and_cleared(board: Board) -> None:
    session, link = session_over(board)
    with session:
        with pytest.raises(HostError, match="SLVERR"):
            link.request(Operation.READ, struct.pack("<I", 0xFFC))
        link.request(Operation.STREAM_LAST, bytes(8))
        with pytest.raises(MachineError):
            session.classify(IMAGES[0])
        session.recover()
        assert session.classify(IMAGES[0], 0).logits.tolist() == board.logits[0].tolist()


def test_frames_are_found_again() -> None:
    frame, decoder = encode(Operation.READ, 7, b"\xc0\xdb\x01"), Decoder()
    assert frame.count(END) == 2
    (found,) = decoder.feed(b"\x01\x02" + frame)
    assert (found.operation, found.sequence, found.payload, decoder.dropped) == (Operation.READ, 7, b"\xc0\xdb\x01", 1)
    for place in range(1, len(frame) - 1):
        spoiled = bytearray(frame)
        spoiled[place] ^= 0x20
        assert not any((f.payload, f.operation, f.sequence) == (b"\xc0\xdb\x01", 1, 7) for f in Decoder().feed(bytes(spoiled)))
    body = bytes([1, 7, 0, 0])
    assert frame != encode(1, 7) == bytes([END]) + body + zlib.crc32(body).to_bytes(4, "little") + bytes([END])
    assert ANSWER == 0x80 and Status.OK == 0


def write_png(path: Path, pixels: np.ndarray) -> None:
    """An 8-bit gray PNG."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    height, width = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def test_the_command_classifies_pictures(board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(2):
        write_png(tmp_path / f"{index}.png", IMAGES[index, :, :, 0])
    port = ["--port", f"sim:{board.program}"]
    assert main(["classify", *(str(tmp_path / f"{index}.png") for index in range(2)), "--network", str(board.packed), "--logits",
                 *port]) == 0
    lines = capsys.readouterr().out.splitlines()
    for index in range(2):
        assert f"class {int(np.argmax(board.logits[index]))}, " in lines[2 * index]
        assert lines[2 * index + 1] == "  logits " + " ".join(map(str, board.logits[index].tolist()))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    write_png(tmp_path / "large.png", np.zeros((9, 9), np.uint8))
    for name, wanted in (("bad.png", "bad.png"), ("large.png", "9x9 pixels"), ("none.png", "none.png")):
        assert main(["classify", str(tmp_path / name), "--network", str(board.packed), *port]) == 2
        error = capsys.readouterr().err
        assert wanted in error and error.count("\n") == 1
    assert main(["classify", str(tmp_path / "0.png"), "--network", str(board.packed), "--steps", "4", *port]) == 2
    assert capsys.readouterr().err == "mst-host: the machine cannot run 4 time steps: it fires `exact`, in one\n"
    assert main(["probe", "--port", f"sim:{tmp_path / 'nothing'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
