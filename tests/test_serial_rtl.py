"""The whole way of a board's serial port: `mst-host`, pyserial, a terminal of this computer, the UART bridge in RTL."""
import os
from pathlib import Path

import numpy as np
import pytest

from firmware.host.driver import HostError
from firmware.host.serial_port import SerialWire
from firmware.host.session import Session, load_file
from hwgen.config import MachineConfig, machine_config
from hwgen.emit import emit
from hwgen.packed import pack
from model.config import MaskingConfig, ModelConfig
from model.masking import SpikeMask
from quantize.random_network import random_images, random_network
from sim.golden.network import run as golden
from sim.golden.stepwise import run_stepwise
from sim.uart import build
from sim.uart.pty import PtyBoard

pytest.importorskip("serial", reason="pyserial is not installed: pip install -e .[host]")
pytestmark = pytest.mark.slow

MODEL = ModelConfig(image_size=8, in_channels=1, classes=3, patch=2, embedding=8, depths=(1,), heads=(1,), window=2,
                    mlp_ratio=1.0, levels=3)
MACHINE = MachineConfig(lanes=8, fire_lanes=4, planes=2, head_lanes=8, window_tokens=4, attention_rows=1)
MASKING = MaskingConfig(sites=("q", "k", "fc1"), ratio=0.25)
TIMEOUT = 60.0
"""Real seconds, where the simulation has the computer to itself or not; nothing here waits so long."""


def test_images_over_a_serial_port(tmp_path: Path) -> None:
    """Two sessions on one board: opened, closed, opened again; then the board goes away."""
    made = emit(random_network(MODEL, 4), MACHINE, MASKING, Path("rtl/build/benches/test_uart_rtl").resolve())
    program, file = build(made), tmp_path / "network.bin"
    file.write_bytes(pack(made.program, made.machine, MASKING, made.id32))
    images = random_images(MODEL, 9, 3)
    logits = golden(made.program.network, images, mask=SpikeMask.of(MASKING)).logits
    with PtyBoard(program) as board:
        for first in (0, 1):
            with Session.open(board.port, timeout=TIMEOUT) as session:
                session.load(load_file(file))
                for index in range(first, 3):
                    answer = session.classify(images[index], index)
                    assert np.array_equal(answer.logits, logits[index])
                    assert answer.class_index == int(np.argmax(logits[index]))
        port = board.port
    with pytest.raises(HostError, match=f"{port}: cannot be opened"):
        Session.open(port)


def test_time_steps_over_a_serial_port(tmp_path: Path) -> None:
    """The host sets the time steps of a machine that fires step by step; more than it has are refused."""
    network = random_network(MODEL, 4)
    machine = machine_config({"lanes": 8, "fire_lanes": 4, "attention_rows": 1, "firing": "stepwise", "steps": 6})
    made = emit(network, machine, MASKING, Path("rtl/build/benches/test_serial_rtl").resolve())
    program, file = build(made), tmp_path / "network.bin"
    file.write_bytes(pack(made.program, made.machine, MASKING, made.id32))
    images = random_images(MODEL, 9, 1)
    logits = run_stepwise(network, images, 6, mask=SpikeMask.of(MASKING)).logits[:, 0]
    with PtyBoard(program) as board, Session.open(board.port, timeout=TIMEOUT) as session:
        session.load(load_file(file))
        assert np.array_equal(session.classify(images[0]).logits, logits[5])
        for steps in (2, 6, 1):
            session.set_steps(steps)
            assert np.array_equal(session.classify(images[0]).logits, logits[steps - 1])
        with pytest.raises(HostError, match="the machine cannot run 7 time steps: it takes 1 to 6"):
            session.set_steps(7)
    assert (logits[1] != logits[5]).any()


def test_a_port_that_ends_is_one_line() -> None:
    with pytest.raises(HostError, match="/nowhere: cannot be opened .*: is the board connected"):
        SerialWire("/nowhere")
    ours, theirs = os.openpty()
    wire = SerialWire(os.ttyname(theirs))
    os.close(theirs)
    wire.write(b"abc")
    assert os.read(ours, 3) == b"abc"
    os.write(ours, b"xyz")
    assert wire.read(TIMEOUT) == b"xyz" and wire.read(0.0) == b""
    os.close(ours)
    with pytest.raises(HostError, match="the connection is gone"):
        wire.read(TIMEOUT)
    with pytest.raises(HostError, match="the connection is gone"):
        wire.write(b"abc")
    wire.close()
