"""`flask ledger`: runs the ledger process; migrates, backs up and restores the ledger's database."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click

from app.cli.command import Group, services
from app.ledger_process import LedgerProcess
from app.stop_signal import StopSignal
from app.store.sql.backup import Backups

_REPLAYED_AT_ONCE = 2000  # settlements, some 0.3 s: rows must not wait longer for their turn
ledger = Group("ledger", help="The process that writes the ledger.")


@ledger.command("run")
def run_ledger() -> None:
    """Move rows from Redis to the database until SIGTERM or SIGINT. Exactly one is needed."""
    found = services()
    stop = StopSignal.by_signal()
    alive = found.settings.data_dir / "ledger-alive"  # its age tells a health check whether the loop turns
    alive.parent.mkdir(parents=True, exist_ok=True)
    with Backups(database=found.database).hold_off_restores():
        found.database.migrate()
        found.installation.check()
        LedgerProcess(
            outbox=found.outbox,
            reaper=found.reaper,
            keys=found.keys,
            replay_spools=partial(found.spool.replay, found.redis.script("settle"), _REPLAYED_AT_ONCE),
            show_life=alive.touch,
        ).run(stop)


@ledger.command("migrate")
def migrate() -> None:
    """Bring the database's schema to the newest version."""
    services().database.migrate()
    click.echo("The database is up to date.")


@ledger.command("backup")
@click.argument("file")
def back_up(file: str) -> None:
    """Copy the SQLite ledger to FILE (- is standard output), also while it is in use."""
    found = services()
    backups = Backups(database=found.database)
    if file == "-":
        copied = backups.back_up_to_stream(sys.stdout.buffer, below=found.settings.data_dir)
    else:
        copied = backups.back_up(Path(file))
    click.echo(f"Backed up {copied}.", err=True)


@ledger.command("restore")
@click.argument("file")
def restore(file: str) -> None:
    """Put FILE (- is standard input) in the place of the SQLite ledger, which is kept. No ledger process may run."""
    found = services()
    found.settings.data_dir.mkdir(parents=True, exist_ok=True)
    backups = Backups(database=found.database)
    if file == "-":
        restored = backups.restore_from_stream(sys.stdin.buffer, below=found.settings.data_dir)
    else:
        restored = backups.restore(Path(file))
    found.installation.adopt_database()
    click.echo(f"Restored {restored.contents}; {restored.revoked} keys revoked since then stay revoked.", err=True)
    if restored.kept:
        click.echo(f"What was there before: {restored.kept}", err=True)
