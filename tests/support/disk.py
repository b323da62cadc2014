"""Disks that are full in the middle of a write: a fake file, and a small filesystem."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import Any

import pytest


class AlmostFullFile:
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


def on_a_small_disk(directory: Path, size_kb: int) -> list[str]:
    """Returns the prefix of a command that makes `directory` a disk of that size for it and its children.

    Skips the test where this machine's kernel lets nobody but root mount, and we are not root.
    """
    script = f'mount -t tmpfs -o size={size_kb}k tmpfs "{directory}" && exec "$0" "$@"'
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    directory.mkdir(parents=True, exist_ok=True)
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no disk can be mounted here")
    return prefix


def fill(pid: int, directory: Path) -> Path:
    """Fills the disk that process `pid` sees at `directory`, to the last byte. Returns the file that takes the room."""
    filler = Path(f"/proc/{pid}/root{directory}/filler")
    with filler.open("wb", buffering=0) as file:
        for size in (4096, 1):
            with contextlib.suppress(OSError):  # the disk is full
                while file.write(b"x" * size):
                    pass
    return filler
