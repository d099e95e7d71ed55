"""A board's machine: the accelerator behind the UART bridge, two wires and a few lamps."""
from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Elaboratable, Module, Mux, ResetSignal, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.bridge import AXI_LITE_MASTER, Bridge
from hwgen.config import MachineConfig
from hwgen.shapes import Images
from hwgen.top import Accelerator
from hwgen.uart import UartReceiver, UartTransmitter

UART_TOP = "mst_uart_machine"
CLASS_BITS = 4


class UartMachine(wiring.Component):
    """`rx`, `tx`: the UART, `divisor` clock cycles a bit. `class_index` (its low CLASS_BITS bits): the largest logit's index (the
    first of equal ones) of the last result packet; `valid`: there has been one. `busy`: a run is under way. `error`: the machine
    holds an error, or the bridge refused the last frame.

    ValueError when `m` has external memory (this board has none) or `divisor` is too small.
    """

    def __init__(self, m: MachineConfig, build_id: int, divisor: int, images: Images | None = None) -> None:
        if m.memory_bits:
            raise ValueError(f"memory_bits is {m.memory_bits}: a machine behind a UART has no external memory; set it to 0")
        self.accelerator, self.bridge = Accelerator(m, build_id, images), Bridge(m.bus_bytes)
        self.divisor = divisor
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "class_index": Out(CLASS_BITS), "valid": Out(1),
                          "busy": Out(1), "error": Out(1)})

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        m.submodules.bridge = bridge = self.bridge
        machine = self.accelerator
        # a domain of its own, so that RESET reaches every register of the machine
        reset = Signal(init=1)
        m.d.sync += reset.eq(bridge.machine_reset)  # 1 while this domain itself is reset; a register: it goes everywhere
        m.domains.machine = ClockDomain("machine", local=True)
        m.submodules.machine = DomainRenamer("machine")(machine)
        m.d.comb += [
            ClockSignal("machine").eq(ClockSignal()), ResetSignal("machine").eq(reset),
            receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx),
            bridge.rx_data.eq(receiver.data), bridge.rx_valid.eq(receiver.valid),
            transmitter.data.eq(bridge.tx_data), transmitter.valid.eq(bridge.tx_valid), bridge.tx_ready.eq(transmitter.ready),
            self.busy.eq(machine.busy), self.error.eq(machine.failed | bridge.refused),
        ]
        for name, member in AXI_LITE_MASTER.items():
            ours, theirs = getattr(bridge, name), getattr(machine, name.replace("m_axil", "s_axil"))
            m.d.comb += theirs.eq(ours) if member.flow is Out else ours.eq(theirs)
        for prefix, source, sink in (("s_axis", bridge, machine), ("m_axis", machine, bridge)):
            for part in ("tdata", "tvalid", "tlast"):
                m.d.comb += getattr(sink, f"{prefix}_{part}").eq(getattr(source, f"{prefix}_{part}"))
            m.d.comb += getattr(source, f"{prefix}_tready").eq(getattr(sink, f"{prefix}_tready"))

        # the class, as the logits pass
        logit, best = machine.m_axis_tdata.as_signed(), Signal(signed(32))
        index, best_index, fresh = Signal(CLASS_BITS), Signal(CLASS_BITS), Signal(init=1)
        better = Signal()
        m.d.comb += better.eq(fresh | (logit > best))
        with m.If(machine.m_axis_tvalid & machine.m_axis_tready):
            m.d.sync += [index.eq(index + 1), fresh.eq(0)]
            with m.If(better):
                m.d.sync += [best.eq(logit), best_index.eq(index)]
            with m.If(machine.m_axis_tlast):
                m.d.sync += [index.eq(0), fresh.eq(1)]
                m.d.sync += [self.class_index.eq(Mux(better, index, best_index)), self.valid.eq(1)]
        return m
