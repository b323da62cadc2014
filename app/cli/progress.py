"""What changes while one looks at it: a line that is written over on a terminal, and added to a file or a pipe.

And the two things that are shown in it: how full the queue is, and how far a batch has come.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import click

from app.store.job_records import QueueDepth

_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_RATE_S = 15.0  # the rate is that of the last quarter of a minute: it follows when workers come or go
_WIDTH = 24


class StatusLine:
    """Shows one text after the other. A file gets each that differs from the one before, with the time in front."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._live = sys.stdout.isatty()
        self._shown = ""

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live and self._shown:
            click.echo()

    def show(self, text: str) -> None:
        if self._live:
            # A line that wraps could not be written over. ESC [ K clears what a longer one before has left.
            room = shutil.get_terminal_size().columns - 1
            click.echo(f"\r{text[:room]}\x1b[K", nl=False)
        elif text != self._shown:
            click.echo(f"{datetime.fromtimestamp(self._clock(), UTC):%Y-%m-%dT%H:%M:%SZ}  {text}")
        self._shown = text


def depth_text(depth: QueueDepth) -> str:
    workers = f"{depth.workers} worker{'' if depth.workers == 1 else 's'}"
    oldest = f"oldest waits {_duration(depth.oldest_s)}" if depth.waiting else "nothing waits"
    return f"waiting {depth.waiting} · running {depth.running} of {depth.slots} ({workers}) · {oldest}"


class BatchProgress(Protocol):
    """What a batch tells of itself; `status` is one of OpenAI's. `completed` and `failed` are lines, of `total`."""

    @property
    def status(self) -> str: ...
    @property
    def total(self) -> int: ...
    @property
    def completed(self) -> int: ...
    @property
    def failed(self) -> int: ...


class ProgressBar:
    """A batch's progress as text: `in_progress [######------] 250/500 · 3 failed · 42/s · 0:06 left`."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def text(self, batch: BatchProgress) -> str:
        done = batch.completed + batch.failed
        filled = _WIDTH * min(done, batch.total) // batch.total if batch.total else 0
        parts = [f"{batch.status} [{'#' * filled}{'-' * (_WIDTH - filled)}] {done}/{batch.total}"]
        if batch.failed:
            parts.append(f"{batch.failed} failed")
        rate = self._rate(done)
        if rate and not has_ended(batch):
            parts.append(f"{rate:.1f}/s" if rate < 10 else f"{rate:.0f}/s")
            parts.append(f"{_duration(max(batch.total - done, 0) / rate)} left")
        return " · ".join(parts)

    def _rate(self, done: int) -> float:
        """Lines a second, lately."""
        now = self._clock()
        self._seen.append((now, done))
        while now - self._seen[0][0] > _RATE_S and len(self._seen) > 2:
            self._seen.popleft()
        since, before = self._seen[0]
        return (done - before) / (now - since) if now > since else 0.0


def has_ended(batch: BatchProgress) -> bool:
    return batch.status in _ENDED


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
