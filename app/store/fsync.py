"""fsync in gevent's thread pool: a slow disk holds up the greenlet that waits for it, not the whole process."""

from __future__ import annotations

import os

import gevent


def fsync_in_thread(fileno: int) -> None:
    gevent.get_hub().threadpool.apply(os.fsync, (fileno,))
