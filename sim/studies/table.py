"""A study's result: rows of named columns, a figure, and what was measured; written as CSV, Markdown and SVG."""
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hwgen.files import write_if_changed

Cell = str | int | float | None


@dataclass(slots=True)
class Table:
    """`rows` of cells under `columns`; floats between -1 and 1 in a column named in `shares` are printed as percentages."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    shares: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: a row of {len(row)} cells under {len(self.columns)} columns")

    def csv(self) -> str:
        """The rows as they are, numbers unrounded; an empty cell where nothing was measured."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(["" if cell is None else cell for cell in row] for row in self.rows)
        return out.getvalue()

    def markdown(self, picture: str) -> str:
        """Title, notes, figure and table."""
        lines = [f"# {self.title}", "", *self.notes, "", f"![{self.title}]({picture})", "",
                 f"| {' | '.join(self.columns)} |", f"|{'---|' * len(self.columns)}"]
        lines += [f"| {' | '.join(self._shown(*pair) for pair in zip(self.columns, row, strict=True))} |" for row in self.rows]
        return "\n".join([*lines, ""])

    def write(self, folder: Path, stem: str, figure: str) -> Path:
        """Write `stem`.csv, .md and .svg to `folder`, each only when it changed; returns the Markdown's path."""
        folder.mkdir(parents=True, exist_ok=True)
        write_if_changed(folder / f"{stem}.csv", self.csv())
        write_if_changed(folder / f"{stem}.svg", figure)
        write_if_changed(folder / f"{stem}.md", self.markdown(f"{stem}.svg"))
        return folder / f"{stem}.md"

    def _shown(self, column: str, cell: Cell) -> str:
        if cell is None:
            return "-"
        if column in self.shares and not isinstance(cell, str):
            return f"{100 * cell:.2f} %"
        if isinstance(cell, float):
            return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
        return f"{cell:,}" if isinstance(cell, int) else cell
