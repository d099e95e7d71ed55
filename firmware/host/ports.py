"""Ports by name: `open_port` gives the bus of a machine behind a UART, in simulation, or in memory."""
from collections.abc import Callable
from pathlib import Path

from firmware.host.driver import Bus, HostError
from firmware.host.link import RETRIES, TIMEOUT, Link, LinkBus, Wire
from firmware.host.serial_port import BAUD, SerialWire
from firmware.host.simulated import SimulatedWire
from firmware.host.window import MappedRegisters, WindowBus

FORMS = "a serial port (/dev/ttyUSB0, COM3), sim:PROGRAM, uio:/dev/uio0, or mem:ADDRESS"


def open_port(port: str, baud: int = BAUD, timeout: float = TIMEOUT, retries: int = RETRIES) -> tuple[Bus, Callable[[], None]]:
    """The bus at `port`, and what closes it. `baud`, `timeout` (seconds) and `retries` are the UART's.

    Ports: a serial port's name; `sim:PROGRAM`, a board in simulation that `python -m sim.uart` built; `uio:/dev/uio0`, a
    machine that Linux maps; `mem:ADDRESS`, one at a physical address, through /dev/mem. HostError in one line.
    """
    kind, _, rest = port.partition(":")
    if kind in ("uio", "mem") and rest:
        if kind == "uio":
            registers = MappedRegisters(Path(rest))
        else:
            try:
                address = int(rest, 0)
            except ValueError:
                raise HostError(f"{port}: {rest!r} is no address: write one such as mem:0x40000000") from None
            registers = MappedRegisters(Path("/dev/mem"), address)
        return WindowBus(registers), registers.close
    wire: Wire = SimulatedWire(Path(rest)) if kind == "sim" and rest else SerialWire(port, baud)
    try:
        link = Link(wire, timeout, retries)
        link.hello()
    except BaseException:
        wire.close()
        raise
    return LinkBus(link), wire.close
