"""A filesystem small enough to be filled while a whole deployment works on it."""

from __future__ import annotations

import subprocess
from pathlib import Path


class SmallDisk:
    """A real filesystem of some megabytes, mounted at `path`. Only root may mount one: `mounted` says whether it is."""

    def __init__(self, path: Path, *, megabytes: int = 64) -> None:
        self.path = path
        self.mounted = False
        self._megabytes = megabytes
        self._filler = path / "filler"

    def __enter__(self) -> SmallDisk:
        self.path.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._megabytes}m", "tmpfs", str(self.path)]
        try:
            self.mounted = subprocess.run(command, stderr=subprocess.DEVNULL, timeout=10).returncode == 0
        except FileNotFoundError:
            pass
        return self

    def __exit__(self, *_: object) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.path)], check=True, timeout=10)

    def fill(self) -> None:
        """Takes every byte that is left."""
        assert self.mounted
        with self._filler.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while file.write(b"\0" * size) == size:
                        pass
                except OSError:
                    pass  # no room for this much

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)
