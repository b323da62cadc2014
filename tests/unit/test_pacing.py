"""Streams pause when, and only when, the event loop lags."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace

import gevent
import pytest

from app.providers import pacing as pacing_module
from app.providers.pacing import Pacing


def busy(seconds: float) -> None:
    """Keeps the event loop from turning, as much work would."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_a_loop_that_keeps_up_passes_every_chunk_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each sample ends when it is due, however busy this machine is.
    samples = itertools.count()
    monkeypatch.setattr(pacing_module, "time", SimpleNamespace(monotonic=lambda: next(samples) * 0.05))
    pauses: list[float] = []
    pacing = Pacing(pause=pauses.append)
    pacing.add_stream()
    for _ in range(6):
        gevent.sleep(0.03)
        pacing.pause_if_lagging()
    pacing.remove_stream()
    assert pauses == []
    assert next(samples) >= 4, "it was watched"


def test_a_loop_that_lags_makes_streams_pause_until_the_last_one_has_ended() -> None:
    pauses: list[float] = []
    pacing = Pacing(pause=pauses.append)
    pacing.add_stream()
    while pacing.lag_s < 0.05:
        busy(0.2)
        gevent.sleep(0.001)
    pacing.pause_if_lagging()
    assert 0.015 < pauses[0] <= 0.15, "longer pauses would be seen by a reader"
    pacing.remove_stream()
    while pacing.lag_s:
        gevent.sleep(0.01)
    pacing.pause_if_lagging()
    assert len(pauses) == 1
    pacing.add_stream()
    assert pacing.lag_s == 0, "a new stream starts a new watch"
    pacing.remove_stream()
