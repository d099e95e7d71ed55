"""The host driver as benches name it: `firmware.host.driver`, the same code that drives a board."""
from firmware.host.driver import (
    LIMIT,
    Bus,
    Counters,
    Host,
    HostError,
    Identity,
    MachineError,
    image_beats,
    image_packet,
    patches,
    word_packet,
)

__all__ = ["LIMIT", "Bus", "Counters", "Host", "HostError", "Identity", "MachineError", "image_beats", "image_packet", "patches",
           "word_packet"]
