"""What a batch's lines have come to so far: one file a batch, that only grows, written by one process at a time.

A row is `<line> <+ or -> <entry>`: `+` belongs into the output file, `-` into the error file. Rows are synced before
their jobs are forgotten. Whatever ends the process ends with its lock, which the kernel gives to the next one: no lease
has to run out, and a stalled writer cannot come back. A row that was torn then is no row, and its line is fetched
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
_PAUSE_EVERY = 500  # rows, so that the process has time for others


class LineResult(NamedTuple):
    line: int
    ok: bool
    entry: bytes


class BatchResults:
    """One batch's, held until `close`. `created`: there was no file of them before."""

    def __init__(self, path: Path, file: io.FileIO, sync: Callable[[int], None], *, created: bool = False) -> None:
        self.created = created
        self._path = path
        self._file = file
        self._sync = sync
        # By line: where its entry begins, negative in the error file's case; 0 for none. 8 bytes a line.
        self._at = array("q")
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
        """None while another process holds them. Raises `FileNotFoundError` when those of a batch that has `begun` are
        not there: nobody can tell any more which lines were run."""
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
        return line < len(self._at) and self._at[line] != 0

    def __len__(self) -> int:
        return self.completed + self.failed

    def add(self, results: Iterable[LineResult]) -> None:
        """Keeps results, safe from now on. Raises `OSError`; what was not kept can be added again."""
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
        while rest:  # a disk that is almost full takes a part
            rest = rest[self._file.write(rest) :]
        self._sync(self._file.fileno())
        self._torn = False
        for start, result in zip(starts, new, strict=True):
            self._note(result.line, start, ok=result.ok)

    def sync(self) -> None:
        """The file will be there after a power cut."""
        self._sync(self._file.fileno())
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            self._sync(directory)
        finally:
            os.close(directory)

    def entries(self, *, ok: bool) -> Iterator[bytes]:
        """The entries of one of the two files, each with its newline, in the order of the input's lines."""
        with self._path.open("rb") as file:
            for at in self._at:
                if at and (at > 0) == ok:
                    file.seek(abs(at))
                    yield file.readline()

    def close(self) -> None:
        """Lets them go: whoever feeds the batch next has them."""
        self._file.close()

    def remove(self) -> None:
        """Only when the batch's output files hold them. In this order: who waits for the lock must see that the file is
        gone."""
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
                        self._note(line, at + head.end(), ok=head[2] == b"+")
                at += len(row)
                if count % _PAUSE_EVERY == 0:
                    pause(0)
        self._torn = not row.endswith(b"\n") and at > 0

    def _note(self, line: int, start: int, *, ok: bool) -> None:
        if line >= len(self._at):
            self._at.extend([0] * (max(line + 1, 2 * len(self._at)) - len(self._at)))
        self._at[line] = start if ok else -start
        if ok:
            self.completed += 1
        else:
            self.failed += 1


def remove_leftovers(directory: Path, has_output: Callable[[str], bool | None]) -> int:
    """Removes the results of batches whose output files hold them: their process died just then.

    `has_output` tells of batches which those are; None of one that has not ended. Returns how many are kept though
    nobody writes them: their batch is unknown, or has ended without them.
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
