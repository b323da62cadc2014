"""The command line's view of progress."""

from __future__ import annotations

import io
import sys

import pytest

from app.cli.progress import ProgressBar, StatusLine, depth_text, has_ended
from app.store.batches import Batch
from app.store.job_records import QueueDepth


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def batch(completed: int, failed: int = 0, total: int = 100, status: str = "in_progress") -> Batch:
    unset = dict.fromkeys(Batch._fields)
    values = {"batch_id": "batch_1", "status": status, "total": total, "completed": completed, "failed": failed}
    return Batch._make((unset | values).values())


def test_on_a_terminal_one_line_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    with StatusLine() as line:
        line.show("a long text that would wrap")
        line.show("short")
    assert screen.getvalue() == "\ra long text that wo\x1b[K\rshort\x1b[K\n"


def test_a_file_gets_a_line_for_each_change_with_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    with StatusLine(clock=lambda: 1_793_534_400.0) as line:
        for text in ("a", "a", "b"):
            line.show(text)
    assert capsys.readouterr().out == "2026-11-01T12:00:00Z  a\n2026-11-01T12:00:00Z  b\n"


def test_the_bar_tells_how_far_how_fast_and_how_long_yet() -> None:
    now = [0.0]
    bar = ProgressBar(clock=lambda: now[0])
    assert bar.text(batch(0, total=0, status="validating")) == f"validating [{'-' * 24}] 0/0"
    now[0] = 10.0
    assert bar.text(batch(45, 5)) == (f"in_progress [{'#' * 12}{'-' * 12}] 50/100 · 5 failed · 5.0/s · 0:10 left")
    now[0] = 20.0
    assert bar.text(batch(95, 5, status="completed")) == f"completed [{'#' * 24}] 100/100 · 5 failed"


def test_the_rate_is_that_of_late() -> None:
    now = [0.0]
    bar = ProgressBar(clock=lambda: now[0])
    for second in range(100):
        now[0] = float(second)
        bar.text(batch(0, total=10_000))
    for second in range(15):
        now[0] = 100.0 + second
        text = bar.text(batch(40 * second, total=10_000))
    assert "· 37/s · 4:" in text
    for second in range(20):
        now[0] = 120.0 + second
        text = bar.text(batch(560, total=10_000))
    assert "/s" not in text, "nobody can tell when a batch that stands still will end"


@pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled"])
def test_a_batch_has_ended(status: str) -> None:
    assert has_ended(batch(1, status=status))


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "cancelling"])
def test_a_batch_goes_on(status: str) -> None:
    assert not has_ended(batch(1, status=status))


def test_the_queues_depth_is_one_line() -> None:
    assert (
        depth_text(QueueDepth(3, 2, 3725.0, 1, 50)) == "waiting 3 · running 2 of 50 (1 worker) · oldest waits 1:02:05"
    )
    assert depth_text(QueueDepth(0, 0, 0.0, 2, 8)) == "waiting 0 · running 0 of 8 (2 workers) · nothing waits"
