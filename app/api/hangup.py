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


def watch(environ: dict[str, Any], cancel: CancelToken) -> Callable[[], None]:
    """Cancels `cancel` when the client's side closes. Returns what stops watching (safe to call twice)."""
    client = environ.get("gunicorn.socket")
    raw = getattr(client, "_sock", None)
    if client is None or raw is None:
        return _nothing
    watcher = gevent.get_hub().loop.io(client.fileno(), 1)

    def readable() -> None:
        try:
            gone = raw.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return
        except OSError:
            gone = True
        # Bytes are a pipelined request: the client is there, and what follows can no longer be told from them.
        stop()
        if gone:
            cancel.cancel()

    def stop() -> None:
        watcher.stop()
        watcher.close()

    watcher.start(readable)
    return stop


def _nothing() -> None:
    return None
