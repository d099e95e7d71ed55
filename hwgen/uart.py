"""A UART of 8 data bits, no parity, one stop bit: receiver and transmitter with a fixed divisor."""
from amaranth.hdl import Cat, Elaboratable, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

DATA_BITS = 8
DIVISOR_MIN = 4
"""Clock cycles of a bit, at least: the receiver samples in the middle."""


def divisor(clock_hz: float, baud: int) -> int:
    """Clock cycles of a bit at `baud` bits a second; ValueError when the nearest whole number is 2 % off or too small."""
    cycles = round(clock_hz / baud)
    if cycles < DIVISOR_MIN or abs(clock_hz / baud / cycles - 1) > 0.02:
        raise ValueError(f"baud {baud} is not within 2 % of {clock_hz / 1e6:g} MHz over an integer of at least {DIVISOR_MIN}: "
                         f"take one of {', '.join(str(round(clock_hz / n)) for n in (20, 40, 80))}")
    return cycles


def _check(cycles: int) -> None:
    if cycles < DIVISOR_MIN:
        raise ValueError(f"a UART bit needs at least {DIVISOR_MIN} clock cycles, not {cycles!r}")


class UartReceiver(wiring.Component):
    """`rx` (idle high) -> `data`, valid for the one cycle in which `valid` is high; there is no backpressure.

    A byte whose stop bit is 0 (noise, a break, a wrong baud rate) is dropped. ValueError when `divisor` is too small.
    """

    def __init__(self, divisor: int) -> None:
        _check(divisor)
        self.divisor = divisor
        super().__init__({"rx": In(1, init=1), "data": Out(DATA_BITS), "valid": Out(1)})

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        line, count, left = Signal(init=1), Signal(range(self.divisor + 1)), Signal(range(DATA_BITS + 3))
        m.submodules.line = FFSynchronizer(self.rx, line, init=1)
        m.d.sync += self.valid.eq(0)
        with m.If(left == 0):
            with m.If(~line):  # the start bit: its middle is half a bit away
                m.d.sync += [left.eq(DATA_BITS + 2), count.eq(self.divisor // 2 - 1)]
        with m.Elif(count != 0):
            m.d.sync += count.eq(count - 1)
        with m.Else():
            m.d.sync += [left.eq(left - 1), count.eq(self.divisor - 1)]
            with m.If(left == DATA_BITS + 2):
                with m.If(line):  # a glitch, no start bit
                    m.d.sync += left.eq(0)
            with m.Elif(left == 1):
                m.d.sync += self.valid.eq(line)
            with m.Else():
                m.d.sync += self.data.eq(Cat(self.data[1:], line))
        return m


class UartTransmitter(wiring.Component):
    """`data` with `valid` is taken in a cycle in which `ready` is high, and goes out on `tx` (idle high).

    ValueError when `divisor` is too small.
    """

    def __init__(self, divisor: int) -> None:
        _check(divisor)
        self.divisor = divisor
        super().__init__({"data": In(DATA_BITS), "valid": In(1), "ready": Out(1), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        bits, left, count = Signal(DATA_BITS + 1, init=-1), Signal(range(DATA_BITS + 3)), Signal(range(self.divisor))
        m.d.comb += self.ready.eq(left == 0)
        m.d.sync += self.tx.eq(bits[0] | (left == 0))
        with m.If(self.ready):
            with m.If(self.valid):
                m.d.sync += [bits.eq(Cat(0, self.data)), left.eq(DATA_BITS + 2), count.eq(self.divisor - 1)]
        with m.Elif(count != 0):
            m.d.sync += count.eq(count - 1)
        with m.Else():
            m.d.sync += [bits.eq(Cat(bits[1:], 1)), left.eq(left - 1), count.eq(self.divisor - 1)]
        return m
