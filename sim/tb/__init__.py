"""cocotb benches, one per hardware block."""
