"""The counters of workers that are no more, folded into one file a kind.

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

_KINDS = ("counter", "histogram")
_PATIENCE_S = 5.0
_MOST_AROUND_A_KEY = 28  # its length (4 bytes), up to 8 of padding, two doubles


def fold(directory: Path, pid: int) -> None:
    """Adds what process `pid` counted to the archive, and removes its files. Call it inside `changing`.

    Raises OSError when there is no room; nothing has changed then, and the next scrape counts the files as before.
    """
    for kind in _KINDS:
        dead = directory / f"{kind}_{pid}.db"
        if not dead.exists():
            continue
        try:
            counted = _values(dead)
        except (struct.error, RuntimeError, ValueError):
            # Killed while it made the file, say. No scrape could read past it.
            dead.rename(dead.with_suffix(".broken"))
            continue
        archive = directory / f"{kind}_archive.db"
        values = _values(archive) if archive.exists() else {}
        for key, value in counted.items():
            values[key] = values.get(key, 0.0) + value
        new = directory / f"{kind}_archive.new"
        _write(new, values)
        new.rename(archive)
        dead.unlink()


def _values(file: Path) -> dict[str, float]:
    return {key: value for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file))}


def _write(file: Path, values: dict[str, float]) -> None:
    # All its room is taken first: on a full disk that is an error, while a write into a map would be a SIGBUS.
    room = 8 + sum(len(key.encode()) + _MOST_AROUND_A_KEY for key in values)
    with file.open("wb") as empty:
        os.posix_fallocate(empty.fileno(), 0, room)
    folded = MmapedDict(str(file))
    for key, value in values.items():
        folded.write_value(key, value, 0.0)
    folded.close()


@contextmanager
def changing(directory: Path) -> Iterator[Path]:
    """Inside, nobody reads. Raises TimeoutError when a scrape does not end: gunicorn's master must not hang on it."""
    deadline = time.monotonic() + _PATIENCE_S
    with (directory / "lock").open("a") as file:
        while not _taken(file):
            if time.monotonic() > deadline:
                raise TimeoutError("a scrape holds the lock")
            time.sleep(0.01)
        yield directory


@contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Inside, no file changes its place."""
    with (directory / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
