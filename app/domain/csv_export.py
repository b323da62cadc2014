"""CSV for spreadsheets, whose cells are never formulas."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

Cell = str | int | None


def csv_text(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A line for the header and one a row, each ended by a line feed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[_no_formula(cell) for cell in row] for row in rows])
    return out.getvalue()


def _no_formula(cell: Cell) -> Cell:
    """A spreadsheet runs a cell that begins like a formula; names are chosen by people."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
