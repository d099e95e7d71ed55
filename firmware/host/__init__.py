"""The host's side of a board, in Python: `Session`, the ports that it can use, and the command `mst-host`."""
from firmware.host.driver import Counters, Host, HostError, Identity, MachineError
from firmware.host.session import Classification, Session, load_file

__all__ = ["Classification", "Counters", "Host", "HostError", "Identity", "MachineError", "Session", "load_file"]
