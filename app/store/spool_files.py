"""Spool files: settlements that wait on disk, one line of JSON each, whose first byte is the line's state.

`{` it waits, `#` it is done, `!` Redis refused it for good. The byte is overwritten in place: that needs no room on a
full disk, and the next process goes by it after a crash. A process holds an flock on its file while it lives.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
import structlog

from app.store.redis.client import Arg
from app.store.reservations import Settlement

log = structlog.get_logger()
VERSION = 2
DONE, REFUSED = b"#", b"!"
SUFFIX = ".spool"
# Version 1 had a name of its own, so that its code, after a rollback, does not misread what this one left.
_SUFFIXES = (SUFFIX, ".jsonl")
_SYNC_EVERY = 500


_decode = msgspec.json.Decoder(Settlement).decode


class WaitingSettlement(NamedTuple):
    """A line that waits, and its offset in the file."""

    data: bytes
    at: int = 0

    def settlement(self) -> Settlement | None:
        """Returns the settlement; None when the line is broken, since a process died in mid-write."""
        try:
            return _decode(self.data)
        except msgspec.DecodeError:
            return None


def encoded(keys: Sequence[Arg], args: Sequence[Arg]) -> bytes:
    return msgspec.json.encode(Settlement([_packed(k) for k in keys], [_packed(a) for a in args], VERSION)) + b"\n"


class Writer:
    """The file of this process. It is locked while the process lives, so that no other one replays it."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._path = directory / f"{name}{SUFFIX}"
        self._fd: int | None = None
        self._size = 0
        self._set_aside = 0

    @property
    def is_open(self) -> bool:
        return self._fd is not None

    def append(self, data: bytes) -> None:
        """Appends `data`, whole lines, and syncs the file. Raises `OSError`; none of it is in the file then."""
        fd = self._begin() if self._fd is None else self._fd
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
            os.fsync(fd)
        except OSError:
            os.ftruncate(fd, self._size)  # a part of a line would spoil the next one
            raise
        self._size += len(data)

    def set_aside(self) -> None:
        """Gives the file up to other processes; later settlements go into a new one. Raises `OSError`."""
        if self._fd is None:
            return
        self._set_aside += 1
        self._path.rename(self._path.with_name(f"{self._path.stem}.{self._set_aside}{SUFFIX}"))
        # In this order: once the lock is gone, others may replay and remove the file.
        os.close(self._fd)
        self._fd = None

    def _begin(self) -> int:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.chmod(0o700)  # an older version made it
        # Locked before it has the name that others look for.
        nameless = self._path.with_suffix(".new")
        fd = os.open(nameless, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            nameless.rename(self._path)
            _sync_directory(self._directory)
        except OSError:
            os.close(fd)
            raise
        self._fd, self._size = fd, 0
        return fd


class OrphanedFile:
    """A file whose writer is gone, while it is replayed."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file
        self._marked = 0

    def lines(self) -> Iterator[WaitingSettlement]:
        """Yields the lines that still wait."""
        self._file.seek(0)
        at = 0
        for data in self._file:
            if data[:1] not in (DONE, REFUSED):
                yield WaitingSettlement(data, at)
            at += len(data)

    def mark(self, line: WaitingSettlement, became: bytes) -> None:
        try:
            os.pwrite(self._file.fileno(), became, line.at)
        except OSError as exc:  # should this replay break off, the ledger will tell that the call is settled
            log.warning("spool_line_not_marked", file=self._path.name, reason=exc.strerror)
        self._marked += 1

    @property
    def should_sync(self) -> bool:
        return self._marked % _SYNC_EVERY == 0

    def sync(self) -> None:
        os.fdatasync(self._file.fileno())

    def finish(self) -> None:
        """Removes the file when no line waits; one with refused lines stays, under a name that is not replayed."""
        if next(self.lines(), None) is not None:
            return
        self._file.seek(0)
        if any(data[:1] == REFUSED for data in self._file):
            self._path.rename(self._path.with_suffix(".refused"))
        else:
            self._path.unlink()


@contextmanager
def claimed(path: Path) -> Iterator[OrphanedFile | None]:
    """Yields the locked file at `path`; None when its writer lives, or another process replays or has replayed it."""
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        yield None
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield OrphanedFile(path, file) if _is_at(path, file) else None


def waiting_in(directory: Path) -> list[Path]:
    """Returns the files in which settlements may wait."""
    return sorted(path for suffix in _SUFFIXES for path in directory.glob(f"*{suffix}"))


class Backlog(NamedTuple):
    """The settlements that wait on this machine's disk, and those refused for good."""

    files: int
    bytes: int
    refused_files: int


def backlog(directory: Path) -> Backlog:
    sizes = [size for path in waiting_in(directory) if (size := _size_of(path))]
    return Backlog(len(sizes), sum(sizes), len(list(directory.glob("*.refused"))))


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0  # it has just been replayed


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Says whether `path` still means the open `file`: its owner may have set it aside and begun another one."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _packed(value: Arg) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
