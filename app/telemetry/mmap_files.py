"""prometheus_client's memory-mapped files, with their room on the disk taken before they are mapped.

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
_MOST_AROUND_A_KEY = 28  # its length (4 bytes), up to 8 of padding, two doubles


class PreallocatedDict(MmapedDict):
    """Series for which the disk has no room are not shown; they are, with all they counted, once there is some."""

    def __init__(self, filename: str) -> None:
        self._fname = filename
        self._f: Any = None
        self._positions: dict[str, int] = {}
        self._incomplete = False

    def read_value(self, key: str) -> tuple[float, float]:
        try:
            value: tuple[float, float] = super().read_value(key)  # type: ignore[no-untyped-call]
            return value
        except OSError as exc:
            self._tell(exc)
            return 0.0, 0.0

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        try:
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
        except OSError as exc:
            self._tell(exc)

    def _init_value(self, key: str) -> None:
        """Raises OSError when there is no room; nothing has changed then."""
        if self._f is None:
            self._open()
        room = len(key.encode()) + _MOST_AROUND_A_KEY
        capacity: int = self._capacity
        while self._used + room > capacity:
            capacity *= 2
        if capacity > self._capacity:
            os.posix_fallocate(self._f.fileno(), 0, capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]
        self._incomplete = False

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

    def _tell(self, exc: OSError) -> None:
        if not self._incomplete:
            self._incomplete = True
            log.error("metrics_incomplete", file=Path(self._fname).name, reason=exc.strerror)


def preallocate() -> None:
    """From here on, prometheus_client keeps this process's series in preallocated files."""
    values.MmapedDict = PreallocatedDict  # type: ignore[attr-defined,assignment]
