"""DATA_DIR/run: which `make run` works on this DATA_DIR, and where it answers, for the commands that are run beside it.

The file is locked while anything that `make run` started is alive: its processes inherit the lock. What the file says
counts only as long as it is locked, so a run that was killed leaves nothing that could mislead.
"""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

_NAME = "run"
_PATIENCE_S = 1.0  # a reader holds the lock for a moment; processes that are ending, for a little longer


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """`pid` is the process that was started; `key` the development key. `port` 0: it has not got that far."""

    pid: int
    host: str = ""
    port: int = 0
    key: str = ""
    redis_url: str = ""


class RunFileLocked(Exception):
    """Somebody else holds the lock; `run` is what the file says of them."""

    def __init__(self, run: RunningGateway | None) -> None:
        super().__init__(run)
        self.run = run


class RunFile:
    """The lock, held by this process and those that inherit `fd`. Raises `RunFileLocked`, and OSError of the disk."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / _NAME
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _PATIENCE_S
        while not _locked(self.fd, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise RunFileLocked(_parsed(self.fd))
            time.sleep(0.05)
        self.write(None)

    def write(self, run: RunningGateway | None) -> None:
        os.ftruncate(self.fd, 0)
        if run is not None:
            os.pwrite(self.fd, msgspec.json.encode(asdict(run)), 0)


def running_gateway(data_dir: Path) -> RunningGateway | None:
    """The `make run` that works on `data_dir` now."""
    try:
        fd = os.open(data_dir / _NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return None if _locked(fd, fcntl.LOCK_SH) else _parsed(fd)
    except OSError:
        return None  # a file system without locks
    finally:
        os.close(fd)


def _locked(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _parsed(fd: int) -> RunningGateway | None:
    try:
        return msgspec.json.decode(os.pread(fd, 4096, 0), type=RunningGateway)
    except (OSError, msgspec.MsgspecError):
        return None
