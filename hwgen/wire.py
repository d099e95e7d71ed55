"""The wire protocol of the UART bridge, stated once: `hwgen.bridge` speaks it in hardware, `firmware.host` in Python.

A frame is bytes between two END bytes, stuffed as in SLIP (RFC 1055): END never occurs inside a frame, so either side is in
step again at the next END, whatever came before. Numbers are little-endian. Inside:

    operation (1 byte), sequence (1), length (2), payload (`length` bytes), CRC-32 (4; IEEE 802.3, over all bytes before it)

The host sends a request and waits for its answer, whose operation is the request's with ANSWER set and whose sequence is the
request's. An answer's payload begins with a Status and an `info` byte; words of 4 bytes follow.

| request | payload | answer |
|---|---|---|
| HELLO | none | word: PROTOCOL, then MAX_PAYLOAD << 16; forgets the last sequence |
| READ | address (4 bytes) | the register's word |
| WRITE | address (4), value (4) | nothing more |
| STREAM, STREAM_LAST | 1 to MAX_PAYLOAD bytes for the input stream; with _LAST the packet ends behind them | nothing more |
| TAKE | none | words of the result stream that have come, up to MAX_WORDS and not beyond the end of a packet; info: 1 there |
| RESET | none | resets the machine and the bridge's queues; loaded memories stay |

A request whose sequence is that of the last one executed is not executed again: its answer is sent again. So a host may repeat
whatever was not answered, and nothing happens twice. Only HELLO is executed each time. REFUSALS are not answers to an executed
request: the same request may be sent again.
"""
import enum

END, ESCAPE, ESCAPED_END, ESCAPED_ESCAPE = 0xC0, 0xDB, 0xDC, 0xDD
"""SLIP's bytes."""
PROTOCOL = 1
"""Version of this protocol."""
ANSWER = 0x80
HEADER_BYTES, CRC_BYTES = 4, 4
MAX_PAYLOAD = 1024
"""Bytes of the longest request payload."""
QUEUE_BYTES = 2 * MAX_PAYLOAD
"""Stream bytes that the bridge holds: one frame comes while one waits for the machine."""
MAX_WORDS = 56
"""Words in an answer."""
RESULT_WORDS = 64
"""Result words that the bridge holds."""


class Operation(enum.IntEnum):
    """First byte of a request."""

    HELLO = 0
    READ = 1
    WRITE = 2
    STREAM = 3
    STREAM_LAST = 4
    TAKE = 5
    RESET = 6


class Status(enum.IntEnum):
    """First byte of an answer's payload."""

    OK = 0
    BAD_FRAME = 1
    FULL = 2
    BAD_REQUEST = 3
    SLAVE_ERROR = 4


STATUS_DOC = {
    Status.OK: "done",
    Status.BAD_FRAME: "a frame came whose length or CRC is wrong, or whose escapes are",
    Status.FULL: "the stream queue has no room: the machine does not take its input",
    Status.BAD_REQUEST: "an operation that the bridge does not know, or a payload of the wrong length",
    Status.SLAVE_ERROR: "the machine answered with SLVERR: no such register, or a read-only one",
}
REFUSALS = (Status.BAD_FRAME, Status.FULL, Status.BAD_REQUEST)
"""Statuses of requests that were not executed. BAD_FRAME carries sequence 0: whose frame it was cannot be known."""
