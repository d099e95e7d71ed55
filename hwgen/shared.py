"""A scratchpad that transfers share with the computing units: they take the cycles that the units leave."""
from amaranth.hdl import Elaboratable, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.memory import Scratchpad, address_bits, read_signature, write_signature


class SharedScratchpad(wiring.Component):
    """`read`, `write`: as `hwgen.memory.Scratchpad`'s, never refused; the data of the last `read` stays, whatever happens.

    `transfer_read`, `transfer_write`: done in cycles in which `read_grant`, `write_grant` is high; read data comes in the
    next cycle only. ValueError on a bad depth or width.
    """

    def __init__(self, *, width: int, depth: int) -> None:
        self.pad = Scratchpad(width=width, depth=depth)
        self.width, self.depth = width, depth
        read, write = (signature(address_bits(depth), width) for signature in (read_signature, write_signature))
        super().__init__({"read": In(read), "write": In(write), "transfer_read": In(read), "transfer_write": In(write),
                          "read_grant": Out(1), "write_grant": Out(1)})

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        m.submodules.pad = pad = self.pad
        fresh, held = Signal(), Signal(self.width)
        m.d.sync += fresh.eq(self.read.en)
        with m.If(fresh):
            m.d.sync += held.eq(pad.read.data)
        m.d.comb += [
            self.read_grant.eq(~self.read.en), self.write_grant.eq(~self.write.en),
            pad.read.en.eq(self.read.en | self.transfer_read.en),
            pad.read.address.eq(Mux(self.read.en, self.read.address, self.transfer_read.address)),
            self.read.data.eq(Mux(fresh, pad.read.data, held)), self.transfer_read.data.eq(pad.read.data),
            pad.write.en.eq(self.write.en | self.transfer_write.en),
            pad.write.address.eq(Mux(self.write.en, self.write.address, self.transfer_write.address)),
            pad.write.data.eq(Mux(self.write.en, self.write.data, self.transfer_write.data)),
        ]
        return m
