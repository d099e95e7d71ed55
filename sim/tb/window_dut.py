"""What `sim.tb.tb_window` runs on: a stream window of a small queue and few logits."""
from amaranth.back import verilog

from hwgen.window import StreamWindow

BEATS, LOGITS = 5, 12


def verilog_of(bus_bytes: int) -> str:
    """The Verilog of a window for a bus of `bus_bytes`, module `dut`."""
    return str(verilog.convert(StreamWindow(bus_bytes, BEATS, LOGITS), name="dut", emit_src=False))
