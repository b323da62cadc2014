"""A worker's sign of life: while it shows one, its open calls are its own; afterwards they are lost.

The id is new for every process. One background beat a worker, started by its first call.
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
    """`timeout_s` is when others give this worker up; it beats three times as often."""

    def __init__(self, *, redis: Redis, timeout_s: float) -> None:
        self._beat = redis.script("beat")
        self._interval_s = timeout_s / 3
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._beating: threading.Thread | None = None
        self._stop = threading.Event()

    def announce(self) -> bool:
        """Makes sure that this worker counts as alive; True the first time. Raises `StoreUnavailable` then."""
        if self._beating is not None:
            return False
        self.beat()
        if self._beating is not None:  # another greenlet was here while this one waited for Redis
            return False
        self._beating = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)
        self._beating.start()
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
