"""Base of the commands: access to the services, and errors shown as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import click
from flask import current_app
from flask.cli import AppGroup

from app.errors import GatewayError

if TYPE_CHECKING:
    from app.services import Services


def is_command() -> bool:
    """Returns whether this process runs one of the commands, whose standard output is their result."""
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


class Group(AppGroup):
    """A group of commands whose errors are one line."""

    def invoke(self, ctx: click.Context) -> Any:
        with one_line_errors():
            return super().invoke(ctx)


def services() -> Services:
    return cast("Services", current_app.extensions["penstock"])
