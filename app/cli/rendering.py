"""How commands show what they found: tables for people, CSV for spreadsheets, JSON for programs; times as UTC."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from app.domain.csv_export import Cell, csv_text
from app.domain.timestamps import parse_timestamp

_SHOWN_AS = {
    **{code: 0x2400 + code for code in range(0x20)},  # ESC becomes ␛
    **dict.fromkeys((*range(0x7F, 0xA0), *range(0xD800, 0xE000)), 0xFFFD),
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD),
    ord("\n"): "\n",
    ord("\t"): "\t",
    ord("\r"): None,
}

format_option = click.option(
    "--format", "style", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True
)


def rendered(header: Sequence[str], rows: Sequence[Sequence[Cell]], style: str, *, right: Sequence[str] = ()) -> str:
    """The rows as `style` has them. In a table the columns named in `right` are aligned there."""
    if style == "json":
        return json.dumps([dict(zip(header, row, strict=True)) for row in rows], indent=2)
    if style == "csv":
        return csv_text(header, rows).rstrip("\n")
    texts = [list(header), *([printable("" if cell is None else str(cell)) for cell in row] for row in rows)]
    columns = [_aligned(column, right=column[0] in right) for column in zip(*texts, strict=True)]
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


def printable(text: str) -> str:
    """One line that does nothing to a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def harmless(text: str) -> str:
    """Text of many lines, whatever its author wanted of the terminal: escapes are shown, not obeyed.

    Also replaced: what turns the direction of text around, so that it reads differently from what it is, and halves of
    surrogate pairs, which cannot be written. Carriage returns go, as they would write over what was shown.
    """
    return text.translate(_SHOWN_AS)


def stamp(seconds: float | None) -> str:
    """A moment as people and programs read it; empty for none."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str, *, option: str, now: float, direction: int) -> float:
    """See `parse_timestamp`."""
    try:
        return parse_timestamp(text, now=now, direction=direction)
    except ValueError as exc:
        raise click.ClickException(f"{option}: {exc}") from None


def _aligned(column: Sequence[str], *, right: bool) -> list[str]:
    width = max(map(len, column))
    return [text.rjust(width) if right else text.ljust(width) for text in column]
