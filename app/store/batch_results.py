"""Batch results: one append-only file a batch, with its lines' results so far, locked by the process that writes.

A row is `<line> <+ or -> <entry>`: `+` is for the output file, `-` for the error file. Rows are synced before their
jobs are forgotten. The lock ends with the process, however that ends, and the kernel gives it to the next one: no lease
has to run out, and a stalled writer cannot come back. A row that was torn then is ignored, and its line is fetched
again; of two rows of one line the first counts.
"""

from __future__ import annotations

import fcntl
import io
import os
import re
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

_ROW = re.compile(rb"(\d{1,9}) ([+-]) ")
_IS_JSON = msgspec.json.Decoder(msgspec.Raw).decode
_SUFFIX = ".results"
_PAUSE_EVERY_ROWS = 500  # so that other greenlets get their turn


class LineResult(NamedTuple):
    """The result of one line of the input. `entry` is a line of the output or error file, without its newline."""

    line: int
    ok: bool
    entry: bytes


class BatchResults:
    """The results of one batch, locked until `close`. `created`: their file is new."""

    def __init__(self, path: Path, file: io.FileIO, sync: Callable[[int], None], *, created: bool = False) -> None:
        self.created = created
        self._path = path
        self._file = file
        self._sync = sync
        # By line: the offset of its entry, negative for the error file; 0 for none. 8 bytes a line.
        self._offsets = array("q")
        self._torn = False
        self.completed = self.failed = 0

    @classmethod
    def claim(
        cls,
        directory: Path,
        batch_id: str,
        *,
        begun: bool,
        sync: Callable[[int], None] = os.fsync,
        pause: Callable[[float], None] = time.sleep,
    ) -> BatchResults | None:
        """Locks and reads a batch's results; returns None while another process has them.

        Raises `FileNotFoundError` when those of a batch that has `begun` are gone: the lines that were run are unknown.
        """
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{batch_id}{_SUFFIX}"
        created = not begun and _created(path)
        file = io.FileIO(os.open(path, os.O_WRONLY | os.O_APPEND), "ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                raise BlockingIOError  # its last holder has just removed it
        except (BlockingIOError, FileNotFoundError):
            file.close()
            return None
        found = cls(path, file, sync, created=created)
        found._read(pause)
        return found

    def __contains__(self, line: int) -> bool:
        return line < len(self._offsets) and self._offsets[line] != 0

    def __len__(self) -> int:
        return self.completed + self.failed

    def add(self, results: Iterable[LineResult]) -> None:
        """Appends results and syncs them. Raises `OSError`; they can then be added again."""
        new = [result for result in results if result.line not in self]
        if not new:
            return
        rows = [b"%d %b " % (result.line, b"+" if result.ok else b"-") for result in new]
        at = os.fstat(self._file.fileno()).st_size
        data = b"\n" if self._torn else b""
        starts = []
        for row, result in zip(rows, new, strict=True):
            starts.append(at + len(data) + len(row))
            data += row + result.entry + b"\n"
        self._torn = True
        rest = memoryview(data)
        while rest:  # a disk that is almost full takes only a part
            rest = rest[self._file.write(rest) :]
        self._sync(self._file.fileno())
        self._torn = False
        for start, result in zip(starts, new, strict=True):
            self._index(result.line, start, ok=result.ok)

    def sync(self) -> None:
        """Syncs the file and its directory, so that it outlives a power cut."""
        self._sync(self._file.fileno())
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            self._sync(directory)
        finally:
            os.close(directory)

    def entries(self, *, ok: bool) -> Iterator[bytes]:
        """Yields the entries of the output file, or of the error file, with newlines, in the order of the input."""
        with self._path.open("rb") as file:
            for at in self._offsets:
                if at and (at > 0) == ok:
                    file.seek(abs(at))
                    yield file.readline()

    def close(self) -> None:
        """Unlocks the results, for the next process that runs the batch."""
        self._file.close()

    def remove(self) -> None:
        """Deletes the results, once the batch's output files hold them."""
        # In this order: a process that waits for the lock must see that the file is gone.
        self._path.unlink(missing_ok=True)
        self._file.close()

    def _read(self, pause: Callable[[float], None]) -> None:
        at, row = 0, b""
        with self._path.open("rb") as file:
            for count, row in enumerate(file):
                head = _ROW.match(row)
                if head and row.endswith(b"\n") and _is_json(row[head.end() :]):
                    line = int(head[1])
                    if line not in self:
                        self._index(line, at + head.end(), ok=head[2] == b"+")
                at += len(row)
                if count % _PAUSE_EVERY_ROWS == 0:
                    pause(0)
        self._torn = not row.endswith(b"\n") and at > 0

    def _index(self, line: int, start: int, *, ok: bool) -> None:
        if line >= len(self._offsets):
            self._offsets.extend([0] * (max(line + 1, 2 * len(self._offsets)) - len(self._offsets)))
        self._offsets[line] = start if ok else -start
        if ok:
            self.completed += 1
        else:
            self.failed += 1


def remove_leftovers(directory: Path, has_output: Callable[[str], bool | None]) -> int:
    """Removes results that output files already hold: their process died between the two steps.

    `has_output` returns True for the id of such a batch, None for one that has not ended. Returns how many are kept
    though no process writes them: their batch is unknown, or has ended without them.
    """
    kept = 0
    for path in directory.glob(f"*{_SUFFIX}"):
        done = has_output(path.name.removesuffix(_SUFFIX))
        if done or (done is False and _is_empty(path)):
            path.unlink(missing_ok=True)
        elif done is False:
            kept += 1
    return kept


def _created(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except FileNotFoundError:
        return True


def _is_json(entry: bytes) -> bool:
    try:
        _IS_JSON(entry)
    except msgspec.DecodeError:
        return False
    return True
