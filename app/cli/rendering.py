"""Output formats of the commands: tables for people, CSV for spreadsheets, JSON for programs; times in UTC."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from app.domain.csv_export import Cell, csv_text
from app.domain.timestamps import parse_timestamp

_SAFE_CHARACTERS = {
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


def render_rows(header: Sequence[str], rows: Sequence[Sequence[Cell]], style: str, *, right: Sequence[str] = ()) -> str:
    """Returns the rows as text in `style`. In a table the columns named in `right` are aligned to the right."""
    if style == "json":
        return json.dumps([dict(zip(header, row, strict=True)) for row in rows], indent=2)
    if style == "csv":
        return csv_text(header, rows).rstrip("\n")
    texts = [list(header), *([one_line("" if cell is None else str(cell)) for cell in row] for row in rows)]
    columns = [_aligned(column, right=column[0] in right) for column in zip(*texts, strict=True)]
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


def one_line(text: str) -> str:
    """Returns `text` as one line that does nothing to a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def terminal_safe(text: str) -> str:
    """Returns `text`, which may have many lines, with its escape sequences shown in place of obeyed.

    Also replaced: characters that turn the direction of text around, so that it reads differently from what it is, and
    halves of surrogate pairs, which cannot be written. Carriage returns are dropped, as they would overwrite a line.
    """
    return text.translate(_SAFE_CHARACTERS)


def utc_text(seconds: float | None) -> str:
    """Returns a time in ISO 8601; empty for none."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment_option(text: str, *, option: str, now: float, direction: int) -> float:
    """Returns the Unix time that an option names; see `parse_timestamp`. Raises `ClickException`."""
    try:
        return parse_timestamp(text, now=now, direction=direction)
    except ValueError as exc:
        raise click.ClickException(f"{option}: {exc}") from None


def _aligned(column: Sequence[str], *, right: bool) -> list[str]:
    width = max(map(len, column))
    return [text.rjust(width) if right else text.ljust(width) for text in column]
