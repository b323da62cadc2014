"""`flask usage`: usage report from the ledger, by model, key, user, …"""

from __future__ import annotations

import time

import click
from flask.cli import with_appcontext

from app.cli.command import one_line_errors, services
from app.cli.rendering import format_option, moment_option, render_rows
from app.domain.csv_export import Cell
from app.store.reports import COUNTS, GROUPINGS, Grouping, total


@click.command("usage")
@with_appcontext
@click.option("--by", type=click.Choice(GROUPINGS), default="model", show_default=True)
@click.option("--since", help="From this moment on: 2026-11-01, 2026-11-01T12:00:00Z, 7d, 24h. Times are UTC.")
@click.option("--until", help="Up to and without this moment.")
@format_option
def usage(by: Grouping, since: str | None, until: str | None, style: str) -> None:
    """Calls, tokens and cost."""
    now = time.time()
    with one_line_errors():
        lines = services().ledger.usage(
            by,
            since=None if since is None else moment_option(since, option="--since", now=now, direction=-1),
            until=None if until is None else moment_option(until, option="--until", now=now, direction=-1),
        )
    header = list(total([]).to_dict(by))
    rows: list[list[Cell]] = [list(line.to_dict(by).values()) for line in lines]
    if style == "table" and rows:
        # A column of nothing would be taken for a mistake: calls without a user, say.
        rows = [[row[0] or "-", *row[1:]] for row in rows] + [list(total(lines).to_dict(by).values())]
    click.echo(render_rows(header, rows, style, right=(*COUNTS, "cost_usd")))
