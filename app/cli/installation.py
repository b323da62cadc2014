"""`flask installation`: shows the installation id of DATA_DIR, database and Redis, and makes them one installation."""

from __future__ import annotations

import click

from app.cli.command import Group, services

installation = Group("installation", help="Which DATA_DIR, database and Redis belong together.")


@installation.command("show")
def show() -> None:
    """Print the id that each of the three has."""
    found = services().installation
    for name, value in (
        ("DATA_DIR", found.id_in_directory()),
        ("database", found.id_in_database()),
        ("Redis", found.id_in_redis()),
    ):
        click.echo(f"{name.ljust(8)}  {value or '-'}")


@installation.command("adopt")
def adopt() -> None:
    """Make the three belong together from now on: after a move, or when a start was refused and you know why."""
    services().database.migrate()
    click.echo(f"DATA_DIR, the database and Redis belong to installation {services().installation.adopt()}.")
