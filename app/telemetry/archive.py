"""Archive of dead workers' counters: one file a kind, into which each worker's files are folded when it has ended.

prometheus_client keeps a file a kind and process, and adds them all up at each scrape. Dead workers' counters must stay
in the sums, but their files must not pile up as workers are replaced. A scrape and a fold exclude each other; nothing
more is needed, since gunicorn's master folds, and begins with an empty directory when it starts.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from prometheus_client.mmap_dict import MmapedDict

from app.telemetry.mmap_files import entry_bytes

_KINDS = ("counter", "histogram")
_LOCK_TIMEOUT_S = 5.0
_HEADER_BYTES = 8


def fold(directory: Path, pid: int) -> None:
    """Adds what process `pid` counted to the archive, and removes its files. Requires the `exclusive_lock`.

    Raises OSError when there is no room; nothing has changed then, and the next scrape counts the files as before.
    """
    for kind in _KINDS:
        dead = directory / f"{kind}_{pid}.db"
        if not dead.exists():
            continue
        try:
            counted = _read_values(dead)
        except (struct.error, RuntimeError, ValueError):
            # Killed while it made the file, say. No scrape could read past it.
            dead.rename(dead.with_suffix(".broken"))
            continue
        archive = directory / f"{kind}_archive.db"
        values = _read_values(archive) if archive.exists() else {}
        for key, value in counted.items():
            values[key] = values.get(key, 0.0) + value
        new = directory / f"{kind}_archive.new"
        _write_values(new, values)
        new.rename(archive)
        dead.unlink()


@contextmanager
def exclusive_lock(directory: Path) -> Iterator[Path]:
    """Keeps scrapes out of `directory`. Raises TimeoutError when one does not end: gunicorn's master must not hang."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    with (directory / "lock").open("a") as file:
        while not _try_lock(file):
            if time.monotonic() > deadline:
                raise TimeoutError("a scrape holds the lock")
            time.sleep(0.01)
        yield directory


@contextmanager
def shared_lock(directory: Path) -> Iterator[None]:
    """Keeps the files of `directory` in their places while a scrape reads them."""
    with (directory / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_values(file: Path) -> dict[str, float]:
    return {key: value for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file))}


def _write_values(file: Path, values: dict[str, float]) -> None:
    # All its room is taken first: on a full disk that is an error, while a write into a map would be a SIGBUS.
    size = _HEADER_BYTES + sum(map(entry_bytes, values))
    with file.open("wb") as empty:
        os.posix_fallocate(empty.fileno(), 0, size)
    folded = MmapedDict(str(file))
    for key, value in values.items():
        folded.write_value(key, value, 0.0)
    folded.close()
