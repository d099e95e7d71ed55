"""The stream window: AXI4-Stream through registers, for a host that has only AXI4-Lite (a small CPU, a UART bridge)."""
from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen.csr import OKAY, SLVERR
from hwgen.registers import (
    ADDRESS_BITS,
    DATA_BITS,
    LOGITS_MOST,
    WINDOW_ADDRESS_BITS,
    WINDOW_BASE,
    WINDOW_MAGIC,
    WINDOW_REGISTERS,
    address_map,
)

BEATS = 64
"""Beats queued for the input stream, unless told otherwise."""


def axi_lite(prefix: str, address_bits: int, *, master: bool = False) -> dict[str, wiring.Member]:
    """Ports `<prefix>_*` of an AXI4-Lite slave (`master`: of a master) of 32 bits with `address_bits` of address."""
    there, back = (Out, In) if master else (In, Out)
    ports = {"awaddr": there(address_bits), "awprot": there(3), "awvalid": there(1), "awready": back(1),
             "wdata": there(DATA_BITS), "wstrb": there(DATA_BITS // 8), "wvalid": there(1), "wready": back(1),
             "bresp": back(2), "bvalid": back(1), "bready": there(1),
             "araddr": there(address_bits), "arprot": there(3), "arvalid": there(1), "arready": back(1),
             "rdata": back(DATA_BITS), "rresp": back(2), "rvalid": back(1), "rready": there(1)}
    return {f"{prefix}_{name}": member for name, member in ports.items()}


class StreamWindow(wiring.Component):
    """Between a host's AXI4-Lite master and a machine: its registers pass, WINDOW_REGISTERS are answered here.

    Ports: `s_axil_*` from the host (13 address bits), `m_axil_*` to the machine's registers (8), `m_axis_*` to its input stream
    (`bus_bytes` a beat), `s_axis_*` from its result stream (32 bits a beat).

    One write and one read at a time. Below WINDOW_BASE an access is handed on, and its response back. A write never waits for
    the input stream: SEND of a beat while nothing is free is lost, and answered with SLVERR (WINDOW_STATUS.overflow). Unknown
    addresses, writes to read-only registers, and writes to SEND or SEND_LAST that do not have every byte strobe, get SLVERR and
    do nothing. A result is taken, one beat a cycle, until its TLAST; the next one waits (tready low) until RESULT.valid is
    cleared. Logits beyond `logits` are counted and lost.
    """

    def __init__(self, bus_bytes: int, beats: int = BEATS, logits: int = LOGITS_MOST) -> None:
        """ValueError when `bus_bytes` is not 4 or 8, `beats` not 2 to 65535, `logits` not 1 to 1024."""
        if bus_bytes not in (4, 8):
            raise ValueError(f"bus_bytes must be 4 or 8, not {bus_bytes}")
        if not 2 <= beats < 1 << 16:
            raise ValueError(f"beats must be 2 to 65535, not {beats}")
        if not 1 <= logits <= LOGITS_MOST:
            raise ValueError(f"logits must be 1 to {LOGITS_MOST}, not {logits}")
        self.bus_bytes, self.beats, self.logits = bus_bytes, beats, logits
        super().__init__({
            **axi_lite("s_axil", WINDOW_ADDRESS_BITS), **axi_lite("m_axil", ADDRESS_BITS, master=True),
            "m_axis_tdata": Out(8 * bus_bytes), "m_axis_tvalid": Out(1), "m_axis_tready": In(1), "m_axis_tlast": Out(1),
            "s_axis_tdata": In(DATA_BITS), "s_axis_tvalid": In(1), "s_axis_tready": Out(1), "s_axis_tlast": In(1),
        })

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        self._map = address_map(WINDOW_REGISTERS)
        self._send(m)
        self._receive(m)
        self._write_channel(m)
        self._read_channel(m)
        return m

    def _send(self, m: Module) -> None:
        """The packet queue. `push`, `last` (for one cycle) with `word`; `refused` in the same cycle."""
        m.submodules.queue = queue = SyncFIFOBuffered(width=8 * self.bus_bytes + 1, depth=self.beats)
        self.push, self.last, self.word, self.refused = Signal(), Signal(), Signal(DATA_BITS), Signal()
        self.open, self.overflow, self.free = Signal(), Signal(), Signal(16)
        beat, whole = Signal(8 * self.bus_bytes), Signal()
        if self.bus_bytes == 4:
            m.d.comb += [beat.eq(self.word), whole.eq(1)]
        else:
            low, half = Signal(DATA_BITS), Signal()  # the beat's first word waits in `low` while `half`
            m.d.comb += [beat.eq(Mux(half, Cat(low, self.word), self.word)), whole.eq(half | self.last)]
            with m.If(self.push):
                m.d.sync += [half.eq(~whole), low.eq(self.word)]
        m.d.comb += [
            self.free.eq(self.beats - queue.level), self.refused.eq(self.push & whole & ~queue.w_rdy),
            queue.w_data.eq(Cat(beat, self.last)), queue.w_en.eq(self.push & whole),
            Cat(self.m_axis_tdata, self.m_axis_tlast).eq(queue.r_data), self.m_axis_tvalid.eq(queue.r_rdy),
            queue.r_en.eq(self.m_axis_tready),
        ]
        with m.If(self.push & ~self.refused):
            m.d.sync += self.open.eq(~self.last)

    def _receive(self, m: Module) -> None:
        """The result and its memory. `release` (pulse) lets the next one in."""
        m.submodules.memory = memory = Memory(shape=DATA_BITS, depth=self.logits, init=[])
        write, self.look = memory.write_port(domain="sync"), memory.read_port(domain="sync")
        self.count, self.valid, self.release = Signal(16), Signal(), Signal()
        take = Signal()
        m.d.comb += [
            self.s_axis_tready.eq(~self.valid), take.eq(self.s_axis_tvalid & self.s_axis_tready),
            write.addr.eq(self.count), write.data.eq(self.s_axis_tdata), write.en.eq(take & (self.count < self.logits)),
        ]
        with m.If(self.release):
            m.d.sync += [self.valid.eq(0), self.count.eq(0)]
        with m.Elif(take):
            m.d.sync += [self.count.eq(self.count + (self.count != 0xFFFF)), self.valid.eq(self.s_axis_tlast)]

    def _write_channel(self, m: Module) -> None:
        address, data, strobe = Signal(WINDOW_ADDRESS_BITS), Signal(DATA_BITS), Signal(DATA_BITS // 8)
        have_address, have_data, ready, done = Signal(), Signal(), Signal(), Signal()
        address_sent, data_sent, ours = Signal(), Signal(), Signal()
        response = Signal(2, init=SLVERR)
        with m.If(self.s_axil_awvalid & self.s_axil_awready):
            m.d.sync += [have_address.eq(1), address.eq(self.s_axil_awaddr)]
        with m.If(self.s_axil_wvalid & self.s_axil_wready):
            m.d.sync += [have_data.eq(1), data.eq(self.s_axil_wdata), strobe.eq(self.s_axil_wstrb)]
        m.d.comb += [
            self.s_axil_awready.eq(~have_address), self.s_axil_wready.eq(~have_data),
            ours.eq(address >= WINDOW_BASE), ready.eq(have_address & have_data & ~self.s_axil_bvalid),
            self.m_axil_awaddr.eq(address), self.m_axil_wdata.eq(data), self.m_axil_wstrb.eq(strobe),
            self.m_axil_awvalid.eq(ready & ~ours & ~address_sent), self.m_axil_wvalid.eq(ready & ~ours & ~data_sent),
            self.m_axil_bready.eq(ready & ~ours), self.word.eq(data),
        ]
        with m.If(self.m_axil_awvalid & self.m_axil_awready):
            m.d.sync += address_sent.eq(1)
        with m.If(self.m_axil_wvalid & self.m_axil_wready):
            m.d.sync += data_sent.eq(1)
        overflow, result = self._map["WINDOW_STATUS"], self._map["RESULT"]
        flag, valid = overflow.field("overflow").low, result.field("valid").low
        with m.If(self.refused):
            m.d.sync += self.overflow.eq(1)
        m.d.comb += response.eq(SLVERR)
        with m.If(ready & ~ours):
            m.d.comb += [done.eq(self.m_axil_bvalid), response.eq(self.m_axil_bresp)]
        with m.Elif(ready):
            m.d.comb += done.eq(1)
            with m.Switch(address[2:]):
                for name, last in (("SEND", 0), ("SEND_LAST", 1)):
                    with m.Case(self._map[name].offset >> 2):
                        m.d.comb += [self.push.eq(strobe.all()), self.last.eq(last),
                                     response.eq(Mux(strobe.all() & ~self.refused, OKAY, SLVERR))]
                with m.Case(overflow.offset >> 2):
                    m.d.comb += response.eq(OKAY)
                    with m.If(data[flag] & strobe[flag // 8]):
                        m.d.sync += self.overflow.eq(0)
                with m.Case(result.offset >> 2):
                    m.d.comb += [response.eq(OKAY), self.release.eq(data[valid] & strobe[valid // 8] & self.valid)]
        with m.If(done):
            m.d.sync += [have_address.eq(0), have_data.eq(0), address_sent.eq(0), data_sent.eq(0),
                         self.s_axil_bvalid.eq(1), self.s_axil_bresp.eq(response)]
        with m.Elif(self.s_axil_bready):
            m.d.sync += self.s_axil_bvalid.eq(0)

    def _read_channel(self, m: Module) -> None:
        address, asked, looked, sent, ours = Signal(WINDOW_ADDRESS_BITS), Signal(), Signal(), Signal(), Signal()
        have = Signal()
        logits = self._map["LOGITS"]
        m.d.comb += [
            self.s_axil_arready.eq(~asked), have.eq(asked & ~self.s_axil_rvalid), ours.eq(address >= WINDOW_BASE),
            self.m_axil_araddr.eq(address), self.m_axil_arvalid.eq(have & ~ours & ~sent), self.m_axil_rready.eq(have & ~ours),
            self.look.addr.eq((address - logits.offset)[2:]), self.look.en.eq(1),
        ]
        m.d.sync += looked.eq(have & ours & ~looked)  # the memory answers a cycle later
        with m.If(self.s_axil_arvalid & self.s_axil_arready):
            m.d.sync += [asked.eq(1), address.eq(self.s_axil_araddr)]
        with m.If(self.m_axil_arvalid & self.m_axil_arready):
            m.d.sync += sent.eq(1)
        with m.If(self.s_axil_rvalid & self.s_axil_rready):
            m.d.sync += self.s_axil_rvalid.eq(0)
        with m.If(have & ~ours & self.m_axil_rvalid):
            m.d.sync += [asked.eq(0), sent.eq(0), self.s_axil_rvalid.eq(1), self.s_axil_rdata.eq(self.m_axil_rdata),
                         self.s_axil_rresp.eq(self.m_axil_rresp)]
        with m.Elif(looked):
            m.d.sync += [asked.eq(0), self.s_axil_rvalid.eq(1), self.s_axil_rdata.eq(0), self.s_axil_rresp.eq(SLVERR)]
            values = {("WINDOW_ID", "value"): WINDOW_MAGIC, ("WINDOW_CAP", "beats"): self.beats,
                      ("WINDOW_CAP", "logits"): self.logits, ("WINDOW_STATUS", "free"): self.free,
                      ("WINDOW_STATUS", "open"): self.open, ("WINDOW_STATUS", "overflow"): self.overflow,
                      ("RESULT", "count"): self.count, ("RESULT", "receiving"): (self.count != 0) & ~self.valid,
                      ("RESULT", "valid"): self.valid, ("SEND", "value"): 0, ("SEND_LAST", "value"): 0}
            with m.Switch(address[2:]):
                for name, register in self._map.items():
                    if register is not logits:
                        with m.Case(register.offset >> 2):
                            m.d.sync += self.s_axil_rresp.eq(OKAY)
                            m.d.sync += [self.s_axil_rdata[field.low:field.low + field.width].eq(values[name, field.name])
                                         for field in register.fields]
            with m.If((address >= logits.offset) & (address < logits.offset + 4 * self.logits)):
                m.d.sync += [self.s_axil_rdata.eq(self.look.data), self.s_axil_rresp.eq(OKAY)]


class MmioAccelerator(wiring.Component):
    """A machine behind a stream window: one AXI4-Lite slave `s_axil_*` of 8 KiB, `irq`, and `m_axi_*` to external memory if any.

    The whole of it is used through registers: `hwgen.registers.ALL_REGISTERS`.
    """

    def __init__(self, machine: wiring.Component, beats: int = BEATS, logits: int = LOGITS_MOST) -> None:
        """`machine`: a `hwgen.top.Accelerator`; `beats`, `logits` as in `StreamWindow`."""
        self.machine = machine
        self.window = StreamWindow(len(machine.s_axis_tdata) // 8, beats, logits)
        self._memory = {name: member for name, member in machine.signature.members.items() if name.startswith("m_axi_")}
        super().__init__({**axi_lite("s_axil", WINDOW_ADDRESS_BITS), "irq": Out(1), **self._memory})

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        m.submodules.machine, m.submodules.window = machine, window = self.machine, self.window
        for name, member in axi_lite("s_axil", WINDOW_ADDRESS_BITS).items():
            outer, inner = getattr(self, name), getattr(window, name)
            m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)
        for name, member in self._memory.items():
            outer, inner = getattr(self, name), getattr(machine, name)
            m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)
        for name, member in axi_lite("s_axil", ADDRESS_BITS).items():
            outer, inner = getattr(window, name.replace("s_", "m_", 1)), getattr(machine, name)
            m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)
        for name in ("tdata", "tvalid", "tlast"):
            m.d.comb += [getattr(machine, f"s_axis_{name}").eq(getattr(window, f"m_axis_{name}")),
                         getattr(window, f"s_axis_{name}").eq(getattr(machine, f"m_axis_{name}"))]
        m.d.comb += [window.m_axis_tready.eq(machine.s_axis_tready), machine.m_axis_tready.eq(window.s_axis_tready),
                     self.irq.eq(machine.irq)]
        return m
