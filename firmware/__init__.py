"""Host and firmware drivers of the accelerator: to come (the register map is `hwgen.registers`, a Python driver `sim.host`)."""
