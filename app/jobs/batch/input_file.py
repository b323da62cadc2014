"""A batch's input file, read line by line, and looked through before anything of it is run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from app.domain.batch import BatchLine, InvalidBatchLine, parse_line

_ENVELOPE = 4096  # of a line, around its body
_SHOWN_ERRORS = 100
_BOM = b"\xef\xbb\xbf"
_PAUSE_EVERY = 200  # lines, so that the process has time for others


class CheckedFile(NamedTuple):
    """`errors`: why nothing of the file can be run, as a batch shows them; else its bad lines are in `bad`."""

    total: int
    bad: list[InvalidBatchLine]
    errors: list[dict[str, Any]]


def lines_of(path: Path, longest: int) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, each with its number from 1. One that is too long is cut, and so no JSON."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(longest + _ENVELOPE):
            number += 1
            rest = raw
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(longest + _ENVELOPE)
            if number == 1:
                raw = raw.removeprefix(_BOM)
            if not raw.isspace() and raw:
                yield number, raw


class RemainingLines:
    """The lines of a file that are not `done` when they are come to, in order."""

    def __init__(
        self, path: Path, longest: int, *, done: Callable[[int], bool], pause: Callable[[float], None]
    ) -> None:
        self._path = path
        self._longest = longest
        self._done = done
        self._pause = pause
        self._lines: Iterator[tuple[int, bytes]] | None = None
        self._held_back: tuple[int, bytes] | None = None

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """All of them, anew."""
        for passed, (number, raw) in enumerate(lines_of(self._path, self._longest)):
            if not self._done(number):
                yield number, raw
            elif passed % _PAUSE_EVERY == 0:
                self._pause(0)

    def chunks(self, size: int) -> Iterator[list[tuple[int, bytes]]]:
        lines = iter(self)
        while chunk := list(islice(lines, size)):
            yield chunk

    def next(self) -> tuple[int, bytes] | None:
        """Goes on where it was; None at the end."""
        line, self._held_back = self._held_back, None
        if line is None:
            if self._lines is None:
                self._lines = iter(self)
            line = next(self._lines, None)
        return line

    def hold_back(self, line: tuple[int, bytes]) -> None:
        """It comes next once more."""
        self._held_back = line

    def start_over(self) -> None:
        self._lines = self._held_back = None


def check(path: Path, endpoint: str, *, most_lines: int, longest: int, pause: Callable[[float], None]) -> CheckedFile:
    """Raises `FileNotFoundError`: the file may be on another disk."""
    bad: list[InvalidBatchLine] = []
    seen: set[bytes] = set()
    total = 0
    for number, raw in lines_of(path, longest):
        total += 1
        if number > most_lines:
            return failure("too_many_tasks", f"The file has more than {most_lines} lines.")
        line = _unique(parse_line(number, raw, endpoint), seen)
        if isinstance(line, InvalidBatchLine):
            bad.append(line)
        if total % _PAUSE_EVERY == 0:
            pause(0)
    if not total:
        return failure("empty_file", "The file has no lines.")
    if len(bad) == total:
        shown = bad[:_SHOWN_ERRORS]
        return CheckedFile(
            total, [], [{"code": b.code, "message": b.message, "param": b.param, "line": b.number} for b in shown]
        )
    return CheckedFile(total, bad, [])


def _unique(line: BatchLine | InvalidBatchLine, seen: set[bytes]) -> BatchLine | InvalidBatchLine:
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


def failure(code: str, message: str) -> CheckedFile:
    """Nothing of the file can be run, for one reason."""
    return CheckedFile(0, [], [{"code": code, "message": message, "param": None, "line": None}])
