"""The golden model: numpy, integers, one module a block."""
from sim.golden.network import Trace, check_images, run

__all__ = ["Trace", "check_images", "run"]
