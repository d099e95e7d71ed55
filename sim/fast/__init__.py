"""Compiled simulation: the generated machine under Verilator, driven by C++ from a job script; no Python in the cycle loop."""
from sim.fast.harness import Halted, build, run
from sim.fast.script import Answer, ExternalMemory

__all__ = ["Answer", "ExternalMemory", "Halted", "build", "run"]
