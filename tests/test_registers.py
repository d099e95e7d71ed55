"""The register description: it is well formed, refuses what is not, and knows every error and target."""
import asyncio
import re
from dataclasses import replace

import numpy as np
import pytest

from hwgen.config import MachineConfig
from hwgen.registers import (
    ACCESS,
    ERROR_DOC,
    MAGIC,
    REGISTERS,
    TARGET_DOC,
    VERSION,
    ErrorCode,
    Field,
    LoadTarget,
    Register,
    RegisterError,
    address_map,
    constants,
)
from sim.host import Host, HostError, MachineError

SIZED = MachineConfig(lanes=16, weight_rows=9, spike_words=8, stream_words=7, param_words=6, rom_words=5, descriptors=4)
MAP = address_map()


def test_map_is_whole() -> None:
    assert list(MAP) == [register.name for register in REGISTERS], "in address order"
    for register in REGISTERS:
        assert register.doc and all(field.doc and field.access in ACCESS for field in register.fields), register.name
    assert MAGIC.to_bytes(4, "big") == b"MST1"


def test_every_code_has_a_meaning() -> None:
    assert set(ERROR_DOC) == set(ErrorCode) and set(TARGET_DOC) == set(LoadTarget)
    assert max(ErrorCode) < 1 << MAP["ERROR"].field("code").width
    assert max(LoadTarget) < 1 << MAP["LOAD_TARGET"].field("target").width


def test_constants() -> None:
    values = constants(SIZED, 0xDEADBEEF)
    wanted = {(register.name, field.name) for register in REGISTERS for field in register.fields
              if field.access == "const"}
    assert set(values) == wanted | {("STEPS", "value")}  # whose reset depends on the machine
    assert values["STEPS", "value"] == values["CAP_FIRING", "steps"] == 0
    stepwise = constants(replace(SIZED, planes=1, firing="stepwise", steps=9, level_bits=3), 0)
    assert stepwise["STEPS", "value"] == stepwise["CAP_FIRING", "steps"] == 9 and stepwise["CAP_FIRING", "level_bits"] == 3
    assert values["CAP_ARRAY", "lanes"] == 16 and values["CAP_WEIGHT_ROWS", "value"] == 9
    assert values["BUILD_ID", "value"] == 0xDEADBEEF
    widest = replace(SIZED, lanes=256, fire_lanes=256, head_lanes=128, window_tokens=256)
    for (name, field), value in constants(widest, 0).items():
        MAP[name].field(field).put(value)


def test_field_values() -> None:
    field = Field("ratio", 8, 8, "rw", "doc")
    assert field.mask == 0xFF00 and field.put(3) == 0x300 and field.get(0xABCD) == 0xAB
    with pytest.raises(RegisterError, match="ratio: 256 does not fit 8 bits"):
        field.put(256)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Field("f", 1, 0, "r", "d"), "unknown access 'r'; known: const, ro"),
    (lambda: Field("f", 9, 24, "ro", "d"), "9 bits from bit 24 do not fit 32 bits"),
    (lambda: Field("f", 2, 0, "rw", "d", reset=4), "reset 4 does not fit 2 bits"),
    (lambda: Register("R", 2, (), "d"), "offset 0x2 is not a word address below 0x2000"),
    (lambda: Register("R", 0x2000, (), "d"), "offset 0x2000 is not a word address"),
    (lambda: Register("R", 0, (Field("a", 8, 0, "ro", "d"), Field("b", 8, 7, "ro", "d")), "d"), "b overlaps"),
    (lambda: MAP["CTRL"].field("go"), "CTRL has no field 'go'; known: start, abort"),
    (lambda: address_map((Register("A", 0, (), "d"), Register("A", 4, (), "d"))), "two registers are called A"),
    (lambda: address_map((Register("A", 0, (), "d"), Register("B", 0, (), "d"))), "A and B share offset 0x0"),
    (lambda: address_map((Register("A", 0, (), "d", latched_by="C"),)), "latched by 'C', which does not exist"),
    (lambda: constants(replace(SIZED, rom_words=0), 0), r"rom_words is 0 \(auto\): size the machine"),
    (lambda: constants(SIZED, 1 << 32), "build_id 0x100000000 does not fit 32 bits"),
])
def test_refused(make: object, message: str) -> None:
    with pytest.raises(RegisterError, match=message):
        make()  # type: ignore[operator]


class MockBus:
    """Registers as a dictionary of words; no streams."""

    def __init__(self, **words: int) -> None:
        self.words = {"ID": MAGIC, "VERSION": VERSION, "CAP_FORMAT": MAP["CAP_FORMAT"].field("bus_bytes").put(8)}
        self.words |= words
        self.sent: list[bytes] = []
        self.results: list[list[int]] = []
        self.names = {register.offset: register.name for register in REGISTERS}

    async def read32(self, address: int) -> int:
        return self.words.get(self.names[address], 0)

    async def write32(self, address: int, value: int) -> None:
        name = self.names[address]
        if name in ("IRQ_STATUS", "ERROR"):
            value = self.words.get(name, 0) & ~value
        self.words[name] = value

    async def send(self, packet: bytes) -> None:
        self.sent.append(packet)
        if self.words.get("LOAD_TARGET"):
            self.words["IRQ_STATUS"] = MAP["IRQ_STATUS"].field("loaded").mask

    async def receive(self) -> list[int] | None:
        return self.results.pop(0) if self.results else None

    async def pause(self) -> None:
        pass


@pytest.mark.parametrize(("words", "message"), [
    ({"ID": 0}, "ID is 0x00000000, not 0x4d535431"),
    ({"VERSION": 99}, "register map version 99, this driver knows 4"),
])
def test_probe_refuses(words: dict[str, int], message: str) -> None:
    with pytest.raises(HostError, match=message):
        asyncio.run(Host(MockBus(**words)).probe())


def test_driver_names_the_machines_error() -> None:
    bus = MockBus(ERROR=ErrorCode.STREAM_LONG, LAYER=3)
    meaning = ERROR_DOC[ErrorCode.STREAM_LONG]
    with pytest.raises(MachineError, match=re.escape(f"error 3 STREAM_LONG at descriptor 3: {meaning}")):
        asyncio.run(Host(bus).result())
    bus.words["ERROR"] = 200
    with pytest.raises(MachineError, match="error 200 UNKNOWN"):
        asyncio.run(Host(bus).check())


def test_driver_gives_up() -> None:
    async def run() -> None:
        host = Host(MockBus(), limit=3)
        await host.probe()
        await host.result()

    with pytest.raises(HostError, match="result: no answer after 3 pauses; STATUS is 0x0"):
        asyncio.run(run())
    with pytest.raises(HostError, match="run: no answer after 3 pauses"):
        asyncio.run(Host(MockBus(), limit=3).finish())


def test_driver_needs_probe() -> None:
    with pytest.raises(HostError, match="call probe"):
        asyncio.run(Host(MockBus()).load(LoadTarget.ROM, [1], 24))


def test_driver_loads_and_classifies() -> None:
    bus = MockBus()

    async def run() -> np.ndarray:
        host = Host(bus)
        assert (await host.probe()).fields["CAP_FORMAT.bus_bytes"] == 8
        await host.load(LoadTarget.ROM, [1, 2], 24, address=7)
        assert bus.words["LOAD_ADDRESS"] == 7 and bus.words["LOAD_TARGET"] == LoadTarget.NONE
        await host.set_mask(5, ratio=192)
        assert bus.words["MASK_CTRL"] == 192 << 8 | 3 and bus.words["MASK_SEED"] == 5
        bus.results = [[1, 0xFFFFFFFF], [3, 4]]
        await host.start(1)
        bus.words["IRQ_STATUS"] = 0

        async def done(address: int, value: int) -> None:
            await MockBus.write32(bus, address, value)
            if address == MAP["CTRL"].offset:
                bus.words["IRQ_STATUS"] = MAP["IRQ_STATUS"].field("done").mask

        bus.write32 = done  # type: ignore[method-assign]
        return await host.classify(np.zeros((2, 2, 2, 3), np.uint8), 2, first_image=9)

    logits = asyncio.run(run())
    assert logits.dtype == np.int32 and logits.tolist() == [[1, -1], [3, 4]]
    assert bus.words["IMAGES"] == 2 and bus.words["IMAGE_INDEX"] == 9
    assert [len(packet) for packet in bus.sent] == [16, 16, 16]
