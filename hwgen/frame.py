"""Frames of the UART bridge (`hwgen.wire`): a receiver that checks them, a transmitter that makes them."""
from amaranth.hdl import Cat, Const, Elaboratable, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.crc.catalog import CRC32_ETHERNET
from amaranth.lib.wiring import In, Out

from hwgen.wire import CRC_BYTES, END, ESCAPE, ESCAPED_END, ESCAPED_ESCAPE, HEADER_BYTES, MAX_PAYLOAD, MAX_WORDS

COUNT_BITS = (HEADER_BYTES + MAX_PAYLOAD + CRC_BYTES).bit_length()
ANSWER_BYTES = 2  # Status and info


class FrameReceiver(wiring.Component):
    """Bytes in (`data` with `valid`, never stalled), frames out.

    `operation`, `sequence`, `length` hold the header of the frame that comes; `payload` with `payload_valid` its payload, byte
    by byte, before it is known to be whole (`begin` pulses with the frame's first byte). Behind the frame's last byte either
    `good` or `bad` pulses; empty frames (END END) are passed over.
    """

    def __init__(self) -> None:
        super().__init__({
            "data": In(8), "valid": In(1),
            "operation": Out(8), "sequence": Out(8), "length": Out(16),
            "begin": Out(1), "payload": Out(8), "payload_valid": Out(1), "payload_last": Out(1), "good": Out(1), "bad": Out(1),
        })

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        m.submodules.crc = crc = CRC32_ETHERNET(data_width=8).create()
        count, escaped, broken = Signal(COUNT_BITS), Signal(), Signal()
        byte, byte_valid, end = Signal(8), Signal(), Signal()
        header = Cat(self.operation, self.sequence, self.length)
        m.d.comb += [
            end.eq(self.valid & (self.data == END)),
            byte.eq(Mux(escaped, Mux(self.data == ESCAPED_END, END, ESCAPE), self.data)),
            byte_valid.eq(self.valid & ~end & (escaped | (self.data != ESCAPE))),
            crc.data.eq(byte), crc.valid.eq(byte_valid), crc.start.eq(self.begin | end),
            self.begin.eq(byte_valid & (count == 0)),
            self.payload.eq(byte),
            self.payload_valid.eq(byte_valid & (count >= HEADER_BYTES) & (count < HEADER_BYTES + self.length)),
            self.payload_last.eq(count == HEADER_BYTES - 1 + self.length),
        ]
        whole = ~broken & ~escaped & (count == HEADER_BYTES + CRC_BYTES + self.length) & crc.match_detected
        m.d.sync += [self.good.eq(0), self.bad.eq(0)]
        with m.If(self.valid):
            m.d.sync += escaped.eq((self.data == ESCAPE) & ~escaped)
            with m.If(escaped & ~end & (self.data != ESCAPED_END) & (self.data != ESCAPED_ESCAPE)):
                m.d.sync += broken.eq(1)
        with m.If(byte_valid):
            with m.If(count < HEADER_BYTES):
                m.d.sync += header.eq(Cat(header[8:], byte))
            with m.If(count == Const(-1, COUNT_BITS)):
                m.d.sync += broken.eq(1)
            with m.Else():
                m.d.sync += count.eq(count + 1)
        with m.If(end):
            m.d.sync += [count.eq(0), escaped.eq(0), broken.eq(0), self.good.eq(whole),
                         self.bad.eq(~whole & ((count != 0) | escaped | broken))]
        return m


class FrameTransmitter(wiring.Component):
    """`start` (while `busy` is low) sends one answer: header, `status`, `info`, `words` words, CRC.

    All inputs stay stable while `busy`. Word `address` is asked for from a memory with a latency of one cycle: `word`. Bytes go
    out on `data`/`valid`/`ready`, one every six cycles at most.
    """

    def __init__(self) -> None:
        super().__init__({
            "start": In(1), "busy": Out(1), "operation": In(8), "sequence": In(8), "status": In(8), "info": In(8),
            "words": In(range(MAX_WORDS + 1)), "address": Out(range(MAX_WORDS)), "word": In(32),
            "data": Out(8), "valid": Out(1), "ready": In(1),
        })

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        m.submodules.crc = crc = CRC32_ETHERNET(data_width=8).create()
        front = HEADER_BYTES + ANSWER_BYTES
        index, body = Signal(range(front + 4 * MAX_WORDS + CRC_BYTES + 1)), Signal(range(front + 4 * MAX_WORDS + 1))
        chosen, byte, word, special, in_crc = Signal(8), Signal(8), Signal(32), Signal(), Signal()
        offset = Signal(range(4 * MAX_WORDS + CRC_BYTES + 1))
        length = Signal(16)
        m.d.comb += [
            length.eq(ANSWER_BYTES + (self.words << 2)), body.eq(front + (self.words << 2)), offset.eq(index - front),
            self.address.eq(offset[2:]),
        ]
        with m.Switch(index):
            for number, value in enumerate([self.operation, self.sequence, length[:8], length[8:], self.status, self.info]):
                with m.Case(number):
                    m.d.comb += chosen.eq(value)
            with m.Default():
                m.d.comb += chosen.eq(Mux(in_crc, crc.crc.word_select((index - body)[:2], 8), word.word_select(offset[:2], 8)))
        m.d.comb += self.busy.eq(1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.busy.eq(0)
                with m.If(self.start):
                    m.d.sync += index.eq(0)
                    m.d.comb += crc.start.eq(1)
                    m.next = "OPEN"
            with m.State("OPEN"):
                m.d.comb += [self.data.eq(END), self.valid.eq(1)]
                with m.If(self.ready):
                    m.next = "FETCH"
            with m.State("FETCH"):  # the word that `address` asks for comes; then a register a step
                m.next = "WORD"
            with m.State("WORD"):
                m.d.sync += [word.eq(self.word), in_crc.eq(index >= body)]
                m.next = "SELECT"
            with m.State("SELECT"):
                m.d.sync += byte.eq(chosen)
                m.next = "JUDGE"
            with m.State("JUDGE"):
                m.d.sync += special.eq((byte == END) | (byte == ESCAPE))
                m.next = "BYTE"
            with m.State("BYTE"):
                m.d.comb += [self.data.eq(Mux(special, ESCAPE, byte)), self.valid.eq(1)]
                with m.If(self.ready):
                    with m.If(special):
                        m.next = "ESCAPED"
                    with m.Else():
                        m.next = "NEXT"
            with m.State("ESCAPED"):
                m.d.comb += [self.data.eq(Mux(byte == END, ESCAPED_END, ESCAPED_ESCAPE)), self.valid.eq(1)]
                with m.If(self.ready):
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.comb += [crc.data.eq(byte), crc.valid.eq(~in_crc)]
                m.d.sync += index.eq(index + 1)
                m.next = "FETCH"
                with m.If(index == body + CRC_BYTES - 1):
                    m.next = "CLOSE"
            with m.State("CLOSE"):
                m.d.comb += [self.data.eq(END), self.valid.eq(1)]
                with m.If(self.ready):
                    m.next = "IDLE"
        return m
