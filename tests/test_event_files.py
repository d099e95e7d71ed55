"""Readers of event recordings: test vectors written from the format descriptions, refusals by byte offset, other readers."""
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.dataset import DataError
from model.event_files import OVERFLOW_US, read_aedat2, read_bin, read_dat, read_events
from model.tonic_reader import read_with_tonic

MST = [(10, 3, 4, 1), (10, 33, 0, 0), (70000, 0, 33, 1), (8388607, 7, 8, 0)]
"""(t, x, y, p)."""
DVS_HEADER = (b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n# Data format is int32 address, int32 timestamp "
              b"(8 bytes total), repeated for each event\r\n# Timestamps tick is 1 us\r\n")
DAT_HEADER = b"% Data file containing Event2D events.\n% Version 2\n% Date 2017-10-31 11:27:54\n"


def atis(events: list[tuple[int, int, int, int]]) -> bytes:
    """Bits 39-32 x, 31-24 y, 23 polarity, 22-0 us."""
    return b"".join((x << 32 | y << 24 | p << 23 | t).to_bytes(5, "big") for t, x, y, p in events)


def dat(events: list[tuple[int, int, int, int]], header: bytes = DAT_HEADER, kind: int = 0) -> bytes:
    """Little-endian us, then x in bits 0-13, y in 14-27, polarity from 28 on."""
    return header + bytes([kind, 8]) + b"".join(struct.pack("<II", t % 2**32, p << 28 | y << 14 | x) for t, x, y, p in events)


def aedat(events: list[tuple[int, int, int, int]], header: bytes = DVS_HEADER) -> bytes:
    """Big-endian address (bit 0 polarity, 1-7 x, 8-14 y, 15 external event) and us."""
    return header + b"".join(struct.pack(">II", y << 8 | x << 1 | p, t % 2**32) for t, x, y, p in events)


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


CASES = [("r.bin", atis, (34, 34)), ("r.bs2", atis, (34, 34)), ("r.dat", dat, (304, 240)), ("r.aedat", aedat, (128, 128))]


@pytest.mark.parametrize(("name", "write", "sensor"), CASES)
def test_vectors(tmp_path: Path, name: str, write: Callable[..., bytes], sensor: tuple[int, int]) -> None:
    found = read_events(written(tmp_path, name, write(MST)), sensor)
    assert [tuple(int(v) for v in event) for event in found] == MST
    assert found.dtype.names == ("t", "x", "y", "p") and found["t"].dtype == np.int64


def test_the_published_bytes_of_each_format(tmp_path: Path) -> None:
    """The same by hand, so that writer and reader cannot share an error."""
    bs2 = read_bin(written(tmp_path, "a.bs2", bytes.fromhex("1210 80037d 1411 800424 1109 00098b")), (34, 34))
    assert bs2.tolist() == [(893, 18, 16, 1), (1060, 20, 17, 1), (2443, 17, 9, 0)]  # the first of N-MNIST's recording 1
    cars = read_dat(written(tmp_path, "a.dat", b"% Version 2\n\x00\x08" + bytes.fromhex("00000000 06800410 42000000 2ac00800")),
                    (304, 240))
    assert cars.tolist() == [(0, 6, 18, 1), (66, 42, 35, 0)]
    dvs = read_aedat2(written(tmp_path, "a.aedat", b"#!AER-DAT2.0\r\n" + bytes.fromhex("00007f01 00000007 000000fe 00000008")))
    assert dvs.tolist() == [(7, 0, 127, 1), (8, 127, 0, 0)]


def test_clocks_that_overflow(tmp_path: Path) -> None:
    marker = (0, 0, 240, 0)
    found = read_bin(written(tmp_path, "r.bin", atis([(8000, 1, 1, 1), marker, (100, 2, 2, 0)])), (34, 34))
    assert found.tolist() == [(8000, 1, 1, 1), (100 + OVERFLOW_US, 2, 2, 0)]
    for name, write in (("r.dat", dat), ("r.aedat", aedat)):
        found = read_events(written(tmp_path, name, write([(2**32 - 5, 1, 1, 1), (3, 2, 2, 0)])), (128, 128))
        assert found["t"].tolist() == [2**32 - 5, 2**32 + 3]


@pytest.mark.parametrize("stamps, message", [
    ([5, 2**32 - 8], "time -8 us after 5 us"),
    ([2**32 - 1, 3, 2**32 - 2], f"time {2**32 - 2} us after {2**32 + 3} us"),
])
def test_times_that_fall_over_the_overflow_are_refused(tmp_path: Path, stamps: list[int], message: str) -> None:
    """13 us back over the counter's end are not 71 minutes forward."""
    events = [(t, 1, 1, 1) for t in stamps]
    for name, write in (("r.dat", dat), ("r.aedat", aedat)):
        with pytest.raises(DataError, match=f"{message}: events go back in time"):
            read_events(written(tmp_path, name, write(events)), (128, 128))


def test_external_events_of_a_dvs128_are_no_pixels(tmp_path: Path) -> None:
    data = aedat(MST[:1]) + struct.pack(">II", 0x8000, 11) + aedat(MST[2:3], header=b"")
    assert read_aedat2(written(tmp_path, "r.aedat", data))["t"].tolist() == [10, 70000]


H, D = len(DVS_HEADER), len(DAT_HEADER) + 2


@pytest.mark.parametrize(("name", "data", "sensor", "message"), [
    ("r.bin", b"", (34, 34), "byte offset 0: the file ends before the first event"),
    ("r.bin", atis(MST)[:-2], (34, 34), "byte offset 15: the last record is cut short: 3 of 5 bytes"),
    ("r.bin", atis([*MST[:2], (70000, 34, 1, 0)]), (34, 34), "byte offset 10: event at (34, 1), outside the 34x34 sensor"),
    ("r.bs2", atis([MST[2], MST[0]]), (34, 34), "byte offset 5: time 10 us after 70000 us: events go back in time"),
    ("r.bin", atis([(0, 0, 240, 0), (5, 1, 35, 0)]), (34, 34), "byte offset 5: event at (1, 35)"),
    ("r.bin", atis([(0, 0, 240, 0)]), (34, 34), "byte offset 0: holds no event, only clock overflows"),
    ("r.dat", b"", (304, 240), "byte offset 0: starts with b'', not with the '%' lines"),
    ("r.dat", b"\x00\x08" + bytes(8), (304, 240), r"byte offset 0: starts with b'\x00\x08"),
    ("r.dat", b"% Version 2", (304, 240), "byte offset 0: a header line without an end"),
    ("r.dat", dat(MST, header=b"% Version 1\n"), (304, 240), "byte offset 0: header says version '1'"),
    ("r.dat", dat(MST, header=b"% Date x\n"), (304, 240), "byte offset 0: header says version 'none'"),
    ("r.dat", DAT_HEADER, (304, 240), f"byte offset {D - 2}: the file ends before the event type"),
    ("r.dat", dat(MST, kind=14), (304, 240), f"byte offset {D - 2}: events of type 14 and 8 bytes"),
    ("r.dat", dat(MST)[:-1], (304, 240), f"byte offset {D + 24}: the last record is cut short: 7 of 8 bytes"),
    ("r.dat", dat([MST[0], (11, 304, 0, 0)]), (304, 240), f"byte offset {D + 8}: event at (304, 0), outside the 304x240"),
    ("r.dat", dat([MST[0], (11, 1, 1, 3)]), (304, 240), f"byte offset {D + 8}: polarity 3, not 0 or 1"),
    ("r.dat", dat([MST[2], MST[0]]), (304, 240), f"byte offset {D + 8}: time 10 us after 70000 us"),
    ("r.dat", dat(MST, header=b"% Version 2\n% Width 8\n% Height 64\n"), (304, 240),
     f"byte offset {12 + 10 + 12 + 2 + 8}: event at (33, 0), outside the 8x64 sensor"),
    ("r.aedat", b"", (128, 128), "byte offset 0: starts with b''"),
    ("r.aedat", aedat(MST, header=b"#!AER-DAT3.1\r\n"), (128, 128), "byte offset 0: starts with b'#!AER-DAT3.1'"),
    ("r.aedat", aedat(MST, header=b"# no version\r\n"), (128, 128), "byte offset 0: starts with b'# no version'"),
    ("r.aedat", b"#!AER-DAT2.0", (128, 128), "byte offset 0: a header line without an end"),
    ("r.aedat", DVS_HEADER, (128, 128), f"byte offset {H}: the file ends before the first event"),
    ("r.aedat", aedat(MST)[:-4], (128, 128), f"byte offset {H + 24}: the last record is cut short: 4 of 8 bytes"),
    ("r.aedat", aedat(MST) + struct.pack(">II", 1 << 16, 8388608), (128, 128),
     f"byte offset {H + 32}: address 0x00010000 is not a DVS128's"),
    ("r.aedat", aedat([MST[2], MST[0]]), (128, 128), f"byte offset {H + 8}: time 10 us after 70000 us"),
    ("r.aedat", aedat([MST[1]]), (32, 32), f"byte offset {H}: event at (33, 0), outside the 32x32"),
    ("r.aedat4", b"x", (128, 128), "recordings end in .bin, .bs2, .dat, .aedat, not '.aedat4'"),
])
def test_bad_files_are_refused_with_the_byte_offset(tmp_path: Path, name: str, data: bytes, sensor: tuple[int, int],
                                                    message: str) -> None:
    with pytest.raises(DataError, match=f"{re.escape(name)}: .*{re.escape(message)}") as found:
        read_events(written(tmp_path, name, data), sensor)
    assert "\n" not in str(found.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.bin: cannot be read \(No such file"):
        read_events(tmp_path / "no.bin", (34, 34))


@pytest.mark.parametrize(("name", "write", "sensor"), CASES)
def test_every_cut_of_a_file_is_refused_or_whole(tmp_path: Path, name: str, write: Callable[..., bytes],
                                                 sensor: tuple[int, int]) -> None:
    """Truncation at any byte: an error with an offset, or exactly the records that are whole."""
    data = write(MST)
    size = 5 if write is atis else 8
    start = len(data) - 4 * size
    for end in range(len(data)):
        path = written(tmp_path, name, data[:end])
        if end > start and (end - start) % size == 0:
            assert len(read_events(path, sensor)) == (end - start) // size
        else:
            with pytest.raises(DataError, match="byte offset"):
                read_events(path, sensor)


# -- real recordings, which are not shipped ------------------------------------------------------------------------

DATA = Path(os.environ.get("MST_DATA", "data"))
FIXTURES = DATA / "events_fixtures"
REAL = [("tonic/sample_nmnist.bin", (34, 34), 4325), ("event-vision-library/faces_easy_0001.bin", (240, 180), 67445),
        ("tonic/sample_ncars.dat", (304, 240), 2009), ("expelliarmus/NCARS_obj_004397_td.dat", (304, 240), 4407)]
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"{FIXTURES} is not there: point MST_DATA to the recordings")


@needs_fixtures
@pytest.mark.parametrize(("name", "sensor", "count"), REAL)
def test_real_recordings_and_their_damage(tmp_path: Path, name: str, sensor: tuple[int, int], count: int) -> None:
    data = (FIXTURES / name).read_bytes()
    events = read_events(FIXTURES / name, sensor)
    assert len(events) == count and (np.diff(events["t"]) >= 0).all() and set(events["p"].tolist()) == {0, 1}
    size = 5 if name.endswith("bin") else 8
    with pytest.raises(DataError, match=f"byte offset {len(data) - size}: the last record is cut short: {size - 1} of {size}"):
        read_events(written(tmp_path, Path(name).name, data[:-1]), sensor)
    place = len(data) - size * (count // 2)
    record = b"\xff" * size
    with pytest.raises(DataError, match=rf"byte offset {place}: event at \(\d+, \d+\), outside"):
        read_events(written(tmp_path, Path(name).name, data[:place] + record + data[place + size:]), sensor)


@needs_fixtures
def test_a_davis_recording_is_not_taken_for_a_dvs128() -> None:
    path = FIXTURES / "pyaedattools" / "IMU_rotDisk.aedat"
    with pytest.raises(DataError, match=r"IMU_rotDisk\.aedat: byte offset 175039: address 0x[0-9a-f]{8} is not a DVS128's"):
        read_aedat2(path)


@needs_fixtures
@pytest.mark.parametrize(("name", "sensor", "count"), REAL)
def test_equal_to_tonic(name: str, sensor: tuple[int, int], count: int) -> None:
    pytest.importorskip("tonic.io", reason="tonic is not installed: make events")
    assert np.array_equal(read_events(FIXTURES / name, sensor), read_with_tonic(FIXTURES / name))


@pytest.mark.parametrize(("name", "write", "sensor"), CASES)
def test_vectors_equal_to_tonic(tmp_path: Path, name: str, write: Callable[..., bytes], sensor: tuple[int, int]) -> None:
    pytest.importorskip("tonic.io", reason="tonic is not installed: make events")
    path = written(tmp_path, name, write(MST))
    ours, theirs = read_events(path, sensor), read_with_tonic(path)
    assert np.array_equal(ours, theirs)
    theirs["x"][1] += 1
    assert not np.array_equal(ours, theirs)
