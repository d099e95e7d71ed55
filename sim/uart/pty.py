"""A simulated board as a real serial port of this computer: a pseudo-terminal, which any program opens as it would a UART."""
import os
import select
import threading
import tty
from pathlib import Path
from types import TracebackType
from typing import Self

from firmware.host.driver import HostError
from firmware.host.simulated import SimulatedWire

SLICE = 1e-4
"""Seconds of simulated time that pass at most between two looks at the terminal."""
QUIET = 0.1
"""Seconds of simulated time without a byte in or out after which the simulation stands still: the longest frame takes less."""


class PtyBoard:
    """Runs `program` (of `sim.uart.build`) behind a pseudo-terminal; `port` is its name. Use as a context manager.

    Bytes are carried by a thread. `error`: why it ended by itself, else "". HostError when the program cannot be started.
    """

    def __init__(self, program: Path) -> None:
        self._wire = SimulatedWire(program)
        self._terminal, self._other = os.openpty()  # the other end stays open: a program may open it, close it, open it again
        tty.setraw(self._other)
        self.port, self.error = os.ttyname(self._other), ""
        self._awake, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._carry, name="pty", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        os.write(self._wake, b"\0")
        self._thread.join()
        self._wire.close()
        for end in (self._terminal, self._other, self._awake, self._wake):
            os.close(end)

    def wait(self) -> None:
        """Until the board ends by itself (`error`)."""
        self._thread.join()

    def _carry(self) -> None:
        """Bytes in, simulated time on, bytes out."""
        until = self._wire.now()
        while True:
            ready, _, _ = select.select([self._terminal, self._awake], [], [], 0 if self._wire.now() < until else None)
            if self._awake in ready:
                return
            try:
                if self._terminal in ready:
                    self._wire.write(os.read(self._terminal, 4096))
                answer = self._wire.read(SLICE)
                if answer or self._terminal in ready:
                    until = self._wire.now() + QUIET
                while answer:
                    answer = answer[os.write(self._terminal, answer):]
            except (OSError, HostError) as error:
                self.error = str(error)
                return
