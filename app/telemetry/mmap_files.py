"""Memory-mapped files of prometheus_client, preallocated: their room on the disk is taken before they are mapped.

prometheus_client maps sparse files: a page gets its block on the disk when it is first written, and where the disk is
full, that write is not an error but a SIGBUS, which ends the process. Here only the new series suffers.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

log = structlog.get_logger()
_FIRST_BYTES = 1 << 16


def entry_bytes(key: str) -> int:
    """Returns the most bytes that a series takes in a file: its key's length (4), up to 8 of padding, two doubles."""
    return len(key.encode()) + 28


class PreallocatedDict(MmapedDict):
    """A file of series, by key. Those that find no room on the disk are not shown until there is some; they are then
    shown with all that they counted."""

    def __init__(self, filename: str) -> None:
        self._fname = filename
        self._f: Any = None
        self._positions: dict[str, int] = {}
        self._is_incomplete = False

    def read_value(self, key: str) -> tuple[float, float]:
        try:
            value: tuple[float, float] = super().read_value(key)  # type: ignore[no-untyped-call]
            return value
        except OSError as exc:
            self._log_once(exc)
            return 0.0, 0.0

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        try:
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
        except OSError as exc:
            self._log_once(exc)

    def _init_value(self, key: str) -> None:
        """Adds a series. Raises OSError when there is no room; nothing has changed then."""
        if self._f is None:
            self._open()
        capacity: int = self._capacity
        while self._used + entry_bytes(key) > capacity:
            capacity *= 2
        if capacity > self._capacity:
            os.posix_fallocate(self._f.fileno(), 0, capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]
        self._is_incomplete = False

    def _open(self) -> None:
        path = Path(self._fname)
        if not path.exists():
            # Under its name only when it has its room: a scrape could not read past an empty file.
            new = path.with_suffix(".new")
            try:
                with new.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, _FIRST_BYTES)
                new.rename(path)
            except OSError:
                new.unlink(missing_ok=True)
                raise
        super().__init__(self._fname)  # type: ignore[no-untyped-call]

    def _log_once(self, exc: OSError) -> None:
        if not self._is_incomplete:
            self._is_incomplete = True
            log.error("metrics_incomplete", file=Path(self._fname).name, reason=exc.strerror)


def use_preallocated_files() -> None:
    """Makes prometheus_client keep the series that this process creates from now on in preallocated files."""
    values.MmapedDict = PreallocatedDict  # type: ignore[attr-defined,assignment]
