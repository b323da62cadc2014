"""Notices that a client hung up while nothing is being sent to it, and cancels its call.

A write would notice too, but a model that thinks for a minute gives nothing to write: the client's socket is
watched instead. Only gunicorn's gevent worker hands us the socket; elsewhere nothing is watched.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import gevent

from app.providers.base import CancelToken


class Hangup:
    """Watches one client, call after call: the short way keeps one for each connection."""

    __slots__ = ("_cancel", "_client", "_watcher")

    def __init__(self, client: Any) -> None:
        self._client = client._sock
        self._watcher = gevent.get_hub().loop.io(client.fileno(), 1)
        self._cancel: CancelToken | None = None

    def watch(self, cancel: CancelToken) -> Callable[[], None]:
        """Cancels `cancel` when the client's side closes. Returns what stops watching (safe to call twice)."""
        self._cancel = cancel
        self._watcher.start(self._readable)
        return self._stop

    def close(self) -> None:
        """To be called before the socket is closed."""
        self._watcher.close()

    def _stop(self) -> None:
        self._watcher.stop()
        self._cancel = None

    def _readable(self) -> None:
        try:
            gone = self._client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return
        except OSError:
            gone = True
        # Bytes are a pipelined request: the client is there, and what follows can no longer be told from them.
        cancel = self._cancel
        self._stop()
        if gone and cancel is not None:
            cancel.cancel()


def watch(environ: dict[str, Any], cancel: CancelToken) -> Callable[[], None]:
    """Cancels `cancel` when the client's side closes. Returns what stops watching (safe to call twice)."""
    kept: Hangup | None = environ.get("penstock.hangup")
    if kept is not None:
        return kept.watch(cancel)
    client = environ.get("gunicorn.socket")
    if getattr(client, "_sock", None) is None:
        return _nothing
    hangup = Hangup(client)
    hangup.watch(cancel)
    return hangup.close


def _nothing() -> None:
    return None
