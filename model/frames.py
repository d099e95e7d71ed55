"""The frame-based representation of a recording: how many events each pixel of each frame saw, per polarity.

All is integer arithmetic, so the same recording gives the same counts everywhere. These counts are spike counts: the patch
embedding takes them as they are, in bit planes, without any coding layer.
"""
import numpy as np
from numpy.typing import NDArray

from model.dataset import DataError, Representation
from model.event_files import Events


def frame_of(t: NDArray[np.int64], frames: int, by: str) -> NDArray[np.int64]:
    """Frame [N] of each event of times `t` [N], which never fall.

    `time`: `frames` slices of equal length, `(t - t[0]) * frames // (t[-1] - t[0] + 1)`. `count`: of equally many events,
    `i * frames // N`.
    """
    if by == "time":
        return (t - t[0]) * frames // (t[-1] - t[0] + 1)
    return np.arange(len(t)) * frames // len(t)


def frames(events: Events, sensor: tuple[int, int], view: Representation) -> NDArray[np.uint8]:
    """Counts uint8 [channels, side, side] of one recording, channel = frame * polarities + polarity (OFF before ON).

    `crop`: the centre of the sensor (columns, rows), cut or padded with zeros to `side`. `scale`: `x * side // columns`,
    `y * side // rows`; events beyond the sensor are left out. A count above the largest `bits`-bit value is held there.
    DataError without events.
    """
    if not len(events):
        raise DataError("a recording without events has no frames")
    width, height = sensor
    x, y = events["x"].astype(np.int64), events["y"].astype(np.int64)
    inside = (x < width) & (y < height)
    side = view.side
    if view.fit == "scale":
        x, y = x * side // width, y * side // height
    else:
        x, y = x - (width - side) // 2, y - (height - side) // 2
        inside &= (x >= 0) & (x < side) & (y >= 0) & (y < side)
    channel = frame_of(events["t"], view.frames, view.by)
    if view.polarity == "split":
        channel = 2 * channel + events["p"]
    place = ((channel * side + y) * side + x)[inside]
    counts = np.bincount(place, minlength=view.channels * side * side)
    return np.minimum(counts, (1 << view.bits) - 1).astype(np.uint8).reshape(view.channels, side, side)
