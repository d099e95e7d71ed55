"""A session with one machine: `Session`, what a program that uses the accelerator needs and no more.

The same code runs against a board and against the RTL in simulation; only the port differs (`firmware.host.ports`).
"""
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from firmware.host.driver import Bus, Counters, Host, HostError, Identity, LoadTarget
from hwgen.packed import DEPTHS, EXTERNAL, SAME, Packed, PackedError, unpack
from hwgen.registers import address_map

Result = TypeVar("Result")
POLLS = 2_000
"""Polls of a status, a pause between them, until a session gives up: some seconds over a UART."""


@dataclass(frozen=True, slots=True)
class Classification:
    """One image's answer. `logits` int32 [classes]; `class_index`: the first index of the largest; `counters` of its run."""

    class_index: int
    logits: NDArray[np.int32]
    counters: Counters


def load_file(path: Path) -> Packed:
    """A packed network file (`python -m firmware pack`); HostError in one line when it is none."""
    try:
        return unpack(path.read_bytes())
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}: make it with python -m firmware pack") from None
    except PackedError as error:
        raise HostError(f"{path}: {error}") from None


class Session:
    """Drives the machine behind `bus`. Use as a context manager, or `close` it.

    Opening it probes the machine and makes it fit for work (`recover`). Every method raises HostError when the machine does not
    answer, MachineError when it reports an error; `recover` then makes it usable again, loaded memories stay.
    """

    def __init__(self, bus: Bus, close: Callable[[], None] | None = None, polls: int = POLLS) -> None:
        self.bus, self._close = bus, close
        self.host = Host(bus, polls)
        self.network: Packed | None = None
        try:
            self.identity = self.probe()
            self.recover()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, port: str, **options: Any) -> Self:
        """The session of the machine at `port`; ports and options stand in `firmware.host.ports.open_port`."""
        from firmware.host.ports import open_port

        bus, close = open_port(port, **options)
        return cls(bus, close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the port back."""
        if self._close is not None:
            self._close()

    def probe(self) -> Identity:
        """What the machine says it is; HostError when it is none of ours."""
        return run(self.host.probe())

    def recover(self) -> None:
        """End and forget whatever is under way, clear errors; loaded memories stay."""
        run(self.host.recover())
        run(self.host.probe())
        self._mask()

    def load(self, network: Packed) -> None:
        """Load a packed network; where weights are built in, only check that it is the machine's own.

        HostError when it is for another machine: the message names what differs.
        """
        self._check(network)
        for target, data in network.sections.items():
            if target != EXTERNAL:
                run(self.host.load_packet(LoadTarget(target), data))
        self.network = network
        self._mask()

    def classify(self, image: NDArray[np.uint8], index: int = 0) -> Classification:
        """Run one image uint8 [H, W, C]; `index` picks its spike mask. HostError without a network, or on a wrong shape."""
        if self.network is None:
            raise HostError("no network is loaded: load one first")
        header = self.network.header
        side, channels = header["image_side"], header["image_channels"]
        if image.shape != (side, side, channels) or image.dtype != np.uint8:
            raise HostError(f"the image is {image.dtype} {list(image.shape)}, the network takes uint8 {[side, side, channels]}")
        logits = run(self.host.classify(image[np.newaxis], header["patch"], index))[0]
        if len(logits) != header["classes"]:
            raise HostError(f"{len(logits)} logits came, the network has {header['classes']}: is this the machine's network?")
        return Classification(int(np.argmax(logits)), logits, self.counters())

    def set_steps(self, steps: int) -> None:
        """Time steps of each image on a machine with firing = "stepwise"; HostError where it does not have so many."""
        run(self.host.set_steps(steps))

    def counters(self) -> Counters:
        """Counters of the last run."""
        return run(self.host.counters())

    def clear(self) -> None:
        """Clear the error and interrupt causes."""
        run(self.host.clear())

    def check(self) -> None:
        """MachineError when the machine holds an error."""
        run(self.host.check())

    def _mask(self) -> None:
        if self.network is not None:
            registers, header = address_map(), self.network.header
            run(self.bus.write32(registers["MASK_SEED"].offset, header["mask_seed"]))
            run(self.bus.write32(registers["MASK_CTRL"].offset, header["mask_ctrl"]))

    def _check(self, network: Packed) -> None:
        header, registers = network.header, address_map()
        if network.sections.get(EXTERNAL) or header["external_bytes"]:
            raise HostError("the network needs external memory, which this driver does not fill: take a machine with "
                            "memory_bits = 0")
        if header["map_version"] != self.identity.version:
            raise HostError(f"the network is for register map {header['map_version']}, the machine has {self.identity.version}: "
                            "pack it again")
        for name in SAME:
            have = run(self.host.read(name.upper()))
            if have != header[name]:
                fields = [f"{field.name} {field.get(header[name])}, the machine has {field.get(have)}"
                          for field in registers[name.upper()].fields if field.get(have) != field.get(header[name])]
                raise HostError(f"the network is for another machine ({'; '.join(fields)}): pack it for this one")
        for name in DEPTHS:
            have = self.identity.fields[f"CAP_{name.upper()}.value"]
            if have < header[name]:
                raise HostError(f"the network needs {name} {header[name]}, the machine has {have}: it does not fit")
        if not self.identity.fields["CAP_FORMAT.loadable"] and header["build_id"] != self.identity.build_id:
            raise HostError(f"the machine's weights are built in (build {self.identity.build_id:#010x}), the network's build is "
                            f"{header['build_id']:#010x}: give the network.bin that lies beside the bitstream")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of a driver coroutine on a bus that never suspends."""
    try:
        work.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    work.close()
    raise RuntimeError("this bus suspends: await the driver's coroutines instead")
