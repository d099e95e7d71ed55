"""The wire to a machine in RTL simulation: a program that `python -m sim.uart` builds, in step with the driver.

The program reads commands and writes answers (little-endian): command: u32 cycles, u32 size, `size` bytes for the UART; answer:
u64 cycle, u32 lamps, u32 size, `size` bytes from the UART. It runs until bytes have come and the line is idle again, or for
`cycles` clock cycles. Its first answer, to no command, carries the clock in Hz in place of the cycle. Only simulated time
passes, so a run repeats exactly.
"""
import contextlib
import struct
import subprocess
from pathlib import Path

from firmware.host.driver import HostError

_COMMAND, _ANSWER = struct.Struct("<II"), struct.Struct("<QII")


class SimulatedWire:
    """Starts `program` (and `arguments`); HostError if it cannot. `cycle`: the simulated clock; `lamps`: the board's LEDs."""

    def __init__(self, program: Path, *arguments: str) -> None:
        self.name = f"sim:{program}"
        try:
            self._process = subprocess.Popen([str(program.resolve()), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise HostError(f"{self.name}: {error.strerror}: build it with python -m sim.uart") from None
        self.cycle = self.lamps = 0
        self._waiting = b""
        self.clock_hz = 1
        self._read_answer()
        self.clock_hz, self.cycle = max(self.cycle, 1), 0

    def write(self, data: bytes) -> None:
        self._waiting += data

    def read(self, seconds: float) -> bytes:
        assert self._process.stdin is not None
        data, self._waiting = self._waiting, b""
        try:
            self._process.stdin.write(_COMMAND.pack(max(1, round(seconds * self.clock_hz)), len(data)) + data)
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise HostError(f"{self.name}: the simulation is gone") from None
        return self._read_answer()

    def now(self) -> float:
        return self.cycle / self.clock_hz

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        self._process.kill()
        self._process.wait()

    def _read_answer(self) -> bytes:
        assert self._process.stdout is not None
        try:
            head = self._process.stdout.read(_ANSWER.size)
            if len(head) == _ANSWER.size:
                self.cycle, self.lamps, size = _ANSWER.unpack(head)
                data = self._process.stdout.read(size)
                if len(data) == size:
                    return data
        except (OSError, ValueError):
            pass
        raise HostError(f"{self.name}: the simulation ended")
