"""Status line of `flask jobs watch`: the depth of the queue, or the progress bar of a batch.

It is overwritten on a terminal; a file or a pipe gets a line for each change.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

import click

from app.domain.batch import UNFINISHED_STATUSES
from app.store.batches import Batch
from app.store.job_records import QueueDepth

_RATE_WINDOW_S = 15.0  # short enough to follow when queue workers come or go
_BAR_CHARS = 24


class StatusLine:
    """Shows one text after the other. A file gets each that differs from the one before, with the time in front."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._is_terminal = sys.stdout.isatty()
        self._shown = ""

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal and self._shown:
            click.echo()

    def show(self, text: str) -> None:
        if self._is_terminal:
            # A line that wraps could not be overwritten. ESC [ K clears the rest of a longer one before.
            columns = shutil.get_terminal_size().columns - 1
            click.echo(f"\r{text[:columns]}\x1b[K", nl=False)
        elif text != self._shown:
            click.echo(f"{datetime.fromtimestamp(self._clock(), UTC):%Y-%m-%dT%H:%M:%SZ}  {text}")
        self._shown = text


def depth_text(depth: QueueDepth) -> str:
    """Returns the depth of the queue as text."""
    workers = f"{depth.workers} worker{'' if depth.workers == 1 else 's'}"
    oldest = f"oldest waits {_duration(depth.oldest_s)}" if depth.waiting else "nothing waits"
    return f"waiting {depth.waiting} · running {depth.running} of {depth.slots} ({workers}) · {oldest}"


class ProgressBar:
    """Progress of a batch as text: `in_progress [######------] 250/500 · 3 failed · 42/s · 0:06 left`."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()  # times, and lines done by then

    def text(self, batch: Batch) -> str:
        done = batch.completed + batch.failed
        filled = _BAR_CHARS * min(done, batch.total) // batch.total if batch.total else 0
        parts = [f"{batch.status} [{'#' * filled}{'-' * (_BAR_CHARS - filled)}] {done}/{batch.total}"]
        if batch.failed:
            parts.append(f"{batch.failed} failed")
        rate = self._rate(done)
        if rate and not has_ended(batch):
            parts.append(f"{rate:.1f}/s" if rate < 10 else f"{rate:.0f}/s")
            parts.append(f"{_duration(max(batch.total - done, 0) / rate)} left")
        return " · ".join(parts)

    def _rate(self, done: int) -> float:
        """Lines a second within the window."""
        now = self._clock()
        self._samples.append((now, done))
        while now - self._samples[0][0] > _RATE_WINDOW_S and len(self._samples) > 2:
            self._samples.popleft()
        began, done_before = self._samples[0]
        return (done - done_before) / (now - began) if now > began else 0.0


def has_ended(batch: Batch) -> bool:
    return batch.status not in UNFINISHED_STATUSES


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
