"""CSV export for spreadsheets, safe from formula injection."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

Cell = str | int | None


def csv_text(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Returns a line for the header and one for each row, each ended by a line feed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[_escape_formula(cell) for cell in row] for row in rows])
    return out.getvalue()


def _escape_formula(cell: Cell) -> Cell:
    """Returns the cell with a quote before what a spreadsheet would run as a formula: names are chosen by people."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
