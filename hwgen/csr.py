"""Control and status registers on AXI4-Lite, made from the description in `hwgen.registers`."""
from collections.abc import Mapping

from amaranth.hdl import Cat, Const, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.config import MachineConfig
from hwgen.registers import ADDRESS_BITS, DATA_BITS, STEPS_BITS, TARGET_BITS, ErrorCode, Field, Register, address_map, constants

OKAY, SLVERR = 0, 2
"""AXI responses."""

AXI_LITE = {
    "s_axil_awaddr": In(ADDRESS_BITS), "s_axil_awprot": In(3), "s_axil_awvalid": In(1), "s_axil_awready": Out(1),
    "s_axil_wdata": In(DATA_BITS), "s_axil_wstrb": In(DATA_BITS // 8), "s_axil_wvalid": In(1), "s_axil_wready": Out(1),
    "s_axil_bresp": Out(2), "s_axil_bvalid": Out(1), "s_axil_bready": In(1),
    "s_axil_araddr": In(ADDRESS_BITS), "s_axil_arprot": In(3), "s_axil_arvalid": In(1), "s_axil_arready": Out(1),
    "s_axil_rdata": Out(DATA_BITS), "s_axil_rresp": Out(2), "s_axil_rvalid": Out(1), "s_axil_rready": In(1),
}
"""The AXI4-Lite slave port, named as Verilog tools expect it: the top takes these members over as they are."""


class Csr(wiring.Component):
    """AXI4-Lite slave: AW and W in any order, WSTRB honoured per byte, one write and one read at a time.

    Unknown addresses, and writes to read-only registers, get SLVERR and do nothing. The low two address bits are
    ignored. A write takes effect (and pulses come) one cycle after both its address and its data were taken; a read is
    answered two cycles after its address was taken.

    Ports to the machine:
      start, abort      out, pulses. `start` comes only while `busy` and `loading` are 0; else ErrorCode.BUSY is raised.
                        Nor with time steps that the machine does not have: BAD_STEPS.
      busy, loading     in, levels. STATUS.done is set by `done`, cleared by `start` and `abort`.
      done, loaded      in, pulses: a run ended; a load packet is in its memory.
      error             in, [8] an ErrorCode for one cycle, else 0; the first one is kept until the host clears it.
                        `failed` (out) is high while it is kept. An error of the same cycle as the clear is kept.
                        `failing` (out): the same from a register, low a cycle later.
      image_done        in, pulse: `image_index` (out [32]) counts up.
      load_address_next in [32], `load_address_update` in, pulse: the loader moves `load_address` (out [32]) on.
      program_start, images, mask_seed out [32]; mask_enable, mask_override out; mask_ratio out [8]; load_target out
                        [4] (a LoadTarget), as the host wrote them.
      memory_base       out [32], in 4 KiB, as the host wrote it.
      steps             out, time steps of an image, as the host wrote it (a stepwise machine: checked at `start`).
      input, output     in, levels: packets on the input stream, results on the result stream (STATUS).
      cycles, events, stalls in [64]; layer in [32]: counters, read as they are.
      irq               out, level: any enabled interrupt cause.
    """

    def __init__(self, m: MachineConfig, build_id: int) -> None:
        """RegisterError when a memory depth of `m` is still auto or `build_id` does not fit 32 bits."""
        self._constants = constants(m, build_id)
        super().__init__({
            **AXI_LITE,
            "irq": Out(1),
            "start": Out(1), "abort": Out(1), "busy": In(1), "loading": In(1),
            "input": In(1), "output": In(1), "done": In(1), "loaded": In(1),
            "error": In(8), "failed": Out(1), "failing": Out(1),
            "image_done": In(1), "image_index": Out(32),
            "load_target": Out(TARGET_BITS), "load_address": Out(32),
            "load_address_next": In(32), "load_address_update": In(1),
            "program_start": Out(32), "images": Out(32, init=1),
            "mask_seed": Out(32), "mask_enable": Out(1), "mask_override": Out(1), "mask_ratio": Out(8),
            "cycles": In(64), "events": In(64), "stalls": In(64), "layer": In(32), "memory_base": Out(32),
            "steps": Out(STEPS_BITS),
        })

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        m.submodules.bank = bank = _Bank(self._constants)
        for name in AXI_LITE:
            port, inner = getattr(self, name), getattr(bank, name)
            m.d.comb += inner.eq(port) if AXI_LITE[name].flow is In else port.eq(inner)
        written, hardware = bank.value, bank.hardware

        # what the host set
        m.d.comb += [
            self.program_start.eq(written["PROGRAM_START", "value"]), self.images.eq(written["IMAGES", "value"]),
            self.mask_seed.eq(written["MASK_SEED", "value"]), self.mask_enable.eq(written["MASK_CTRL", "enable"]),
            self.mask_override.eq(written["MASK_CTRL", "override"]), self.mask_ratio.eq(written["MASK_CTRL", "ratio"]),
            self.load_address.eq(written["LOAD_ADDRESS", "value"]),
            self.image_index.eq(written["IMAGE_INDEX", "value"]),
            self.load_target.eq(written["LOAD_TARGET", "target"]), self.steps.eq(written["STEPS", "value"]),
        ]

        # start, abort, errors
        refused, misled, error = Signal(), Signal(), Signal(8)
        most = self._constants["CAP_FIRING", "steps"]
        wrong_steps: Value = (self.steps == 0) | (self.steps > most) if most else Const(0, 1)
        asked = written["CTRL", "start"]
        m.d.comb += [
            refused.eq(asked & (self.busy | self.loading)), misled.eq(asked & ~refused & wrong_steps),
            self.start.eq(asked & ~refused & ~misled & ~self.abort),
            self.abort.eq(written["CTRL", "abort"]),
            error.eq(Mux(self.error != 0, self.error, Mux(refused, ErrorCode.BUSY, Mux(misled, ErrorCode.BAD_STEPS, 0)))),
            self.failed.eq(written["ERROR", "code"] != 0),
        ]
        m.d.sync += self.failing.eq((error != 0) | self.failed)
        done = Signal()
        with m.If(self.start | self.abort):
            m.d.sync += done.eq(0)
        with m.Elif(self.done):
            m.d.sync += done.eq(1)
        causes = Cat(written["IRQ_STATUS", name] for name in ("done", "error", "loaded"))
        enables = Cat(written["IRQ_ENABLE", name] for name in ("done", "error", "loaded"))
        m.d.comb += self.irq.eq((causes & enables).any())

        # what the host sees
        m.d.comb += [
            hardware["ERROR", "code"].eq(error), hardware["IRQ_STATUS", "done"].eq(self.done),
            hardware["IRQ_STATUS", "error"].eq(error != 0), hardware["IRQ_STATUS", "loaded"].eq(self.loaded),
            hardware["STATUS", "busy"].eq(self.busy), hardware["STATUS", "done"].eq(done),
            hardware["STATUS", "error"].eq(self.failed), hardware["STATUS", "loading"].eq(self.loading),
            hardware["STATUS", "input"].eq(self.input), hardware["STATUS", "output"].eq(self.output),
            hardware["IMAGE_INDEX", "value"].eq(self.image_index + 1), bank.update["IMAGE_INDEX"].eq(self.image_done),
            hardware["LOAD_ADDRESS", "value"].eq(self.load_address_next),
            bank.update["LOAD_ADDRESS"].eq(self.load_address_update),
            hardware["CYCLES_LO", "value"].eq(self.cycles[:32]), hardware["CYCLES_HI", "value"].eq(self.cycles[32:]),
            hardware["EVENTS_LO", "value"].eq(self.events[:32]), hardware["EVENTS_HI", "value"].eq(self.events[32:]),
            hardware["STALLS_LO", "value"].eq(self.stalls[:32]), hardware["STALLS_HI", "value"].eq(self.stalls[32:]),
            hardware["LAYER", "value"].eq(self.layer), self.memory_base.eq(written["MEMORY_BASE", "value"]),
        ]
        return m


class _Bank(wiring.Component):
    """The registers and their bus, without their meaning: `value` (what is held), `hardware` (what the machine says).

    Both are keyed (register, field). `hardware` of a w1c field sets it where it is 0, of a rwh field is taken where
    `update[register]` is high, of a ro field is what the host reads.
    """

    def __init__(self, constant: Mapping[tuple[str, str], int]) -> None:
        super().__init__(AXI_LITE)
        self._map = address_map()
        self.value: dict[tuple[str, str], Signal] = {}
        self.hardware: dict[tuple[str, str], Signal] = {}
        self.update: dict[str, Signal] = {}
        for register in self._map.values():
            for field in register.fields:
                key, name = (register.name, field.name), f"{register.name}_{field.name}".lower()
                reset = constant[key] if field.access == "const" else constant.get(key, field.reset)
                self.value[key] = Signal(field.width, name=name, init=reset)
                if field.access in ("ro", "rwh", "w1c"):
                    self.hardware[key] = Signal(field.width, name=f"{name}_hw")
                if field.access == "rwh":
                    self.update[register.name] = Signal(name=f"{name}_update")

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        write, address, data, strobe = self._write_channel(m)
        bits = Cat(bit.replicate(8) for bit in strobe)
        for register in self._map.values():
            hit = Signal(name=f"{register.name.lower()}_write")
            m.d.comb += hit.eq(write & (address[2:] == register.offset >> 2))
            for field in register.fields:
                self._field(m, register, field, hit, data, bits)
        self._read_channel(m)
        return m

    def _field(self, m: Module, register: Register, field: Field, hit: Signal, data: Signal, bits: Value) -> None:
        key = register.name, field.name
        value, part = self.value[key], slice(field.low, field.low + field.width)
        mask = bits[part]
        merged = (value & ~mask) | (data[part] & mask)
        if field.access == "rw":
            with m.If(hit):
                m.d.sync += value.eq(merged)
        elif field.access == "rwh":
            with m.If(hit):
                m.d.sync += value.eq(merged)
            with m.Elif(self.update[register.name]):
                m.d.sync += value.eq(self.hardware[key])
        elif field.access == "pulse":
            m.d.sync += value.eq(Mux(hit, data[part] & mask, 0))
        elif field.access == "w1c":
            clear = hit & (data[part] & mask).any()
            with m.If(clear | (value == 0)):
                m.d.sync += value.eq(self.hardware[key])

    def _write_channel(self, m: Module) -> tuple[Signal, Signal, Signal, Signal]:
        address, data, strobe = Signal(ADDRESS_BITS), Signal(DATA_BITS), Signal(DATA_BITS // 8)
        have_address, have_data, write = Signal(), Signal(), Signal()
        known = Signal()
        with m.Switch(address[2:]):
            for register in self._map.values():
                if register.writable:
                    with m.Case(register.offset >> 2):
                        m.d.comb += known.eq(1)
        m.d.comb += [
            self.s_axil_awready.eq(~have_address), self.s_axil_wready.eq(~have_data),
            write.eq(have_address & have_data & ~self.s_axil_bvalid),
        ]
        with m.If(self.s_axil_awvalid & self.s_axil_awready):
            m.d.sync += [have_address.eq(1), address.eq(self.s_axil_awaddr)]
        with m.If(self.s_axil_wvalid & self.s_axil_wready):
            m.d.sync += [have_data.eq(1), data.eq(self.s_axil_wdata), strobe.eq(self.s_axil_wstrb)]
        with m.If(write):
            m.d.sync += [have_address.eq(0), have_data.eq(0), self.s_axil_bvalid.eq(1),
                         self.s_axil_bresp.eq(Mux(known, OKAY, SLVERR))]
        with m.Elif(self.s_axil_bready):
            m.d.sync += self.s_axil_bvalid.eq(0)
        return write, address, data, strobe

    def _read_channel(self, m: Module) -> None:
        address, asked, have = Signal(ADDRESS_BITS), Signal(), Signal()
        m.d.comb += [self.s_axil_arready.eq(~asked), have.eq(asked & ~self.s_axil_rvalid)]
        with m.If(self.s_axil_arvalid & self.s_axil_arready):
            m.d.sync += [asked.eq(1), address.eq(self.s_axil_araddr)]
        with m.If(self.s_axil_rvalid & self.s_axil_rready):
            m.d.sync += self.s_axil_rvalid.eq(0)
        followers = {register.latched_by: register for register in self._map.values() if register.latched_by}
        frozen = {register.name: Signal(DATA_BITS, name=f"{register.name}_frozen".lower())
                  for register in followers.values()}
        with m.If(have):
            m.d.sync += [asked.eq(0), self.s_axil_rvalid.eq(1), self.s_axil_rdata.eq(0), self.s_axil_rresp.eq(SLVERR)]
            with m.Switch(address[2:]):
                for register in self._map.values():
                    word = frozen.get(register.name, self._word(register))
                    with m.Case(register.offset >> 2):
                        m.d.sync += [self.s_axil_rdata.eq(word), self.s_axil_rresp.eq(OKAY)]
                        if register.name in followers:
                            late = followers[register.name]
                            m.d.sync += frozen[late.name].eq(self._word(late))

    def _word(self, register: Register) -> Value:
        """What a read of `register` gives."""
        word: list[Value] = []
        for field in sorted(register.fields, key=lambda entry: entry.low):
            gap = field.low - sum(len(part) for part in word)
            source = self.hardware if field.access == "ro" else self.value
            word += [Const(0, gap), source[register.name, field.name]]
        return Cat(word)
