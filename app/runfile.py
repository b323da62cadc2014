"""Run file, DATA_DIR/run: the lock of the `make run` that works on this DATA_DIR, and its address for the commands.

The file is locked while anything that `make run` started is alive: its processes inherit the lock. Its content counts
only as long as it is locked, so a run that was killed leaves nothing that could mislead.
"""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

_FILE_NAME = "run"
_LOCK_TIMEOUT_S = 1.0  # a reader holds the lock for a moment; processes that are ending, for a little longer


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """`pid` is the process that was started; `key` the development key. `port` is 0 until the gateway is started."""

    pid: int
    host: str = ""
    port: int = 0
    key: str = ""
    redis_url: str = ""


class RunFileLocked(Exception):
    """Another process holds the lock; `run` is its content, if it can be read."""

    def __init__(self, run: RunningGateway | None) -> None:
        super().__init__(run)
        self.run = run


class RunFile:
    """The lock, held by this process and those that inherit `fd`. Raises `RunFileLocked`, and OSError of the disk."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / _FILE_NAME
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while not _try_lock(self.fd, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise RunFileLocked(_parsed(self.fd))
            time.sleep(0.05)
        self.write(None)

    def write(self, run: RunningGateway | None) -> None:
        """Replaces the content; None empties the file."""
        os.ftruncate(self.fd, 0)
        if run is not None:
            os.pwrite(self.fd, msgspec.json.encode(asdict(run)), 0)


def running_gateway(data_dir: Path) -> RunningGateway | None:
    """Returns the gateway that `make run` has started on `data_dir` and that still runs."""
    try:
        fd = os.open(data_dir / _FILE_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return None if _try_lock(fd, fcntl.LOCK_SH) else _parsed(fd)
    except OSError:
        return None  # a file system without locks
    finally:
        os.close(fd)


def _try_lock(fd: int, mode: int) -> bool:
    try:
        fcntl.flock(fd, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _parsed(fd: int) -> RunningGateway | None:
    try:
        return msgspec.json.decode(os.pread(fd, 4096, 0), type=RunningGateway)
    except (OSError, msgspec.MsgspecError):
        return None
