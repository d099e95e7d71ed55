"""Bench of the input stream, on `sim.tb.host_dut`: loads and images, whole and broken, against plain models.

Environment: HOST_DUT names the configuration; LOADER_WRONG=1 spoils one expected spike word, LOADER_LATE=1 expects one
cycle more, LOADER_LOAD=1 spoils one expected loaded word, LOADER_KEPT=1 sends a packet less to be dropped: each must turn the
bench red.
"""
import os
import random
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import FallingEdge, ReadOnly, RisingEdge
from cocotb.utils import get_sim_time
from cocotbext.axi import AxiStreamBus, AxiStreamFrame, AxiStreamSource

from hwgen.config import MachineConfig
from hwgen.loader import beats_per_word, image_cycles, pixel_groups
from hwgen.registers import ErrorCode, LoadTarget
from sim.cocotb_bus import StreamSource
from sim.host import word_packet
from sim.scoreboard import Scoreboard
from sim.streams import PERIOD_NS, cycles
from sim.tb.host_bench import Csrs, begin, pauses, pulse
from sim.tb.host_dut import CONFIGS, SPIKES, targets

LIMIT = 5000


def config() -> MachineConfig:
    return CONFIGS[os.environ["HOST_DUT"]]


def flag(name: str) -> bool:
    return os.environ.get(name) == "1"


class Faults:
    """Collects the loader's error pulses, and counts `loaded`."""

    def __init__(self, dut: Any) -> None:
        self.dut, self.codes, self.loaded = dut, list[int](), 0
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        while True:
            await FallingEdge(self.dut.clk)
            self.loaded += int(self.dut.loaded.value)
            if int(self.dut.fault.value):
                self.codes.append(int(self.dut.fault.value))


async def look(dut: Any, select: int, address: int) -> int:
    """One word of a memory."""
    dut.look_select.value, dut.look_address.value = select, address
    await cycles(dut.clk, 2)
    await ReadOnly()
    word = int(dut.look_data.value)
    await RisingEdge(dut.clk)
    return word


async def check_memory(dut: Any, select: int, expected: dict[int, int]) -> None:
    """Every word of `expected`, by address."""
    board = Scoreboard(expected.items(), label=lambda index: f"memory {select}")
    for address in expected:
        board.check((address, await look(dut, select, address)))
    board.finish()


async def until(dut: Any, name: str) -> None:
    """Wait for a cycle in which an output is high; returns in that cycle, at the falling edge."""
    for _ in range(LIMIT):
        await FallingEdge(dut.clk)
        if int(getattr(dut, name).value):
            return
    raise AssertionError(f"{name} did not come in {LIMIT} cycles")


class Feed:
    """A source of packets: our own, always valid, or with `idle` cocotbext-axi's, which pauses."""

    def __init__(self, dut: Any, idle: int) -> None:
        self.bytes = config().bus_bytes
        self._own = StreamSource(dut, "s_axis", dut.clk) if idle == 0 else None
        if self._own is None:
            self._other = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), dut.clk, dut.rst)
            self._other.log.setLevel("WARNING")
            self._other.set_pause_generator(pauses(idle, "feed"))

    def put(self, packet: bytes) -> None:
        if self._own is not None:
            self._own.put(packet)
        else:
            self._other.send_nowait(AxiStreamFrame(packet))


def describe(dut: Any, base: int, tokens: int, channels: int, more: int = 0) -> None:
    """Drive the descriptor of an image, or with `more` of a part of one."""
    words = -(-channels // config().lanes)
    groups = pixel_groups(config().planes)
    for name, value in {"base": base, "tokens": tokens, "channels": channels, "groups": groups, "words": words,
                        "token_words": groups * words, "more": more}.items():
        getattr(dut, f"desc_{name}").value = value


def packet_of(pixels: np.ndarray) -> bytes:
    """Pixels [tokens, channels] as a packet; the filling is not 0, since the machine must ignore it."""
    fill = -pixels.shape[1] % config().bus_bytes
    return np.pad(pixels, ((0, 0), (0, fill)), constant_values=0xA5).tobytes()


def spike_words(pixels: np.ndarray, base: int) -> dict[int, int]:
    """The model: address -> spike word."""
    m, groups = config(), pixel_groups(config().planes)
    tokens, channels = pixels.shape
    words = -(-channels // m.lanes)
    expected = {}
    for token in range(tokens):
        for word in range(words):
            for group in range(groups):
                value = 0
                for lane in range(min(m.lanes, channels - word * m.lanes)):
                    pixel = int(pixels[token, word * m.lanes + lane])
                    value |= (pixel >> group * m.planes & m.levels) << lane * m.planes
                expected[base + token * groups * words + group * words + word] = value
    if flag("LOADER_WRONG"):
        expected[base + 1] ^= 1
    return expected


def random_pixels(generator: random.Random, tokens: int, channels: int) -> np.ndarray:
    return np.frombuffer(generator.randbytes(tokens * channels), dtype=np.uint8).reshape(tokens, channels)


def shapes() -> list[tuple[int, int]]:
    """(tokens, channels) that fit the scratchpad: less than a beat, whole beats, words and a rest."""
    m = config()
    room = m.spike_words // pixel_groups(m.planes)
    wanted = [(5, 1), (4, m.bus_bytes), (6, 12), (3, m.lanes), (3, m.lanes + 1), (2, 2 * m.lanes + 3), (1, 3)]
    return [(tokens, channels) for tokens, channels in wanted if tokens * -(-channels // m.lanes) <= room]


async def run_image(dut: Any, feed: Feed, pixels: np.ndarray, base: int, early: bool) -> int:
    """Send and start an image, wait for its end; returns the cycles from start to done, both counted."""
    describe(dut, base, *pixels.shape)
    feed.put(packet_of(pixels))
    await cycles(dut.clk, 8 if early else 1)
    assert not early or int(dut.s_axis_tready.value) == 0, "an image was taken before start"
    dut.go.value = 1
    await FallingEdge(dut.clk)
    begun = get_sim_time("ns")
    await RisingEdge(dut.clk)
    dut.go.value = 0
    await until(dut, "image_finished")
    return round((get_sim_time("ns") - begun) / PERIOD_NS) + 1


@cocotb.test()
@cocotb.parametrize(idle=[0, 3])
async def whole_images(dut: Any, idle: int) -> None:
    """Images of every shape land where they belong, in the predicted cycles when the stream never pauses."""
    csrs = await begin(dut)
    feed, faults = Feed(dut, idle), Faults(dut)
    dut.machine_busy.value = 1
    generator = random.Random(f"images {idle}")
    for tokens, channels in shapes():
        pixels = random_pixels(generator, tokens, channels)
        base = generator.randint(0, 5)
        took = await run_image(dut, feed, pixels, base, early=True)
        await check_memory(dut, SPIKES, spike_words(pixels, base))
        if idle == 0:
            want = image_cycles(config(), tokens, channels) + flag("LOADER_LATE")
            assert took == want, f"{tokens} tokens of {channels} channels took {took} cycles, predicted {want}"
    assert faults.codes == [] and await csrs.read("ERROR") == 0


@cocotb.test()
@cocotb.parametrize(idle=[0, 3])
async def images_in_parts(dut: Any, idle: int) -> None:
    """One packet for several descriptors: each takes its tokens, and an early or a late end is still reported."""
    await begin(dut)
    feed, faults = Feed(dut, idle), Faults(dut)
    dut.machine_busy.value = 1
    generator = random.Random(f"parts {idle}")
    for sent, code in ((6, ErrorCode.NONE), (4, ErrorCode.STREAM_SHORT), (7, ErrorCode.STREAM_LONG), (6, ErrorCode.NONE)):
        pixels = random_pixels(generator, sent, config().lanes)
        feed.put(packet_of(pixels))
        for first in (0, 2, 4):
            describe(dut, 1, 2, config().lanes, more=int(first < 4 and not flag("LOADER_WHOLE")))
            await pulse(dut, "go")
            await until(dut, "fault" if code and first + 2 >= min(sent, 6) else "image_finished")
            if code and first + 2 >= min(sent, 6):
                break
            await check_memory(dut, SPIKES, spike_words(pixels[first:first + 2], 1))
        await cycles(dut.clk, 60)
        assert faults.codes == ([code] if code else []), f"{sent} tokens: {faults.codes}"
        faults.codes.clear()


@cocotb.test()
@cocotb.parametrize(idle=[0, 3])
async def broken_images(dut: Any, idle: int) -> None:
    """Short and long packets are reported and dropped; the image behind them is whole. So it is after an abort."""
    csrs = await begin(dut)
    feed, faults = Feed(dut, idle), Faults(dut)
    dut.machine_busy.value = 1
    generator = random.Random(f"broken {idle}")
    size = config().bus_bytes
    cases = (("short", ErrorCode.STREAM_SHORT), ("one", ErrorCode.STREAM_SHORT), ("long", ErrorCode.STREAM_LONG),
             ("drained", ErrorCode.STREAM_LONG), ("abort", ErrorCode.NONE), ("abort waiting", ErrorCode.NONE))
    for case, code in cases:
        pixels, good = (random_pixels(generator, 4, config().lanes) for _ in range(2))
        whole = packet_of(pixels)
        describe(dut, 2, *pixels.shape)
        sent = {"short": whole[:-size], "one": whole[:size], "long": whole + bytes(3 * size),
                "drained": whole + bytes(40 * size)}.get(case, whole)
        feed.put(sent)
        if case != "abort waiting":
            await pulse(dut, "go")
        if code:
            await until(dut, "fault")
            await cycles(dut.clk, 1 if case == "drained" else 60)
        else:
            await cycles(dut.clk, 6)
            await csrs.write("CTRL", 2)  # in the middle of the packet, or before its first beat
            await cycles(dut.clk, 60)
        if case == "abort waiting":  # nothing was taken: the packet is the next image
            dut.go.value = 1
            await RisingEdge(dut.clk)
            dut.go.value = 0
            await until(dut, "image_finished")
            await check_memory(dut, SPIKES, spike_words(pixels, 2))
        await run_image(dut, feed, good, 3, early=False)
        await check_memory(dut, SPIKES, spike_words(good, 3))
        assert faults.codes == ([code] if code else []), f"{case}: {faults.codes}"
        faults.codes.clear()


async def load(dut: Any, csrs: Csrs, feed: Feed, target: int, address: int, packet: bytes) -> None:
    """One load packet; returns some cycles after its last beat."""
    await csrs.write("LOAD_ADDRESS", address)
    await csrs.write("LOAD_TARGET", target)
    feed.put(packet)
    await cycles(dut.clk, 4)
    for _ in range(LIMIT):
        await cycles(dut.clk, 4)
        if not int(dut.s_axis_tvalid.value) and not int(dut.loading.value):
            break
    await cycles(dut.clk, 12)


@cocotb.test()
@cocotb.parametrize(idle=[0, 3])
async def loads(dut: Any, idle: int) -> None:
    """Each memory takes packets anywhere in it, up to its last word; LOAD_ADDRESS follows."""
    csrs = await begin(dut)
    feed, faults = Feed(dut, idle), Faults(dut)
    generator = random.Random(f"loads {idle}")
    packets = 0
    for target, (width, depth) in targets(config()).items():
        expected: dict[int, int] = {}
        first = generator.randrange(depth // 2)
        middle = generator.randrange(first + 1, depth)
        for start, stop in ((first, middle), (middle, depth)):
            words = [generator.getrandbits(width) for _ in range(start, stop)]
            expected |= dict(enumerate(words, start))
            await load(dut, csrs, feed, target, start, word_packet(words, width, config().bus_bytes))
            packets += 1
            assert await csrs.read("LOAD_ADDRESS") == stop, target.name
        if flag("LOADER_LOAD"):
            expected[middle] ^= 1
        await check_memory(dut, target, expected)
    assert faults.codes == [] and faults.loaded == packets
    assert await csrs.read("IRQ_STATUS") == 0b100


@cocotb.test()
async def broken_loads(dut: Any) -> None:
    """A packet that ends inside a word, goes past the memory or has no memory is reported; whole words stay."""
    csrs = await begin(dut)
    m = config()
    feed, faults = Feed(dut, 0), Faults(dut)
    generator = random.Random("broken loads")
    width, depth = targets(m)[LoadTarget.PARAMS]
    size = beats_per_word(m.bus_bytes, width) * m.bus_bytes
    words = [generator.getrandbits(width) for _ in range(4)]
    whole = word_packet(words, width, m.bus_bytes)
    for packet, address, target, code, kept in (
            (whole[:3 * size - m.bus_bytes], 5, LoadTarget.PARAMS, ErrorCode.STREAM_SHORT, 2),
            (whole, depth - 3, LoadTarget.PARAMS, ErrorCode.LOAD_RANGE, 3),
            (whole, 1 << 31, LoadTarget.PARAMS, ErrorCode.LOAD_RANGE, 0),
            (whole, 0, 7, ErrorCode.LOAD_TARGET, 0),
            (whole[:m.bus_bytes], 0, 7, ErrorCode.LOAD_TARGET, 0)):
        await load(dut, csrs, feed, target, address, packet)
        assert faults.codes == [code] and await csrs.read("ERROR") == code, f"{faults.codes}, expected {code!r}"
        assert faults.loaded == 0 and await csrs.read("LOAD_ADDRESS") == address
        await check_memory(dut, LoadTarget.PARAMS, {address + index: words[index] for index in range(kept)})
        faults.codes.clear()
        await csrs.write("ERROR", 0xFF)
    await csrs.write("LOAD_TARGET", LoadTarget.NONE)
    feed.put(whole)  # no target: it waits until there is one
    await cycles(dut.clk, 20)
    assert faults.codes == [] and faults.loaded == 0 and int(dut.s_axis_tready.value) == 0
    await load(dut, csrs, feed, LoadTarget.PARAMS, 3, whole)
    assert faults.codes == [] and faults.loaded == 2, "a load works after faults"
    await check_memory(dut, LoadTarget.PARAMS, {7 + index: word for index, word in enumerate(words)})


@cocotb.test()
async def start_while_loading(dut: Any) -> None:
    """A start in the middle of a load packet is refused; the load ends well. An abort drops the rest of the packet."""
    csrs = await begin(dut)
    m = config()
    faults = Faults(dut)
    width, _ = targets(m)[LoadTarget.ROM]
    packet = word_packet([3, 1, 4, 1, 5], width, m.bus_bytes)
    await csrs.write("LOAD_TARGET", LoadTarget.ROM)
    dut.s_axis_tvalid.value, dut.s_axis_tlast.value, dut.s_axis_tdata.value = 1, 0, 9
    await cycles(dut.clk, 3)
    dut.s_axis_tvalid.value = 0
    await csrs.write("CTRL", 1)
    assert await csrs.read("ERROR") == ErrorCode.BUSY and int(dut.loading.value) == 1
    await csrs.write("CTRL", 2)
    assert await csrs.read("STATUS") & 8 == 0, "loading after an abort"
    feed = Feed(dut, 0)
    feed.put(packet)  # its first beats end the aborted packet
    await cycles(dut.clk, 20)
    assert faults.loaded == 0
    await load(dut, csrs, feed, LoadTarget.ROM, 0, packet)
    assert faults.loaded == 1
    await check_memory(dut, LoadTarget.ROM, dict(enumerate([3, 1, 4, 1, 5])))


@cocotb.test()
async def discarded_packets(dut: Any) -> None:
    """Packets that wait for an image are withdrawn one by one, whatever their length; STATUS.input tells when all are gone."""
    csrs = await begin(dut)
    m = config()
    faults, feed = Faults(dut), Feed(dut, 0)
    waits = 1 << 4  # STATUS.input
    sizes = (1, 2, 7, 100) if not flag("LOADER_KEPT") else (1, 2, 7)
    for size in sizes:
        feed.put(bytes(size * m.bus_bytes))
    await cycles(dut.clk, 5)
    assert await csrs.read("STATUS") == waits, "a packet waits"
    await csrs.write("LOAD_ADDRESS", 3)
    await csrs.write("LOAD_TARGET", LoadTarget.DISCARD)
    while await csrs.read("STATUS") & waits:
        pass
    await csrs.write("LOAD_TARGET", LoadTarget.NONE)
    assert faults.codes == [] and faults.loaded == 4, f"{faults.loaded} packets dropped"
    assert await csrs.read("LOAD_ADDRESS") == 3 and await csrs.read("IRQ_STATUS") == 0b100
    pixels = random_pixels(random.Random("discard"), 1, m.lanes)
    describe(dut, 0, 1, m.lanes)
    feed.put(packet_of(pixels))
    await pulse(dut, "go")
    await until(dut, "image_finished")
    await check_memory(dut, SPIKES, spike_words(pixels, 0))
