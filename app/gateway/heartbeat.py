"""Heartbeat of a worker process: while it beats, its open calls are its own; afterwards the reaper settles them.

The worker's id is new for every process. One background thread a worker, started by its first call.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading

import structlog

from app.errors import StoreUnavailable
from app.store.redis.client import Redis
from app.store.redis.keys import WORKERS

log = structlog.get_logger()


class Heartbeat:
    """Beats three times in `timeout_s`, after which the reaper gives a silent worker up."""

    def __init__(self, *, redis: Redis, timeout_s: float) -> None:
        self._beat = redis.script("beat")
        self._interval_s = timeout_s / 3
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def announce(self) -> bool:
        """Starts the beats unless they run. Returns True the first time, and may raise `StoreUnavailable` then."""
        if self._thread is not None:
            return False
        self.beat()
        if self._thread is not None:  # another greenlet was here while this one waited for Redis
            return False
        self._thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)
        self._thread.start()
        return True

    def beat(self) -> None:
        self._beat([WORKERS], [self.worker_id])

    def stop(self) -> None:
        self._stop.set()

    def _keep_beating(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self.beat()
            except StoreUnavailable:
                log.warning("presence_beat_failed", worker=self.worker_id)
            except Exception:  # boundary: without the beat every later call would be declared lost
                log.exception("presence_beat_failed", worker=self.worker_id)
