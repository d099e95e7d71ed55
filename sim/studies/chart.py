"""Figures as SVG text: lines over an axis, bars, and heat maps. No library: the bytes depend on the numbers alone."""
import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b83280", "#4a5568", "#d69e2e", "#319795")
LEFT, TOP, WIDTH, HEIGHT, BELOW = 62, 34, 520, 260, 46
LETTER = 6.5
"""Pixels of a letter of a chart's text, at most, on average."""
ROW, BAR_LEFT, BAR_WIDTH = 18, 190, 420
TICKS = 5
Points = Sequence[tuple[float, float]]


def lines(title: str, across: str, up: str, series: Mapping[str, Points], *, percent: bool = True, log: bool = False) -> str:
    """One line with dots for each of `series` (name -> (x, y) points, x ascending).

    `percent`: y is a share of 1, shown in per cent from 0 up. `log`: x on a scale of powers of two. ValueError without points,
    or where `log` meets an x that is not positive.
    """
    points = [point for found in series.values() for point in found]
    if not points:
        raise ValueError(f"{title}: nothing to draw")
    if log and min(x for x, _ in points) <= 0:
        raise ValueError(f"{title}: a logarithmic axis needs positive values")

    def place(x: float) -> float:
        return float(np.log2(x)) if log else x

    marks = sorted({x for x, _ in points})
    low, high = place(marks[0]), place(marks[-1])
    roof = _roof(max(y for _, y in points))
    span = high - low or 1.0
    out = _head(LEFT + WIDTH + max(190, 46 + LETTER * max(map(len, series))), TOP + HEIGHT + BELOW, title)

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + (place(x) - low) / span * WIDTH, TOP + HEIGHT * (1 - y / roof)

    for tick in range(TICKS + 1):
        value = roof * tick / TICKS
        _, y = at(marks[0], value)
        label = f"{100 * value:.0f} %" if percent else f"{value:.3g}"
        out += [f'<path d="M{LEFT} {y:.1f} h{WIDTH}" stroke="#e2e8f0"/>', _text(LEFT - 6, y + 4, label, "end")]
    shown = marks if len(marks) <= 12 else marks[::-(-len(marks) // 12)]
    out += [_text(at(mark, 0)[0], TOP + HEIGHT + 16, f"{mark:g}", "middle") for mark in shown]
    out += [_text(LEFT + WIDTH / 2, TOP + HEIGHT + 36, across, "middle"), _text(LEFT - 6, TOP - 8, up, "middle")]
    for index, (name, found) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in found))
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in (at(*point) for point in found)]
        y = TOP + 12 + 18 * index
        out += [f'<path d="M{LEFT + WIDTH + 14} {y - 4} h18" stroke="{colour}" stroke-width="3"/>',
                _text(LEFT + WIDTH + 38, y, name)]
    return _close(out)


def bars(title: str, names: Sequence[str], series: Mapping[str, Sequence[float]], *, percent: bool = True) -> str:
    """Horizontal bars: for each of `names` one bar of every series, from zero to the right. ValueError without values."""
    if not names or not series or any(len(found) != len(names) for found in series.values()):
        raise ValueError(f"{title}: every series needs a value for each of {len(names)} names")
    roof = _roof(max(max(found) for found in series.values()))
    thick = ROW * len(series) + 4
    out = _head(BAR_LEFT + BAR_WIDTH + 90, TOP + 20 + thick * len(names) + 8, title)
    at = float(BAR_LEFT)
    for index, name in enumerate(series):
        out += [f'<rect x="{at}" y="{TOP - 6}" width="10" height="10" fill="{COLOURS[index % len(COLOURS)]}"/>',
                _text(at + 14, TOP + 3, name)]
        at += 30 + 7 * len(name)
    for row, name in enumerate(names):
        top = TOP + 16 + row * thick
        out.append(_text(BAR_LEFT - 6, top + thick / 2 + 2, name, "end"))
        for index, found in enumerate(series.values()):
            value = found[row]
            width = max(0.0, value) / roof * BAR_WIDTH
            y = top + ROW * index
            label = f"{100 * value:.1f} %" if percent else f"{value:,.4g}"
            out += [f'<rect x="{BAR_LEFT}" y="{y}" width="{width:.1f}" height="{ROW - 4}" '
                    f'fill="{COLOURS[index % len(COLOURS)]}"/>', _text(BAR_LEFT + width + 5, y + 11, label)]
    return _close(out)


def grid(title: str, columns: Sequence[str], rows: Sequence[str], cells: Sequence[Sequence[NDArray[np.float64]]],
         size: int = 96) -> str:
    """Pictures in rows and columns: a cell is [H, W, 3] (colours, 0 to 1) or [H, W] (heat: white at 0, blue at its maximum).

    ValueError where cells and names do not match.
    """
    if len(cells) != len(rows) or any(len(row) != len(columns) for row in cells):
        raise ValueError(f"{title}: {len(rows)} rows of {len(columns)} pictures are wanted")
    gap = 10
    out = _head(BAR_LEFT + len(columns) * (size + gap), TOP + 24 + len(rows) * (size + gap), title)
    for column, name in enumerate(columns):
        out.append(_text(BAR_LEFT + column * (size + gap) + size / 2, TOP + 12, name, "middle"))
    for row, name in enumerate(rows):
        top = TOP + 20 + row * (size + gap)
        out.append(_text(BAR_LEFT - 8, top + size / 2, name, "end"))
        for column, cell in enumerate(cells[row]):
            out.append(_pixels(cell, BAR_LEFT + column * (size + gap), top, size))
    return _close(out)


def _pixels(cell: NDArray[np.float64], left: float, top: float, size: int) -> str:
    if cell.ndim == 2:
        share = cell / cell.max() if cell.max() > 0 else cell
        low, high = np.array([1.0, 1.0, 1.0]), np.array([0.06, 0.25, 0.5])
        cell = low + share[..., None] * (high - low)
    packed = base64.b64encode(png(np.clip(np.round(255 * cell), 0, 255).astype(np.uint8))).decode()
    return (f'<image x="{left}" y="{top}" width="{size}" height="{size}" style="image-rendering:pixelated" '
            f'href="data:image/png;base64,{packed}"/>')


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of pixels uint8 [H, W, 3] (PNG specification, 2nd edition: 8-bit RGB, no filter)."""
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))


def _roof(largest: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten that is not below `largest`."""
    if largest <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(largest))
    return float(next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= largest * (1 - 1e-12)))


def _head(width: float, height: float, title: str) -> list[str]:
    return [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" font-family="sans-serif" '
            'font-size="11">',
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            f'<text x="12" y="16" font-size="13" font-weight="bold">{escape(title)}</text>']


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _close(out: list[str]) -> str:
    return "\n".join([*out, "</svg>", ""])
