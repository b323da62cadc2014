"""Input file of a batch: its lines by number, the ids they are known by, and the check before any of them is run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from app.domain.batch import BatchLine, InvalidBatchLine, parse_line

_ENVELOPE_BYTES = 4096  # of a line, around its body
_SHOWN_ERRORS = 100
_BOM = b"\xef\xbb\xbf"
_PAUSE_EVERY = 200  # lines, so that the process has time for others
NumberedLine = tuple[int, bytes]


class LineIds:
    """The ids of one batch's lines: the same in every process, so that another one can go on with the batch."""

    def __init__(self, batch_id: str) -> None:
        self._batch_id = batch_id

    def call_id(self, number: int, refusals: int = 0) -> str:
        """The call's id; the ledger has it. Another one after each time that the queue did not take the call."""
        return f"{self._batch_id}-{number}-{refusals}" if refusals else f"{self._batch_id}-{number}"

    def idempotency_key(self, number: int) -> str:
        """A header's cannot have a space, so no caller can use this one."""
        return f"batch {self._batch_id} {number}"

    def result_id(self, number: int) -> str:
        """The `id` of the line's result in the output or error file."""
        return f"batch_req_{self._batch_id.removeprefix('batch_')}_{number}"


class FileCheck(NamedTuple):
    """The check of a whole file. `errors`: why nothing of it can be run, as a batch shows them; else `bad_lines`."""

    total: int
    bad_lines: list[InvalidBatchLine]
    errors: list[dict[str, Any]]


class RemainingLines:
    """The lines of a file that are not `done` when they are come to, in order."""

    def __init__(
        self, path: Path, max_body_bytes: int, *, done: Callable[[int], bool], pause: Callable[[float], None]
    ) -> None:
        self._path = path
        self._max_body_bytes = max_body_bytes
        self._done = done
        self._pause = pause
        self._lines: Iterator[NumberedLine] | None = None
        self._pushed_back: NumberedLine | None = None

    def __iter__(self) -> Iterator[NumberedLine]:
        """Begins anew, whatever `next` has come to."""
        for passed, (number, raw) in enumerate(numbered_lines(self._path, self._max_body_bytes)):
            if not self._done(number):
                yield number, raw
            elif passed % _PAUSE_EVERY == 0:
                self._pause(0)

    def chunks(self, size: int) -> Iterator[list[NumberedLine]]:
        lines = iter(self)
        while chunk := list(islice(lines, size)):
            yield chunk

    def next(self) -> NumberedLine | None:
        """Goes on where the last call ended; None at the end."""
        line, self._pushed_back = self._pushed_back, None
        if line is None:
            if self._lines is None:
                self._lines = iter(self)
            line = next(self._lines, None)
        return line

    def push_back(self, line: NumberedLine) -> None:
        """Has `next` return `line` once more."""
        self._pushed_back = line

    def restart(self) -> None:
        """Has `next` begin at the first line again."""
        self._lines = self._pushed_back = None


def numbered_lines(path: Path, max_body_bytes: int) -> Iterator[NumberedLine]:
    """The lines that are not blank, each with its number from 1. One that is too long is cut, and so no JSON."""
    longest = max_body_bytes + _ENVELOPE_BYTES
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(longest):
            number += 1
            rest = raw
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(longest)
            if number == 1:
                raw = raw.removeprefix(_BOM)
            if not raw.isspace() and raw:
                yield number, raw


def check_file(
    path: Path, endpoint: str, *, max_lines: int, max_body_bytes: int, pause: Callable[[float], None]
) -> FileCheck:
    """Parses every line. Raises `FileNotFoundError`: the file may be on another disk."""
    bad_lines: list[InvalidBatchLine] = []
    seen: set[bytes] = set()
    total = 0
    for number, raw in numbered_lines(path, max_body_bytes):
        total += 1
        if number > max_lines:
            return _unusable("too_many_tasks", f"The file has more than {max_lines} lines.")
        line = _unique(parse_line(number, raw, endpoint), seen)
        if isinstance(line, InvalidBatchLine):
            bad_lines.append(line)
        if total % _PAUSE_EVERY == 0:
            pause(0)
    if not total:
        return _unusable("empty_file", "The file has no lines.")
    if len(bad_lines) == total:
        return FileCheck(total, [], [_error(line) for line in bad_lines[:_SHOWN_ERRORS]])
    return FileCheck(total, bad_lines, [])


def _unique(line: BatchLine | InvalidBatchLine, seen: set[bytes]) -> BatchLine | InvalidBatchLine:
    """Returns `line`, or a bad one in its place if its custom_id was `seen` before."""
    if line.custom_id is None:
        return line
    # What is kept of an id is short, however long it is.
    digest = hashlib.blake2b(line.custom_id.encode("utf-8", "surrogatepass"), digest_size=12).digest()
    if digest not in seen:
        seen.add(digest)
        return line
    if isinstance(line, InvalidBatchLine):
        return line
    message = "The custom_id of this line was used before."
    return InvalidBatchLine(line.number, line.custom_id, "duplicate_custom_id", message, "custom_id")


def _unusable(code: str, message: str) -> FileCheck:
    return FileCheck(0, [], [{"code": code, "message": message, "param": None, "line": None}])


def _error(line: InvalidBatchLine) -> dict[str, Any]:
    return {"code": line.code, "message": line.message, "param": line.param, "line": line.number}
