"""The UART bridge: a host's frames (`hwgen.wire`) become AXI4-Lite accesses, input stream packets and result words."""
from amaranth.hdl import Cat, Const, Elaboratable, Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen.frame import FrameReceiver, FrameTransmitter
from hwgen.registers import ADDRESS_BITS, DATA_BITS
from hwgen.wire import ANSWER, MAX_PAYLOAD, MAX_WORDS, PROTOCOL, QUEUE_BYTES, REFUSALS, RESULT_WORDS, Operation, Status

AXI_LITE_MASTER = {
    "m_axil_awaddr": Out(ADDRESS_BITS), "m_axil_awprot": Out(3), "m_axil_awvalid": Out(1), "m_axil_awready": In(1),
    "m_axil_wdata": Out(DATA_BITS), "m_axil_wstrb": Out(DATA_BITS // 8, init=-1), "m_axil_wvalid": Out(1), "m_axil_wready": In(1),
    "m_axil_bresp": In(2), "m_axil_bvalid": In(1), "m_axil_bready": Out(1),
    "m_axil_araddr": Out(ADDRESS_BITS), "m_axil_arprot": Out(3), "m_axil_arvalid": Out(1), "m_axil_arready": In(1),
    "m_axil_rdata": In(DATA_BITS), "m_axil_rresp": In(2), "m_axil_rvalid": In(1), "m_axil_rready": Out(1),
}
RESET_CYCLES = 16


class Bridge(wiring.Component):
    """Bytes of the wire in (`rx_data`, `rx_valid`) and out (`tx_data`, `tx_valid`, `tx_ready`); ports of the machine's host.

    `m_axil_*`: AXI4-Lite master. `s_axis_*` (out) feeds the machine's input stream, `bus_bytes` a beat; `m_axis_*` (in) takes its
    results. `machine_reset` is high for RESET_CYCLES after RESET. `refused`: the last frame was refused; the next good one
    clears it. A whole frame is always answered within the time of its AXI access: whatever the streams do, registers can be
    reached. ValueError unless `bus_bytes` is 4 or 8.
    """

    def __init__(self, bus_bytes: int) -> None:
        if bus_bytes not in (4, 8):
            raise ValueError(f"bus_bytes must be 4 or 8, not {bus_bytes!r}")
        self.bus_bytes = bus_bytes
        super().__init__({
            "rx_data": In(8), "rx_valid": In(1), "tx_data": Out(8), "tx_valid": Out(1), "tx_ready": In(1),
            **AXI_LITE_MASTER,
            "s_axis_tdata": Out(8 * bus_bytes), "s_axis_tvalid": Out(1), "s_axis_tready": In(1), "s_axis_tlast": Out(1),
            "m_axis_tdata": In(32), "m_axis_tvalid": In(1), "m_axis_tready": Out(1), "m_axis_tlast": In(1),
            "machine_reset": Out(1), "refused": Out(1),
        })

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        m.submodules.receiver = receiver = FrameReceiver()
        m.submodules.transmitter = transmitter = FrameTransmitter()
        reset_left = Signal(range(RESET_CYCLES + 1))
        queue_reset = Signal()
        m.submodules.queue = queue = ResetInserter(queue_reset)(PacketQueue(self.bus_bytes))
        m.submodules.results = results = ResetInserter(queue_reset)(SyncFIFOBuffered(width=33, depth=RESULT_WORDS))
        m.submodules.answers = answers = Memory(shape=32, depth=MAX_WORDS, init=[])
        answer_write, answer_read = answers.write_port(), answers.read_port()
        m.d.comb += [
            queue_reset.eq(self.machine_reset),
            receiver.data.eq(self.rx_data), receiver.valid.eq(self.rx_valid),
            self.tx_data.eq(transmitter.data), self.tx_valid.eq(transmitter.valid), transmitter.ready.eq(self.tx_ready),
            answer_read.addr.eq(transmitter.address), transmitter.word.eq(answer_read.data), answer_read.en.eq(1),
            self.s_axis_tdata.eq(queue.tdata), self.s_axis_tvalid.eq(queue.tvalid), self.s_axis_tlast.eq(queue.tlast),
            queue.tready.eq(self.s_axis_tready),
            results.w_data.eq(Cat(self.m_axis_tdata, self.m_axis_tlast)),
            results.w_en.eq(self.m_axis_tvalid & ~queue_reset), self.m_axis_tready.eq(results.w_rdy & ~queue_reset),
        ]
        m.d.sync += self.machine_reset.eq(reset_left != 0)
        with m.If(reset_left != 0):
            m.d.sync += reset_left.eq(reset_left - 1)

        # the payload goes to the stream queue on trial, and its first eight bytes to a register
        is_stream = (receiver.operation == Operation.STREAM) | (receiver.operation == Operation.STREAM_LAST)
        fields = Signal(64)
        placed = Signal(4)
        m.d.comb += [
            queue.begin.eq(receiver.begin), queue.data.eq(receiver.payload),
            queue.last.eq((receiver.operation == Operation.STREAM_LAST) & receiver.payload_last),
            queue.put.eq(receiver.payload_valid & is_stream),
        ]
        with m.If(receiver.begin):
            m.d.sync += placed.eq(0)
        with m.If(receiver.payload_valid & ~placed[3]):
            m.d.sync += [fields.eq(Cat(fields[8:], receiver.payload)), placed.eq(placed + 1)]
        wanted = {Operation.READ: 4, Operation.WRITE: 8, Operation.TAKE: 0, Operation.RESET: 0, Operation.HELLO: 0}
        fits = Signal()  # the payload has the operation's length
        with m.Switch(receiver.operation):
            for operation, size in wanted.items():
                with m.Case(operation):
                    m.d.comb += fits.eq(receiver.length == size)
            with m.Case(Operation.STREAM, Operation.STREAM_LAST):
                m.d.comb += fits.eq((receiver.length != 0) & (receiver.length <= MAX_PAYLOAD))

        # the last answer, kept so that it can be sent again
        known, sequence = Signal(), Signal(8)
        operation, status, info, words = Signal(8), Signal(8), Signal(8), Signal(range(MAX_WORDS + 1))
        refusal, refused_operation, refused_sequence = Signal(8), Signal(8), Signal(8)
        m.d.comb += [
            transmitter.operation.eq(Mux(refusal != 0, refused_operation, operation)),
            transmitter.sequence.eq(Mux(refusal != 0, refused_sequence, sequence)),
            transmitter.status.eq(Mux(refusal != 0, refusal, status)),
            transmitter.info.eq(Mux(refusal != 0, 0, info)), transmitter.words.eq(Mux(refusal != 0, 0, words)),
            self.refused.eq(refusal != 0),
        ]
        assert Status.OK not in REFUSALS

        again = known & (receiver.sequence == sequence) & (receiver.operation != Operation.HELLO)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(receiver.bad):
                    m.d.sync += [refusal.eq(Status.BAD_FRAME), refused_operation.eq(ANSWER), refused_sequence.eq(0)]
                    m.next = "ANSWER"
                with m.Elif(receiver.good & again):
                    m.d.sync += refusal.eq(0)
                    m.next = "ANSWER"
                with m.Elif(receiver.good & (~fits | (is_stream & queue.overflow))):
                    m.d.sync += [refusal.eq(Mux(fits, Status.FULL, Status.BAD_REQUEST)),
                                 refused_operation.eq(receiver.operation | ANSWER), refused_sequence.eq(receiver.sequence)]
                    m.next = "ANSWER"
                with m.Elif(receiver.good):
                    m.d.sync += [refusal.eq(0), known.eq(1), sequence.eq(receiver.sequence), status.eq(Status.OK), info.eq(0),
                                 words.eq(0), operation.eq(receiver.operation | ANSWER),
                                 self.m_axil_araddr.eq(fields[32:]), self.m_axil_awaddr.eq(fields),
                                 self.m_axil_wdata.eq(fields[32:])]
                    m.next = "ANSWER"
                    with m.Switch(receiver.operation):
                        with m.Case(Operation.HELLO):
                            m.d.sync += [known.eq(0), words.eq(1)]
                            m.d.comb += [answer_write.en.eq(1), answer_write.data.eq(PROTOCOL | MAX_PAYLOAD << 16)]
                        with m.Case(Operation.READ):
                            m.d.sync += self.m_axil_arvalid.eq(1)
                            m.next = "READ"
                        with m.Case(Operation.WRITE):
                            m.d.sync += [self.m_axil_awvalid.eq(1), self.m_axil_wvalid.eq(1)]
                            m.next = "WRITE"
                        with m.Case(Operation.STREAM, Operation.STREAM_LAST):
                            m.d.comb += queue.commit.eq(1)
                        with m.Case(Operation.TAKE):
                            m.next = "TAKE"
                        with m.Case(Operation.RESET):
                            m.d.sync += reset_left.eq(RESET_CYCLES)
            with m.State("READ"):
                with m.If(self.m_axil_arready):
                    m.d.sync += self.m_axil_arvalid.eq(0)
                m.d.comb += [self.m_axil_rready.eq(1), answer_write.data.eq(self.m_axil_rdata)]
                with m.If(self.m_axil_rvalid):
                    m.d.comb += answer_write.en.eq(1)
                    m.d.sync += [status.eq(Mux(self.m_axil_rresp[1], Status.SLAVE_ERROR, Status.OK)), words.eq(1)]
                    m.next = "ANSWER"
            with m.State("WRITE"):
                with m.If(self.m_axil_awready):
                    m.d.sync += self.m_axil_awvalid.eq(0)
                with m.If(self.m_axil_wready):
                    m.d.sync += self.m_axil_wvalid.eq(0)
                m.d.comb += self.m_axil_bready.eq(1)
                with m.If(self.m_axil_bvalid):
                    m.d.sync += status.eq(Mux(self.m_axil_bresp[1], Status.SLAVE_ERROR, Status.OK))
                    m.next = "ANSWER"
            with m.State("TAKE"):
                m.d.comb += [answer_write.addr.eq(words), answer_write.data.eq(results.r_data)]
                m.next = "ANSWER"
                with m.If(results.r_rdy & (words != MAX_WORDS)):
                    m.d.comb += [answer_write.en.eq(1), results.r_en.eq(1)]
                    m.d.sync += [words.eq(words + 1), info.eq(results.r_data[32])]
                    with m.If(~results.r_data[32]):
                        m.next = "TAKE"
            with m.State("ANSWER"):
                with m.If((reset_left == 0) & ~self.machine_reset):
                    m.d.comb += transmitter.start.eq(1)
                    m.next = "SENDING"
            with m.State("SENDING"):  # whole frames that come meanwhile are dropped: the host repeats them
                with m.If(~transmitter.busy):
                    m.next = "IDLE"
        return m


class PacketQueue(wiring.Component):
    """Bytes of a frame are put on trial (`put`, `data`, `last`: end of the packet) and count once `commit` pulses.

    `begin` drops what was put since the last commit. `overflow`: the frame did not fit, it must not be committed. The bytes
    leave as beats of `bus_bytes` bytes on `t*`, the first lowest; a packet that is not whole beats is filled up with zeros.
    """

    def __init__(self, bus_bytes: int) -> None:
        self.bus_bytes = bus_bytes
        super().__init__({
            "begin": In(1), "put": In(1), "data": In(8), "last": In(1), "commit": In(1), "overflow": Out(1),
            "tdata": Out(8 * bus_bytes), "tvalid": Out(1), "tready": In(1), "tlast": Out(1),
        })

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        m.submodules.memory = memory = Memory(shape=9, depth=QUEUE_BYTES, init=[])
        write, read = memory.write_port(), memory.read_port()
        bits = (QUEUE_BYTES - 1).bit_length()
        head, committed, tail = Signal(bits), Signal(bits), Signal(bits)  # next written, next to count, next read
        room = Signal()
        m.d.comb += [
            room.eq((head + 1)[:bits] != tail), write.addr.eq(head), write.data.eq(Cat(self.data, self.last)),
            write.en.eq(self.put & room & ~self.overflow),
        ]
        with m.If(write.en):
            m.d.sync += head.eq(head + 1)
        with m.Elif(self.put):
            m.d.sync += self.overflow.eq(1)
        with m.If(self.begin):
            m.d.sync += [head.eq(committed), self.overflow.eq(0)]
        with m.If(self.commit):
            m.d.sync += committed.eq(head)

        # a byte is read, then placed, in turns
        slot, have = Signal(range(self.bus_bytes)), Signal()
        m.d.comb += [read.addr.eq(tail), read.en.eq(1)]
        with m.If(self.tvalid):
            with m.If(self.tready):
                m.d.sync += [self.tvalid.eq(0), self.tdata.eq(0), self.tlast.eq(0)]
        with m.Elif(have):
            m.d.sync += [have.eq(0), self.tdata.word_select(slot, 8).eq(read.data[:8]), slot.eq(slot + 1), tail.eq(tail + 1)]
            with m.If((slot == self.bus_bytes - 1) | read.data[8]):
                m.d.sync += [self.tvalid.eq(1), self.tlast.eq(read.data[8]), slot.eq(Const(0))]
        with m.Elif(tail != committed):
            m.d.sync += have.eq(1)
        return m
