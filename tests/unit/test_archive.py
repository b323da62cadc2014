"""Dead workers' figures: they stay in every sum, and take no more room however many workers there were."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, multiprocess
from structlog.testing import capture_logs

from app.telemetry.archive import _read_values, _write_values, exclusive_lock, fold, shared_lock
from app.telemetry.metrics import remove_worker

LIMITS = resource.getrlimit(resource.RLIMIT_FSIZE)

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
    with shared_lock(directory):
        multiprocess.MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]
        return {
            (sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))): sample.value
            for family in registry.collect()
            for sample in family.samples
        }


@pytest.mark.server
def test_what_the_dead_have_counted_stays_and_their_files_go(tmp_path: Path) -> None:
    for number in range(1, 6):
        pid = worker(tmp_path)
        before = scraped(tmp_path)
        with exclusive_lock(tmp_path):
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


@pytest.mark.server
def test_a_scrape_never_sees_a_fold_half_done(tmp_path: Path) -> None:
    pid = worker(tmp_path)
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    script = f"from app.telemetry.metrics import remove_worker; remove_worker({pid})"
    with shared_lock(tmp_path):
        folding = subprocess.Popen([sys.executable, "-c", script], env=env)
        with pytest.raises(subprocess.TimeoutExpired):
            folding.wait(3)
        assert (tmp_path / f"counter_{pid}.db").exists()
    assert folding.wait(20) == 0
    assert not (tmp_path / f"counter_{pid}.db").exists()


def test_a_file_that_was_never_finished_does_not_stop_a_scrape_for_good(tmp_path: Path) -> None:
    fold(tmp_path, worker(tmp_path))
    before = scraped(tmp_path)
    (tmp_path / "counter_7.db").touch()  # killed between making the file and giving it its size
    with pytest.raises(struct.error):
        scraped(tmp_path)
    fold(tmp_path, 7)
    assert scraped(tmp_path) == before


def test_without_room_nothing_changes_and_the_master_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fold(tmp_path, worker(tmp_path))
    pid = worker(tmp_path)
    before = scraped(tmp_path)
    with monkeypatch.context() as full:
        full.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, LIMITS[1]))
        try:
            with capture_logs() as logs:
                remove_worker(pid)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, LIMITS)
    assert [line["event"] for line in logs] == ["worker_figures_not_folded"]
    assert scraped(tmp_path) == before
    fold(tmp_path, pid)
    assert scraped(tmp_path) == before


def test_a_scrape_that_hangs_does_not_hang_the_master(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.telemetry.archive._LOCK_TIMEOUT_S", 0.05)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    pid = worker(tmp_path)
    with shared_lock(tmp_path), capture_logs() as logs:
        remove_worker(pid)
    assert [line["event"] for line in logs] == ["worker_figures_not_folded"]
    assert (tmp_path / f"counter_{pid}.db").exists(), "still counted"


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=40), st.floats(0, 1e9), max_size=30))
def test_the_archive_holds_what_was_written_whatever_the_names_are(values: dict[str, float]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "counter_archive.new"
        _write_values(file, values)
        room = file.stat().st_size
        assert _read_values(file) == values
        assert room <= 8 + sum(len(key.encode()) + 28 for key in values), "all of it was there from the start"
