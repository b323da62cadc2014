"""A disk, played: for what happens when it is full in the middle of a write."""

from __future__ import annotations

from typing import Any


class AlmostFull:
    """A file on a disk with room for ten bytes more."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._room = 10

    def write(self, data: Any) -> int:
        if not self._room:
            raise OSError(28, "No space left on device")
        taken, self._room = int(self._file.write(data[: self._room])), 0
        return taken

    def fileno(self) -> int:
        return int(self._file.fileno())
