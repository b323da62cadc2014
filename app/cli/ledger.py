"""`flask ledger`: the process that writes the ledger, and the care of its database."""

from __future__ import annotations

from functools import partial

import click

from app.cli.command import Group, services
from app.stop_signal import StopSignal
from app.store.sql.backup import Backups, standing_in

_ADOPTED_AT_ONCE = 2000  # settlements, some 0.3 s: rows must not wait longer for their turn
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
        adopt = partial(found.spool.replay, found.redis.script("settle"), _ADOPTED_AT_ONCE)
        found.outbox.run(stop, reaper=found.reaper, keys=found.keys, adopt=adopt, show_life=alive.touch)


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
    with standing_in(file, "out", below=found.settings.data_dir) as path:
        copied = Backups(database=found.database).back_up(path)
    click.echo(f"Backed up {copied}.", err=True)


@ledger.command("restore")
@click.argument("file")
def restore(file: str) -> None:
    """Put FILE (- is standard input) in the place of the SQLite ledger, which is kept. No ledger process may run."""
    found = services()
    found.settings.data_dir.mkdir(parents=True, exist_ok=True)
    with standing_in(file, "in", below=found.settings.data_dir) as path:
        restored = Backups(database=found.database).restore(path)
    found.installation.adopt_database()
    click.echo(f"Restored {restored.contents}; {restored.revoked} keys revoked since then stay revoked.", err=True)
    if restored.kept:
        click.echo(f"What was there before: {restored.kept}", err=True)
