"""`flask usage`: what the ledger says, by model, key or day."""

from __future__ import annotations

import time

import click
from flask.cli import with_appcontext

from app.cli.command import one_line_errors, services
from app.cli.rendering import Cell, format_option, moment, rendered
from app.domain.money import usd
from app.store.reports import Grouping, UsageLine

_COUNTS = ("calls", "errors", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")


@click.command("usage")
@with_appcontext
@click.option("--by", type=click.Choice(["model", "key", "day"]), default="model", show_default=True)
@click.option("--since", help="From this moment on: 2026-11-01, 2026-11-01T12:00:00Z, 7d, 24h. Times are UTC.")
@click.option("--until", help="Up to and without this moment.")
@format_option
def usage(by: Grouping, since: str | None, until: str | None, style: str) -> None:
    """Calls, tokens and cost."""
    now = time.time()
    with one_line_errors():
        lines = services().ledger.usage(
            by,
            since=None if since is None else moment(since, option="--since", now=now, direction=-1),
            until=None if until is None else moment(until, option="--until", now=now, direction=-1),
        )
    header = (by, *(("name",) if by == "key" else ()), *_COUNTS, "cost_usd")
    rows = [_cells(line, by) for line in lines]
    if style == "table" and rows:
        total: list[Cell] = [sum(getattr(line, name) for line in lines) for name in _COUNTS]
        rows.append(["total", *([""] if by == "key" else []), *total, usd(sum(line.cost_nanousd for line in lines))])
    click.echo(rendered(header, rows, style, right=(*_COUNTS, "cost_usd")))


def _cells(line: UsageLine, by: Grouping) -> list[Cell]:
    name = [line.name] if by == "key" else []
    return [line.group, *name, *(getattr(line, count) for count in _COUNTS), line.cost_usd]
