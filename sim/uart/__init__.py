"""A board in simulation: the machine behind its UART bridge, compiled by Verilator: `build`."""
from pathlib import Path

from hwgen.emit import Build
from hwgen.files import digest, write_if_changed
from hwgen.uart_machine import UART_TOP, UartMachine
from hwgen.verilog import convert
from sim.runner import build_program

DIVISOR = 8
"""Clock cycles of a UART bit: few, so that a simulation spends them on the machine."""
CLOCK_HZ = 10_000_000
"""What the driver takes the simulated clock for."""
HERE = Path(__file__).resolve().parent


def build(build: Build, divisor: int = DIVISOR) -> Path:
    """The simulated board of `build`'s machine, compiled where it changed: a program for `firmware.host.SimulatedWire`.

    The program is a script that starts the compiled one with its `divisor` and CLOCK_HZ. SimulatorMissing; SimulationFailed when
    it does not compile (names the log).
    """
    folder = build.folder / "sim" / "uart"
    verilog = folder / f"{UART_TOP}.v"
    stamp, key = folder / "design", digest(build.design_id, str(divisor), *(
        path.read_bytes() for path in sorted((HERE.parent.parent / "hwgen").glob("*.py"))))
    if not verilog.is_file() or not stamp.is_file() or stamp.read_text() != key:
        write_if_changed(verilog, convert(UartMachine(build.machine, build.id32, divisor, build.program.images), UART_TOP))
        write_if_changed(stamp, key)
    program = build_program(name="board", toplevel=UART_TOP, build_dir=folder / "build", optimise="-O2",
                            sources=[verilog, HERE / "harness.cpp"], includes=[],
                            args=["--x-assign", "fast", "--x-initial", "fast", "--no-assert"])
    starter = folder / "board"
    write_if_changed(starter, f'#!/bin/sh\nexec "$(dirname "$0")/build/{program.name}" {divisor} {CLOCK_HZ}\n')
    starter.chmod(0o755)
    return starter
