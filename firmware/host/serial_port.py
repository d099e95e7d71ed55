"""The wire to a board: a serial port through pyserial, which is only needed here."""
import time

from firmware.host.driver import HostError

BAUD = 1_000_000


class SerialWire:
    """Opens `port`; HostError in one line when pyserial is missing or the port cannot be opened."""

    def __init__(self, port: str, baud: int = BAUD) -> None:
        try:
            from serial import Serial, SerialException
        except ModuleNotFoundError:
            raise HostError("pyserial is not installed: pip install pyserial") from None
        self.name = port
        self._errors = (SerialException, OSError)
        try:
            self._port = Serial(port, baud, timeout=0, exclusive=True)
        except self._errors as error:
            raise HostError(f"{port}: cannot be opened ({error.strerror or error}): is the board connected, the port free, and "
                            "may you use it (group dialout)?") from None
        except ValueError as error:
            raise HostError(f"{port}: {error}") from None
        self._port.reset_input_buffer()

    def write(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except self._errors as error:
            raise HostError(f"{self.name}: the connection is gone ({error})") from None

    def read(self, seconds: float) -> bytes:
        try:
            self._port.timeout = seconds
            data: bytes = self._port.read(1)
            return data + self._port.read(self._port.in_waiting) if data else data
        except self._errors as error:
            raise HostError(f"{self.name}: the connection is gone ({error})") from None

    def now(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        self._port.close()
