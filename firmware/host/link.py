"""Requests and answers over a wire: time-outs, repeats, and `driver.Bus` on top of them."""
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol

from firmware.host.driver import HostError
from firmware.host.frames import Decoder, encode
from hwgen.wire import ANSWER, MAX_PAYLOAD, PROTOCOL, STATUS_DOC, Operation, Status

TIMEOUT = 0.5
"""Seconds of the wire's own time that an answer may take."""
RETRIES = 4
"""Times that a request is sent again before the link gives up."""
PATIENCE = 10.0
"""Seconds of the wire's own time that the machine may refuse input."""
PAUSE = 0.001
"""Seconds of the wire's own time in `Bus.pause`."""


class LinkError(HostError):
    """The bridge does not answer, or not as the protocol says."""


class Wire(Protocol):
    """Bytes to a board and back, with a clock of their own: seconds on a real port, simulated ones in simulation."""

    name: str

    def write(self, data: bytes) -> None:
        """Send; HostError when the connection is gone."""

    def read(self, seconds: float) -> bytes:
        """What came, at least one byte, waiting up to `seconds`; b"" when nothing did. HostError when the connection is gone."""

    def now(self) -> float:
        """The wire's clock, seconds."""

    def close(self) -> None:
        """Give the port back; twice does no harm."""


class Link:
    """One request at a time. `sent`, `repeated`, `refused` count requests, repeats and refusals (BAD_FRAME)."""

    def __init__(self, wire: Wire, timeout: float = TIMEOUT, retries: int = RETRIES) -> None:
        if timeout <= 0 or retries < 0:
            raise ValueError(f"a link needs a timeout above 0 and retries from 0 on, not {timeout} and {retries}")
        self.wire, self.timeout, self.retries = wire, timeout, retries
        self.sent = self.repeated = self.refused = 0
        self._decoder, self._sequence = Decoder(), 0

    def hello(self) -> None:
        """Find the bridge; LinkError when nothing answers, or it speaks another version."""
        _, words = self.request(Operation.HELLO)
        if len(words) != 1 or words[0] & 0xFFFF != PROTOCOL or words[0] >> 16 != MAX_PAYLOAD:
            raise LinkError(f"{self.wire.name}: the bridge says {words}, this driver speaks protocol {PROTOCOL} with frames of "
                            f"{MAX_PAYLOAD} bytes: make both from one tree")

    def request(self, operation: Operation, payload: bytes = b"") -> tuple[int, list[int]]:
        """Send a request until it is answered; (info, words). LinkError names the wire, the request and what went wrong.

        HostError for SLAVE_ERROR; `FullError` for FULL, which is not repeated here.
        """
        self._sequence = (self._sequence + 1) % 256
        frame = encode(operation, self._sequence, payload)
        self.sent += 1
        why = ""
        for attempt in range(1 + self.retries):
            self.repeated += attempt > 0
            self.wire.write(frame)
            answer = self._answer(operation)
            if answer is None:
                why = f"no answer within {self.timeout:g} s"
                continue
            status, info, words = answer
            if status == Status.BAD_FRAME:
                self.refused += 1
                why = "the bridge received it damaged"
                continue
            if status == Status.FULL:
                raise FullError(f"{self.wire.name}: {STATUS_DOC[Status.FULL]}")
            if status:
                known = status in Status.__members__.values()
                raise HostError(f"{self.wire.name}: {operation.name}: " + (STATUS_DOC[Status(status)] if known else
                                                                           f"unknown status {status}: is the bridge newer?"))
            return info, words
        raise LinkError(f"{self.wire.name}: {operation.name}: {why}, {1 + self.retries} times: is the board on and configured, "
                        "and are port and baud rate right?")

    def _answer(self, operation: Operation) -> tuple[int, int, list[int]] | None:
        """(status, info, words) of the answer to the current request, or a refusal of it; None when none came in time."""
        until = self.wire.now() + self.timeout
        while (left := until - self.wire.now()) > 0:
            for frame in self._decoder.feed(self.wire.read(left)):
                if len(frame.payload) < 2 or len(frame.payload) % 4 != 2:
                    continue
                status, info = frame.payload[:2]
                words = list(struct.unpack(f"<{len(frame.payload) // 4}I", frame.payload[2:]))
                # an answer to an earlier, repeated request has another sequence
                if status == Status.BAD_FRAME or (frame.operation, frame.sequence) == (operation | ANSWER, self._sequence):
                    return status, info, words
        return None


class FullError(HostError):
    """The stream queue has no room now."""


class LinkBus:
    """`driver.Bus` over a link. Nothing suspends: these coroutines run to their end when they are first sent into."""

    def __init__(self, link: Link, patience: float = PATIENCE) -> None:
        self.link, self.patience = link, patience
        self.progress: Callable[[int], object] | None = None
        """called with the number of bytes that were taken"""
        self._packets: deque[list[int]] = deque()
        self._words: list[int] = []

    async def read32(self, address: int) -> int:
        _, words = self.link.request(Operation.READ, struct.pack("<I", address))
        if len(words) != 1:
            raise LinkError(f"{self.link.wire.name}: {len(words)} words in the answer to READ, not 1")
        return words[0]

    async def write32(self, address: int, value: int) -> None:
        self.link.request(Operation.WRITE, struct.pack("<2I", address, value))

    async def send(self, packet: bytes) -> None:
        """HostError when the machine took nothing for `patience` seconds."""
        for at in range(0, len(packet), MAX_PAYLOAD):
            last = at + MAX_PAYLOAD >= len(packet)
            until = self.link.wire.now() + self.patience
            while True:
                try:
                    self.link.request(Operation.STREAM_LAST if last else Operation.STREAM, packet[at:at + MAX_PAYLOAD])
                except FullError as error:
                    if self.link.wire.now() > until:
                        raise HostError(f"{error} for {self.patience:g} s") from None
                    self._take()  # else results that nobody takes would hold the machine up
                    await self.pause()
                else:
                    break
            if self.progress is not None:
                self.progress(min(MAX_PAYLOAD, len(packet) - at))

    async def receive(self) -> list[int] | None:
        if not self._packets:
            self._take()
        return self._packets.popleft() if self._packets else None

    def _take(self) -> None:
        info, words = self.link.request(Operation.TAKE)
        self._words += words
        if info & 1:
            self._packets.append(self._words)
            self._words = []

    async def pause(self) -> None:
        """Wait PAUSE seconds; what comes meanwhile is a late answer, or garbage."""
        self.link.wire.read(PAUSE)

    async def reset(self) -> None:
        """Reset the machine (loaded memories stay) and the bridge's queues."""
        self.link.request(Operation.RESET)
        self._packets.clear()
        self._words = []
