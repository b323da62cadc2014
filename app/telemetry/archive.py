"""The counters of workers that are no more, folded into one file a kind.

prometheus_client keeps a file a kind and process, and adds them all up at each scrape. Dead workers' counters must stay
in the sums, but their files must not pile up as workers are replaced. A scrape and a fold exclude each other; nothing
more is needed, since gunicorn's master folds, and begins with an empty directory when it starts.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

_KINDS = ("counter", "histogram")


def fold(directory: Path, pid: int) -> None:
    """Adds what process `pid` counted to the archive, and removes its files. Call it inside `changing`."""
    for kind in _KINDS:
        dead, archive = directory / f"{kind}_{pid}.db", directory / f"{kind}_archive.db"
        if not dead.exists():
            continue
        values: dict[str, float] = {}
        for file in (archive, dead):
            if file.exists():
                for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):
                    values[key] = values.get(key, 0.0) + value
        new = directory / f"{kind}_archive.new"
        new.unlink(missing_ok=True)
        folded = MmapedDict(str(new))
        for key, value in values.items():
            folded.write_value(key, value, 0.0)
        folded.close()
        new.rename(archive)
        dead.unlink()


@contextmanager
def changing(directory: Path) -> Iterator[Path]:
    """Inside, nobody reads."""
    with _lock(directory, fcntl.LOCK_EX):
        yield directory


@contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Inside, no file changes its place."""
    with _lock(directory, fcntl.LOCK_SH):
        yield


@contextmanager
def _lock(directory: Path, how: int) -> Iterator[None]:
    with (directory / "lock").open("a") as file:
        fcntl.flock(file, how)
        yield
