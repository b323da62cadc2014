"""The command line: `flask --app app keys | usage | ledger | config`. Thin commands over the services.

What goes wrong is one line on stderr and exit code 1.
"""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import click
from flask import Flask, current_app
from flask.cli import AppGroup, with_appcontext

from app.domain.config import GatewayConfig
from app.domain.identity import Role
from app.domain.money import usd
from app.errors import GatewayError
from app.settings import load_settings
from app.store.backup import Backups, standing_in
from app.store.keys import KeyInfo
from app.store.reports import Grouping, UsageLine

if TYPE_CHECKING:
    from app.services import Services

Cell = str | int | None
_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_YEAR_9999 = 253_370_764_800
_COUNTS = ("calls", "errors", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")


def register(app: Flask) -> None:
    for command in (keys, usage, ledger, config):
        app.cli.add_command(command)


def is_command() -> bool:
    """Whether this process was started as one of the commands, whose standard output is their result."""
    return click.get_current_context(silent=True) is not None


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Inside a command, a `GatewayError` ends it with one line on stderr and exit code 1; elsewhere it passes.

    `create_app` builds its services in here: `flask` calls it before it can find any of our commands.
    """
    try:
        yield
    except GatewayError as exc:
        if not is_command():
            raise
        raise click.ClickException(exc.message) from None


class _Group(AppGroup):
    def invoke(self, ctx: click.Context) -> Any:
        with one_line_errors():
            return super().invoke(ctx)


class Stop:
    """Set by a signal. Not an Event: a handler that interrupts `Event.wait` can deadlock in `Event.set`."""

    def __init__(self) -> None:
        self._stopped = False

    def set(self, *_signal: Any) -> None:
        self._stopped = True

    def is_set(self) -> bool:
        return self._stopped

    def wait(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not self._stopped and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))
        return self._stopped


def _services() -> Services:
    return cast("Services", current_app.extensions["penstock"])


_format = click.option(
    "--format", "style", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True
)

keys = _Group("keys", help="API keys.")


@keys.command("create")
@click.option("--name", required=True, help="Who or what the key is for.")
@click.option("--plan", default="default", show_default=True, help="A plan of the configuration: the key's limits.")
@click.option("--role", type=click.Choice([role.value for role in Role]), default=Role.USER.value, show_default=True)
@click.option("--models", help="Comma-separated models that the key may use; all when left out.")
@click.option("--expires", help="As in 30d or 2027-01-01 (UTC); never when left out.")
def create_key(name: str, plan: str, role: str, models: str | None, expires: str | None) -> None:
    """Create a key and print it, once, alone on the last line."""
    services = _services()
    allowed = _checked(services.settings.config, plan, models)
    now = time.time()
    expires_at = None if expires is None else moment(expires, option="--expires", now=now, direction=1)
    if expires_at is not None and expires_at <= now:
        raise click.ClickException(f"--expires: {expires} is in the past")
    key, info = services.keys.create(name, plan=plan, role=Role(role), models=allowed, expires_at=expires_at)
    click.echo(f"{info.key_id} ({info.name}), plan {info.plan}. The key is shown only now:", err=True)
    click.echo(key)


@keys.command("list")
@_format
def list_keys(style: str) -> None:
    """List the keys, the oldest first."""
    header = ("key_id", "name", "prefix", "role", "plan", "models", "status", "created", "expires")
    now = time.time()
    click.echo(_rendered(header, [_key_cells(info, now) for info in _services().keys.list()], style))


@keys.command("revoke")
@click.argument("key_id")
def revoke_key(key_id: str) -> None:
    """End a key for good, by its id."""
    info = _services().keys.revoke(key_id, "cli")
    click.echo(f"Revoked {info.key_id} ({info.name}).")


@click.command("usage")
@with_appcontext
@click.option("--by", type=click.Choice(["model", "key", "day"]), default="model", show_default=True)
@click.option("--since", help="From this moment on: 2026-11-01, 2026-11-01T12:00:00Z, 7d, 24h. Times are UTC.")
@click.option("--until", help="Up to and without this moment.")
@_format
def usage(by: Grouping, since: str | None, until: str | None, style: str) -> None:
    """Calls, tokens and cost."""
    now = time.time()
    with one_line_errors():
        lines = _services().ledger.usage(
            by,
            since=None if since is None else moment(since, option="--since", now=now, direction=-1),
            until=None if until is None else moment(until, option="--until", now=now, direction=-1),
        )
    header = (by, *(("name",) if by == "key" else ()), *_COUNTS, "cost_usd")
    rows = [_usage_cells(line, by) for line in lines]
    if style == "table" and rows:
        total: list[Cell] = [sum(getattr(line, name) for line in lines) for name in _COUNTS]
        rows.append(["total", *([""] if by == "key" else []), *total, usd(sum(line.cost_nanousd for line in lines))])
    click.echo(_rendered(header, rows, style))


ledger = _Group("ledger", help="The process that writes the ledger.")


@ledger.command("run")
def run_ledger() -> None:
    """Move rows from Redis to the database until SIGTERM or SIGINT. Exactly one is needed."""
    services = _services()
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.set)
    signal.signal(signal.SIGINT, stop.set)
    alive = services.settings.data_dir / "ledger-alive"  # its age tells a health check whether the loop turns
    alive.parent.mkdir(parents=True, exist_ok=True)
    with Backups(database=services.database).kept_out():
        services.database.migrate()
        services.outbox.run(stop, reaper=services.reaper, keys=services.keys, show_life=alive.touch)


@ledger.command("migrate")
def migrate() -> None:
    """Bring the database's schema to the newest version."""
    _services().database.migrate()
    click.echo("The database is up to date.")


@ledger.command("backup")
@click.argument("file")
def back_up(file: str) -> None:
    """Copy the SQLite ledger to FILE (- is standard output), also while it is in use."""
    services = _services()
    with standing_in(file, "out", below=services.settings.data_dir) as path:
        copied = Backups(database=services.database).back_up(path)
    click.echo(f"Backed up {copied}.", err=True)


@ledger.command("restore")
@click.argument("file")
def restore(file: str) -> None:
    """Put FILE (- is standard input) in the place of the SQLite ledger, which is kept. No ledger process may run."""
    services = _services()
    services.settings.data_dir.mkdir(parents=True, exist_ok=True)
    with standing_in(file, "in", below=services.settings.data_dir) as path:
        restored = Backups(database=services.database).restore(path)
    click.echo(f"Restored {restored.contents}; {restored.revoked} keys revoked since then stay revoked.", err=True)
    if restored.kept:
        click.echo(f"What was there before: {restored.kept}", err=True)


config = _Group("config", help="The configuration.")


@config.command("check")
def check_config() -> None:
    """Check the environment and the YAML file; one line says what is wrong."""
    settings = load_settings()
    counts = (f"{len(getattr(settings.config, section))} {section}" for section in ("providers", "models", "plans"))
    click.echo(f"OK: {settings.config_path}: {', '.join(counts)}")


def moment(text: str, *, option: str, now: float, direction: int) -> float:
    """Unix seconds of a date, an ISO date and time (UTC unless it says otherwise), or a distance from `now` as `7d`."""
    distance = re.fullmatch(r"(\d{1,9})([mhdw])", text)
    if distance:
        seconds = now + direction * int(distance[1]) * _UNITS_S[distance[2]]
    else:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            expected = "2026-11-01, 2026-11-01T12:00:00Z, 7d or 24h"
            raise click.ClickException(f"{option}: expected {expected}, not {text!r}") from None
        seconds = when.timestamp() if when.tzinfo else when.replace(tzinfo=UTC).timestamp()
    if not 0 <= seconds < _YEAR_9999:
        raise click.ClickException(f"{option}: {text} is out of range")
    return seconds


def _checked(config: GatewayConfig, plan: str, models: str | None) -> list[str] | None:
    if plan not in config.plans:
        raise click.ClickException(f"--plan: no plan {plan!r}; expected one of: {', '.join(sorted(config.plans))}")
    if models is None:
        return None
    names = [name.strip() for name in models.split(",")]
    for name in names:
        if name not in config.models:
            known = ", ".join(sorted(config.models))
            raise click.ClickException(f"--models: no model {name!r}; expected some of: {known}")
    return names


def _key_cells(info: KeyInfo, now: float) -> list[Cell]:
    status = "active"
    if info.revoked_at is not None:
        status = "revoked"
    elif info.expires_at is not None and info.expires_at <= now:
        status = "expired"
    models = "" if info.models is None else ",".join(info.models)
    times = [info.created_at, info.expires_at]
    stamps = ["" if t is None else datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for t in times]
    return [info.key_id, info.name, info.prefix, info.role.value, info.plan, models, status, *stamps]


def _usage_cells(line: UsageLine, by: Grouping) -> list[Cell]:
    name = [line.name] if by == "key" else []
    return [line.group, *name, *(getattr(line, count) for count in _COUNTS), line.cost_usd]


def _rendered(header: Sequence[str], rows: Sequence[Sequence[Cell]], style: str) -> str:
    if style == "json":
        return json.dumps([dict(zip(header, row, strict=True)) for row in rows], indent=2)
    if style == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([[_harmless(cell) for cell in row] for row in rows])
        return out.getvalue().rstrip("\n")
    texts = [list(header), *([_printable(str(cell)) for cell in row] for row in rows)]
    columns = [_aligned(column, right=column[0] in (*_COUNTS, "cost_usd")) for column in zip(*texts, strict=True)]
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


def _aligned(column: Sequence[str], *, right: bool) -> list[str]:
    width = max(map(len, column))
    return [text.rjust(width) if right else text.ljust(width) for text in column]


def _harmless(cell: Cell) -> Cell:
    """A spreadsheet runs a cell that begins like a formula; names are chosen by people."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
