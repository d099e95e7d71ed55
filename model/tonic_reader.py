"""Recordings through tonic, the event library of the neuromorphic community: a second reader, to check ours against.

Ours (`model.event_files`) is the one that reads data sets. tonic 1.7.0 reads .bin, but takes truncated and damaged files without
a word; its DVS128 reader raises an error on every AEDAT 2.0 file (only its two halves work), it dropped N-Cars, and it is
GPL-3.0. For .dat we ask expelliarmus, the library that tonic builds on.
"""
from importlib.metadata import version
from pathlib import Path

import numpy as np

from model.dataset import DataError
from model.event_files import EVENT, Events

MISSING = "tonic cannot be imported: install it with `make events`"


def tonic_version() -> str:
    """The version of the installed tonic; DataError where there is none."""
    try:
        import tonic.io  # noqa: F401
    except ImportError:
        raise DataError(MISSING) from None
    return version("tonic")


def read_with_tonic(path: Path) -> Events:
    """Events of a recording as tonic (or, for .dat, expelliarmus) reads them; DataError where they are not installed."""
    try:
        from expelliarmus import Wizard
        from tonic import io
    except ImportError:
        raise DataError(MISSING) from None
    if path.suffix in (".bin", ".bs2"):
        found = io.read_mnist_file(str(path), dtype=np.dtype([(name, np.int64) for name in "xytp"]))
        x, y, t, p = (found[name] for name in "xytp")
    elif path.suffix == ".dat":
        found = Wizard(encoding="dat").read(str(path))
        x, y, t, p = (found[name] for name in "xytp")
    elif path.suffix == ".aedat":
        number, start, _ = io.read_aedat_header_from_file(str(path))
        found = io.get_aer_events_from_file(str(path), number, start)
        address, t = found["address"].astype(np.int64), found["timeStamp"]
        x, y, p = address >> 1 & 127, address >> 8 & 127, address & 1
    else:
        raise DataError(f"{path}: tonic is asked for .bin, .bs2, .dat and .aedat, not {path.suffix!r}")
    events = np.empty(len(t), EVENT)
    events["t"], events["x"], events["y"], events["p"] = t, x, y, p
    return events
