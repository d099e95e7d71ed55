"""The machine's host driver, over a small `Bus`: the same code drives the RTL in simulation and a board."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hwgen.packed import word_packet
from hwgen.registers import ERROR_DOC, MAGIC, VERSION, ErrorCode, LoadTarget, Register, address_map

LIMIT = 100_000
"""Pauses (`Bus.pause`) that the driver waits before it gives up."""


class HostError(RuntimeError):
    """The machine cannot be used, or does not answer: the message says what was seen."""


class MachineError(HostError):
    """The machine reports an error; `code` is its ErrorCode."""

    def __init__(self, code: int, layer: int) -> None:
        try:
            name, meaning = ErrorCode(code).name, ERROR_DOC[ErrorCode(code)]
        except ValueError:
            name, meaning = "UNKNOWN", "a code that this driver does not know: is the machine newer?"
        super().__init__(f"error {code} {name} at descriptor {layer}: {meaning}")
        self.code = code


class Bus(Protocol):
    """How a host reaches the machine."""

    async def read32(self, address: int) -> int:
        """Read a register; HostError on an error response."""

    async def write32(self, address: int, value: int) -> None:
        """Write a register; HostError on an error response."""

    async def send(self, packet: bytes) -> None:
        """Queue one packet (whole beats, TLAST on the last) on the input stream; does not wait for the machine."""

    async def receive(self) -> list[int] | None:
        """Take one result packet, unsigned 32-bit words; None when none is there yet."""

    async def pause(self) -> None:
        """Let some time pass: until an interrupt, or a little while."""

    async def reset(self) -> None:
        """End a packet that was begun and forget results that came: what an earlier host may have left behind."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What the machine says it is. `fields`: every capability field, by "REGISTER.field"."""

    version: int
    build_id: int
    fields: dict[str, int]


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters of the last run. `layer`: the descriptor that ran last; `image_index`: the next image's index."""

    cycles: int
    events: int
    stalls: int
    layer: int
    image_index: int


def patches(image: NDArray[np.uint8], patch: int) -> NDArray[np.uint8]:
    """Image [H, W, C] -> [tokens, patch*patch*C]: tokens in raster order, bytes in the order (dy, dx, c).

    ValueError when the image is not uint8 [H, W, C] or its sides are not multiples of `patch`.
    """
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(f"an image must be uint8 [H, W, C], not {image.dtype} {list(image.shape)}")
    height, width, channels = image.shape
    if patch < 1 or height % patch or width % patch:
        raise ValueError(f"an image of {height}x{width} cannot be cut into patches of {patch}x{patch}")
    cut = image.reshape(height // patch, patch, width // patch, patch, channels).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(cut).reshape(-1, patch * patch * channels)


def image_packet(image: NDArray[np.uint8], patch: int, bus_bytes: int) -> bytes:
    """The packet of an image: each token's bytes, filled up with zeros to whole beats of `bus_bytes`."""
    tokens = patches(image, patch)
    return np.pad(tokens, ((0, 0), (0, -tokens.shape[1] % bus_bytes))).tobytes()


def image_beats(image: NDArray[np.uint8], patch: int, bus_bytes: int) -> list[int]:
    """The same as the beats' values (TDATA)."""
    return [int(beat) for beat in np.frombuffer(image_packet(image, patch, bus_bytes), dtype=f"<u{bus_bytes}")]


class Host:
    """Drives one machine. `bus_bytes` is read from the machine by `probe`, which comes first."""

    def __init__(self, bus: Bus, limit: int = LIMIT) -> None:
        self.bus, self.limit, self.bus_bytes = bus, limit, 0
        self._map = address_map()

    # -- registers -------------------------------------------------------------------------------------------------

    def _register(self, name: str) -> Register:
        return self._map[name]

    async def read(self, name: str) -> int:
        """A register's word; KeyError for an unknown name."""
        return await self.bus.read32(self._register(name).offset)

    async def read_field(self, name: str, field: str) -> int:
        """One field of a register."""
        return self._register(name).field(field).get(await self.read(name))

    async def write(self, name: str, **fields: int) -> None:
        """Write a register from its fields' values, the others 0; RegisterError when a value does not fit."""
        register = self._register(name)
        await self.bus.write32(register.offset, sum(register.field(key).put(value) for key, value in fields.items()))

    async def _wide(self, name: str) -> int:
        low = await self.read(f"{name}_LO")  # low first: reading it freezes the high word
        return low | await self.read(f"{name}_HI") << 32

    # -- identity and state ------------------------------------------------------------------------------------------

    async def probe(self) -> Identity:
        """Check that this is our machine with our register map; HostError otherwise."""
        magic, version = await self.read("ID"), await self.read("VERSION")
        if magic != MAGIC:
            raise HostError(f"ID is {magic:#010x}, not {MAGIC:#010x}: no machine of ours at this address")
        if version != VERSION:
            raise HostError(f"register map version {version}, this driver knows {VERSION}: generate both from one tree")
        fields: dict[str, int] = {}
        for register in self._map.values():
            if register.name.startswith("CAP_"):
                word = await self.read(register.name)
                fields |= {f"{register.name}.{field.name}": field.get(word) for field in register.fields}
        self.bus_bytes = fields["CAP_FORMAT.bus_bytes"]
        await self.write("IRQ_ENABLE", done=1, error=1, loaded=1)
        return Identity(version, await self.read("BUILD_ID"), fields)

    async def counters(self) -> Counters:
        """The counters of the run."""
        return Counters(await self._wide("CYCLES"), await self._wide("EVENTS"), await self._wide("STALLS"),
                        await self.read("LAYER"),
                        await self.read("IMAGE_INDEX"))

    async def check(self) -> None:
        """MachineError when the machine holds an error."""
        code = await self.read_field("ERROR", "code")
        if code:
            raise MachineError(code, await self.read("LAYER"))

    async def clear(self) -> None:
        """Clear the error and every interrupt cause."""
        await self.write("ERROR", code=0xFF)
        await self.write("IRQ_STATUS", done=1, error=1, loaded=1)

    async def abort(self) -> None:
        """Stop the run and clear its traces; memories stay loaded. A packet that was begun must still be sent out."""
        await self.write("CTRL", abort=1)
        await self.clear()

    def _beat_bytes(self) -> int:
        if not self.bus_bytes:
            raise HostError("the machine's bus width is not known yet: call probe() first")
        return self.bus_bytes

    async def _until(self, cause: str, what: str) -> None:
        """Wait for an interrupt cause, and clear it."""
        for _ in range(self.limit):
            causes = await self.read("IRQ_STATUS")
            if self._register("IRQ_STATUS").field("error").get(causes):
                await self.check()
            if self._register("IRQ_STATUS").field(cause).get(causes):
                await self.write("IRQ_STATUS", **{cause: 1})
                return
            await self.bus.pause()
        raise HostError(f"{what}: no answer after {self.limit} pauses; STATUS is {await self.read('STATUS'):#x}")

    # -- work ----------------------------------------------------------------------------------------------------------

    async def load(self, target: LoadTarget, words: Sequence[int], width: int, address: int = 0) -> None:
        """Write `words` of `width` bits into a memory from word `address` on; MachineError when the machine objects."""
        if words:
            await self.load_packet(target, word_packet(words, width, self._beat_bytes()), address)

    async def load_packet(self, target: LoadTarget, packet: bytes, address: int = 0) -> None:
        """Send a load packet (`word_packet`) for memory words from `address` on; MachineError when the machine objects."""
        await self.write("IRQ_STATUS", loaded=1)
        await self.write("LOAD_ADDRESS", value=address)
        await self.write("LOAD_TARGET", target=target)
        try:
            await self._send(packet)
            await self._until("loaded", f"load of {len(packet)} bytes into {target.name}")
        finally:
            await self.write("LOAD_TARGET", target=LoadTarget.NONE)

    async def _send(self, packet: bytes) -> None:
        """Send; where the machine takes nothing because it holds an error, that error is what is raised."""
        try:
            await self.bus.send(packet)
        except HostError:
            await self.check()
            raise

    async def recover(self) -> None:
        """Make the machine fit for work whatever an earlier run left: an error, a packet cut off, images or results that wait.

        Loaded memories stay. HostError when the streams do not come to rest.
        """
        await self.bus.reset()
        await self.abort()
        await self.write("LOAD_TARGET", target=LoadTarget.DISCARD)
        status = self._register("STATUS")
        for _ in range(self.limit):
            waiting = await self.read("STATUS")
            if not status.field("input").get(waiting) | status.field("output").get(waiting):
                break
            if await self.bus.receive() is None:
                await self.bus.pause()
        else:
            raise HostError(f"recover: the streams do not come to rest; STATUS is {await self.read('STATUS'):#x}")
        await self.write("LOAD_TARGET", target=LoadTarget.NONE)
        await self.clear()

    async def set_mask(self, seed: int, enable: bool = True, ratio: int | None = None) -> None:
        """Spike mask: `seed` (32 bits); `ratio` in 1/256 in place of the program's own, None to keep them."""
        await self.write("MASK_SEED", value=seed)
        await self.write("MASK_CTRL", enable=int(enable), override=int(ratio is not None), ratio=ratio or 0)

    async def set_steps(self, steps: int) -> None:
        """Time steps of each image on a machine that fires step by step; HostError where it does not have so many."""
        most = await self.read_field("CAP_FIRING", "steps")
        if not 1 <= steps <= most:
            has = f"it takes 1 to {most}" if most else "it fires `exact`, in one"
            raise HostError(f"the machine cannot run {steps} time steps: {has}")
        await self.write("STEPS", value=steps)

    async def set_memory(self, base: int) -> None:
        """Byte address of the machine's external memory; HostError unless it is a multiple of 4 KiB."""
        if base % 4096:
            raise HostError(f"external memory must begin at a multiple of 4096, not {base:#x}")
        await self.write("MEMORY_BASE", value=base // 4096)

    async def start(self, images: int, first_image: int = 0, program: int = 0) -> None:
        """Start a run of `images` images; the first has index `first_image` (for the spike mask)."""
        await self.write("IRQ_STATUS", done=1)
        await self.write("IMAGES", value=images)
        await self.write("IMAGE_INDEX", value=first_image)
        await self.write("PROGRAM_START", value=program)
        await self.write("CTRL", start=1)

    async def send_image(self, image: NDArray[np.uint8], patch: int) -> None:
        """Queue an image uint8 [H, W, C]; it may come before `start`."""
        await self._send(image_packet(image, patch, self._beat_bytes()))

    async def result(self) -> NDArray[np.int32]:
        """Wait for one image's logits, int32 [classes]; MachineError when the machine stops with an error."""
        for _ in range(self.limit):
            words = await self.bus.receive()
            if words is not None:
                return np.array(words, dtype=np.uint32).view(np.int32)
            await self.check()
            await self.bus.pause()
        raise HostError(f"result: no answer after {self.limit} pauses; STATUS is {await self.read('STATUS'):#x}")

    async def finish(self) -> None:
        """Wait until the run is done; MachineError when it stops with an error."""
        await self._until("done", "run")

    async def classify(self, images: NDArray[np.uint8], patch: int, first_image: int = 0) -> NDArray[np.int32]:
        """Run images uint8 [B, H, W, C]; logits int32 [B, classes]. The memories must be loaded."""
        if images.ndim != 4:
            raise ValueError(f"images must be uint8 [B, H, W, C], not {images.dtype} {list(images.shape)}")
        packets = [image_packet(image, patch, self._beat_bytes()) for image in images]
        await self.start(len(images), first_image)
        for packet in packets:
            await self._send(packet)
        logits = [await self.result() for _ in packets]
        await self.finish()
        return np.stack(logits)
