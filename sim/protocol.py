"""Protocol assertions for the machine's AXI ports, as a monitor beside it: one sticky fault bit for each rule.

Rules of Arm's AXI and AXI-Stream specifications (IHI 0022, IHI 0051), by channel:

  withdrawn    VALID, once high, stays high until READY (A3.2.1; stream 2.2.1)
  changed      the payload stays as it is while VALID waits for READY (likewise)
  reset        VALID is low in the first cycle after reset (A3.1.2; stream 2.8.2)
  response     AXI4-Lite knows OKAY, SLVERR and DECERR, not EXOKAY (B1.1.1)
  early        a response without its request: B before its AW and its last W, R before its AR (A3.3.1)
  last         WLAST, or RLAST, on a beat that is not the burst's last, or not on it (A3.4.1)
  crosses      a burst that crosses a 4 KiB boundary (A3.4.1)
  burst        AWBURST, ARBURST: not INCR, the only kind that this machine sends
  size         AWSIZE, ARSIZE: not the bus width, the only one that it sends
  order        a W beat before the AW of its burst: legal in AXI4, but this machine never does it, and `last` relies on it
  many         more bursts under way than `memory_outstanding`

That VALID does not wait for READY is shown by a host that keeps READY low until it sees VALID (`sim.tb.tb_protocol`).
"""
from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hwgen.config import MachineConfig
from hwgen.csr import AXI_LITE
from hwgen.dma import axi_signature
from quantize.formats import LOGIT_BITS

MONITOR = "mst_protocol"
INCR, PAGE_BITS = 1, 12
LITE = {"aw": ("awaddr", "awprot"), "w": ("wdata", "wstrb"), "b": ("bresp",), "ar": ("araddr", "arprot"), "r": ("rdata", "rresp")}
FULL = {"aw": ("awid", "awaddr", "awlen", "awsize", "awburst", "awlock", "awcache", "awprot", "awqos"),
        "w": ("wdata", "wstrb", "wlast"), "b": ("bid", "bresp"),
        "ar": ("arid", "araddr", "arlen", "arsize", "arburst", "arlock", "arcache", "arprot", "arqos"),
        "r": ("rid", "rdata", "rresp", "rlast")}
STREAM = ("tdata", "tlast")


def rules_of(memory: bool) -> list[str]:
    """Names of the monitor's rules, "<channel>.<rule>", in the order of its bits, for a machine with or without `memory`."""
    channels = [*(f"s_axil_{name}" for name in LITE), "s_axis_t", "m_axis_t"]
    rules = [f"{channel}.{rule}" for channel in channels for rule in ("withdrawn", "changed", "reset")]
    rules += [f"s_axil_{channel}.{rule}" for channel in "br" for rule in ("response", "early")]
    if memory:
        rules += [f"m_axi_{name}.{rule}" for name in FULL for rule in ("withdrawn", "changed", "reset")]
        rules += [f"m_axi_{name}.{rule}" for name in ("aw", "ar") for rule in ("crosses", "burst", "size", "many")]
        rules += ["m_axi_w.last", "m_axi_w.order", "m_axi_b.early", "m_axi_r.last", "m_axi_r.early"]
    return rules


def broken_rules(fault: int, memory: bool) -> list[str]:
    """Names of the rules whose bits are set in `fault`."""
    return [name for bit, name in enumerate(rules_of(memory)) if fault >> bit & 1]


def check_protocol(dut: Any) -> None:
    """AssertionError that names every rule that the ports of the simulation top `dut` have broken so far."""
    broken = broken_rules(int(dut.protocol_fault.value), hasattr(dut, "m_axi_awvalid"))
    assert not broken, f"AXI rules broken: {', '.join(broken)} (sim/protocol.py)"


class ProtocolMonitor(wiring.Component):
    """Watches all AXI ports of a machine `m`: every port is an input, named as the machine's; `rst` is the machine's.

    `fault` [len(rules_of(...))] is sticky until reset.
    """

    def __init__(self, m: MachineConfig) -> None:
        self.m = m
        bus = 8 * m.bus_bytes
        ports = {name: member.shape for name, member in AXI_LITE.items()} | {
            "s_axis_tdata": bus, "s_axis_tvalid": 1, "s_axis_tready": 1, "s_axis_tlast": 1,
            "m_axis_tdata": LOGIT_BITS, "m_axis_tvalid": 1, "m_axis_tready": 1, "m_axis_tlast": 1}
        if m.memory_bits:
            ports |= {name: member.shape for name, member in axi_signature(m).items()}
        self.rules = rules_of(m.memory_bits > 0)
        super().__init__({**{name: In(shape) for name, shape in ports.items()}, "fault": Out(len(self.rules))})

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        self._m, self._found = m, dict[str, Value]()
        for name, payload in LITE.items():
            self._channel(f"s_axil_{name}", [f"s_axil_{part}" for part in payload])
        for name in ("s_axis_t", "m_axis_t"):
            self._channel(name, [f"{name[:-1]}{part}" for part in STREAM])
        self._lite()
        if self.m.memory_bits:
            for name, payload in FULL.items():
                self._channel(f"m_axi_{name}", [f"m_axi_{part}" for part in payload])
            self._full("aw", "w", "b")
            self._full("ar", "", "r")
        now = Signal(len(self.rules))
        m.d.comb += now.eq(Cat(self._found[name] for name in self.rules))
        m.d.sync += self.fault.eq(self.fault | now)
        return m

    def _taken(self, channel: str) -> Value:
        return getattr(self, f"{channel}valid") & getattr(self, f"{channel}ready")

    def _channel(self, channel: str, payload: Sequence[str]) -> None:
        """withdrawn, changed, reset. In the cycle after reset nothing may have been kept waiting."""
        valid, ready = getattr(self, f"{channel}valid"), getattr(self, f"{channel}ready")
        data = Cat(getattr(self, name) for name in payload)
        waited, before = Signal(name=f"{channel}_waited"), Signal(len(data), name=f"{channel}_before")
        fresh = Signal(name=f"{channel}_fresh", init=1)  # the first cycle after reset
        self._m.d.sync += [waited.eq(valid & ~ready), before.eq(data), fresh.eq(0)]
        self._found |= {f"{channel}.withdrawn": waited & ~valid, f"{channel}.changed": waited & valid & (data != before),
                        f"{channel}.reset": fresh & valid & ~ResetSignal()}

    def _lite(self) -> None:
        m = self._m
        addresses, words, reads = Signal(8), Signal(8), Signal(8)
        answered, read = self._taken("s_axil_b"), self._taken("s_axil_r")
        m.d.sync += [addresses.eq(addresses + self._taken("s_axil_aw") - answered),
                     words.eq(words + self._taken("s_axil_w") - answered),
                     reads.eq(reads + self._taken("s_axil_ar") - read)]
        self._found |= {
            "s_axil_b.early": self.s_axil_bvalid & ((addresses == 0) | (words == 0)),
            "s_axil_r.early": self.s_axil_rvalid & (reads == 0),
            "s_axil_b.response": self.s_axil_bvalid & (self.s_axil_bresp == 1),
            "s_axil_r.response": self.s_axil_rvalid & (self.s_axil_rresp == 1)}

    def _full(self, address: str, data: str, answer: str) -> None:
        """One direction: `address`, `data` (W or none) and `answer` (B or R) channel."""
        m, wide = self._m, (self.m.memory_bits // 8).bit_length() - 1
        port = f"m_axi_{address}"
        valid, start = getattr(self, f"{port}valid"), getattr(self, f"{port}addr")
        length, size, burst = (getattr(self, f"{port}{part}") for part in ("len", "size", "burst"))
        end = Signal(PAGE_BITS + 2, name=f"{address}_end")  # behind the last byte, from the page's start
        m.d.comb += end.eq((start[wide:PAGE_BITS] + length + 1) << wide)
        under_way = Signal(16, name=f"{address}_under_way")
        beats = f"m_axi_{data or answer}"
        last = getattr(self, f"{beats}last")
        ended = self._taken("m_axi_b") if data else self._taken("m_axi_r") & last
        m.d.sync += under_way.eq(under_way + self._taken(port) - ended)
        m.submodules[f"{address}_lengths"] = lengths = SyncFIFO(width=8, depth=4 * self.m.memory_outstanding)
        count = Signal(8, name=f"{address}_count")
        taken = self._taken(beats)
        m.d.comb += [lengths.w_data.eq(length), lengths.w_en.eq(self._taken(port)), lengths.r_en.eq(taken & last & lengths.r_rdy)]
        with m.If(taken):
            m.d.sync += count.eq(Mux(last, 0, count + 1))
        offered = getattr(self, f"{beats}valid")
        self._found |= {
            f"{port}.crosses": valid & (end > 1 << PAGE_BITS), f"{port}.burst": valid & (burst != INCR),
            f"{port}.size": valid & (size != wide), f"{port}.many": under_way > self.m.memory_outstanding,
            f"{beats}.last": offered & lengths.r_rdy & (last != (count == lengths.r_data))}
        if data:
            complete = Signal(16)  # bursts whose last W was taken and whose B was not
            m.d.sync += complete.eq(complete + (taken & last) - self._taken("m_axi_b"))
            self._found |= {f"{beats}.order": offered & ~lengths.r_rdy, "m_axi_b.early": self.m_axi_bvalid & (complete == 0)}
        else:
            self._found["m_axi_r.early"] = offered & ~lengths.r_rdy
