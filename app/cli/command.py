"""What every command is made of: its services, its errors as one line, and how a signal ends one that goes on."""

from __future__ import annotations

import signal
import time
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


class Group(AppGroup):
    def invoke(self, ctx: click.Context) -> Any:
        with one_line_errors():
            return super().invoke(ctx)


class StopSignal:
    """Set by a signal. Not an Event: a handler that interrupts `Event.wait` can deadlock in `Event.set`."""

    def __init__(self) -> None:
        self._stopped = False

    @classmethod
    def by_signal(cls) -> StopSignal:
        """Set by SIGTERM and SIGINT from now on."""
        stop = cls()
        signal.signal(signal.SIGTERM, stop.set)
        signal.signal(signal.SIGINT, stop.set)
        signal.pthread_sigmask(
            signal.SIG_UNBLOCK, [signal.SIGTERM]
        )  # which our supervisor may have held back until now
        return stop

    def set(self, *_signal: Any) -> None:
        self._stopped = True

    def is_set(self) -> bool:
        return self._stopped

    def wait(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not self._stopped and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))
        return self._stopped


def services() -> Services:
    return cast("Services", current_app.extensions["penstock"])
