"""Hang-up watcher: notices that a client closed its connection while nothing is being sent to it.

A write would notice too, but a model that thinks for a minute gives nothing to write: the client's socket is
watched instead. Only gunicorn's gevent worker hands us the socket; elsewhere nothing is watched.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import gevent

from app.net.environ import HANGUP_WATCHER


class HangupWatcher:
    """Watches one client's socket, request after request: `server.connection` keeps one for each connection."""

    __slots__ = ("_client", "_on_hangup", "_watcher")

    def __init__(self, client: Any) -> None:
        self._client = client._sock
        self._watcher = gevent.get_hub().loop.io(client.fileno(), 1)
        self._on_hangup: Callable[[], object] | None = None

    def watch(self, on_hangup: Callable[[], object]) -> Callable[[], None]:
        """Calls `on_hangup` when the client's side closes. Returns a function that stops it (safe to call twice)."""
        self._on_hangup = on_hangup
        self._watcher.start(self._readable)
        return self._stop

    def close(self) -> None:
        """To be called before the socket is closed."""
        self._watcher.close()

    def _stop(self) -> None:
        self._watcher.stop()
        self._on_hangup = None

    def _readable(self) -> None:
        try:
            closed = self._client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return
        except OSError:
            closed = True
        # Bytes are a pipelined request: the client is there, and a later hang-up can no longer be told from them.
        on_hangup = self._on_hangup
        self._stop()
        if closed and on_hangup is not None:
            on_hangup()


def watch_for_hangup(environ: dict[str, Any], on_hangup: Callable[[], object]) -> Callable[[], None]:
    """Calls `on_hangup` when the client of this WSGI request hangs up. Returns a function that stops watching (safe to
    call twice)."""
    of_connection: HangupWatcher | None = environ.get(HANGUP_WATCHER)
    if of_connection is not None:
        return of_connection.watch(on_hangup)
    client = environ.get("gunicorn.socket")
    if getattr(client, "_sock", None) is None:
        return _do_nothing
    watcher = HangupWatcher(client)
    watcher.watch(on_hangup)
    return watcher.close


def _do_nothing() -> None:
    return None
