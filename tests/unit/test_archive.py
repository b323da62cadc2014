"""Dead workers' figures: they stay in every sum, and take no more room however many workers there were."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, multiprocess

from app.telemetry.archive import changing, fold, reading

WORKER = """
from prometheus_client import Counter, Histogram
calls = Counter("calls", "Calls.", ["model"])
seconds = Histogram("seconds", "Seconds.", ["model"], buckets=(1, 2))
for model in ("a", "b"):
    calls.labels(model).inc(3)
    seconds.labels(model).observe(0.5)
    seconds.labels(model).observe(1.5)
"""


def worker(directory: Path) -> int:
    """A process that counts and ends. Its number."""
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    process = subprocess.Popen([sys.executable, "-c", WORKER], env=env)
    assert process.wait(20) == 0
    return process.pid


def scraped(directory: Path) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    with reading(directory):
        multiprocess.MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]
        return {
            (sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))): sample.value
            for family in registry.collect()
            for sample in family.samples
        }


def test_what_the_dead_have_counted_stays_and_their_files_go(tmp_path: Path) -> None:
    for number in range(1, 6):
        pid = worker(tmp_path)
        before = scraped(tmp_path)
        with changing(tmp_path):
            fold(tmp_path, pid)
        after = scraped(tmp_path)
        assert after == before, "neither lost nor counted twice"
        assert after["calls_total", "model=a"] == 3 * number
        assert after["seconds_bucket", "le=1.0", "model=b"] == number
        assert after["seconds_count", "model=b"] == after["seconds_bucket", "le=+Inf", "model=b"] == 2 * number
        assert sorted(path.name for path in tmp_path.glob("*.db")) == ["counter_archive.db", "histogram_archive.db"]


def test_folding_a_worker_that_counted_nothing_changes_nothing(tmp_path: Path) -> None:
    fold(tmp_path, worker(tmp_path))
    before = scraped(tmp_path)
    fold(tmp_path, 999_999)
    assert scraped(tmp_path) == before


def test_a_scrape_never_sees_a_fold_half_done(tmp_path: Path) -> None:
    pid = worker(tmp_path)
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    script = f"from app.telemetry.metrics import worker_exited; worker_exited({pid})"
    with reading(tmp_path):
        folding = subprocess.Popen([sys.executable, "-c", script], env=env)
        with pytest.raises(subprocess.TimeoutExpired):
            folding.wait(3)
        assert (tmp_path / f"counter_{pid}.db").exists()
    assert folding.wait(20) == 0
    assert not (tmp_path / f"counter_{pid}.db").exists()
