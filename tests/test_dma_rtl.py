"""hwgen/dma.py on sim/axi_memory.py: programs, stops, faults, cycles; and that bench and memory model can fail."""
from pathlib import Path

from sim.runner import Results, run_bench
from sim.tb.dma_cases import MACHINES, dma_verilog

BENCHES = Path(__file__).resolve().parent.parent / "rtl" / "build" / "benches" / "dma"


def bench(name: str, testcase: str | None = None, simulator: str = "verilator", mutate: str = "") -> Results:
    folder = BENCHES / name
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "dut.v"
    text = dma_verilog(name)
    if not source.is_file() or source.read_text() != text:
        source.write_text(text)
    return run_bench(name=mutate or "run", toplevel="dut", sources=[source], build_dir=folder, test_module="sim.tb.tb_dma",
                     simulator=simulator, env={"MACHINE": name, "MUTATE": mutate}, testcase=testcase)
