"""Settlements that Redis could not take wait on local disk, and are replayed when it is back.

One file a process, one JSON line a settlement, synced before the call is answered. A process that dies leaves
its file; the next one on the same disk adopts it (an flock tells whose process still lives). Replaying is safe:
the settle script does nothing the second time.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec
import structlog
from redis import ResponseError

from app.errors import StoreUnavailable
from app.store.redis import Arg, Script

log = structlog.get_logger()


class _Settlement(msgspec.Struct):
    """A line: what the settle script was called with (in JSON, bytes are base64)."""

    keys: list[bytes]
    args: list[bytes]


_decode = msgspec.json.Decoder(_Settlement).decode


class Spool:
    """The spool directory of one machine, written by this process's file in it."""

    def __init__(self, directory: Path, *, name: str, retry_s: float = 1.0) -> None:
        self._directory = directory
        self._path = directory / f"{name}.jsonl"
        self._retry_s = retry_s
        self._file: IO[bytes] | None = None
        self._rotations = 0
        self._replaying = False

    def settle(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg]) -> None:
        """Runs `script`, or keeps it for later when Redis is not there. Raises nothing of Redis's."""
        try:
            script(keys, args)
        except StoreUnavailable:
            log.warning("settlement_spooled", call_id=str(args[0]))
            self.keep(script, keys, args)

    def keep(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg]) -> None:
        """Has `script` run as soon as Redis is there."""
        self._append(keys, args)
        self._start_replaying(script)

    def adopt(self, script: Script) -> None:
        """Replays, in the background, what processes that are no more have left."""
        if any(self._directory.glob("*.jsonl")):
            self._start_replaying(script)

    def replay(self, script: Script) -> int:
        """Replays every file that no living process owns, and this one's own. Returns the settlements replayed.

        Raises `StoreUnavailable` when Redis is still away; what was not replayed stays.
        """
        if not self._directory.is_dir():
            return 0
        self._rotate()
        return sum(self._replay_file(path, script) for path in sorted(self._directory.glob("*.jsonl")))

    def _rotate(self) -> None:
        """Sets this process's file aside, so that what comes while it is replayed goes into a new one."""
        if self._file is not None:
            self._rotations += 1
            self._path.rename(self._path.with_name(f"{self._path.stem}.{self._rotations}.jsonl"))
            # In this order: once the lock is gone, others may replay and remove the file.
            self._file.close()
            self._file = None

    def _append(self, keys: Sequence[Arg], args: Sequence[Arg]) -> None:
        if self._file is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            # Locked before it has the name that others look for.
            nameless = self._path.with_suffix(".new")
            self._file = nameless.open("ab")
            _lock(self._file)
            nameless.rename(self._path)
        line = msgspec.json.encode(_Settlement([_packed(k) for k in keys], [_packed(a) for a in args]))
        self._file.write(line + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _replay_file(self, path: Path, script: Script) -> int:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return 0  # another process has just replayed it
        with file:
            if not (_lock(file) and _is_at(path, file)):
                return 0
            count = sum(_replay_line(line, script, path.name) for line in file)
            path.unlink()
        return count

    def _start_replaying(self, script: Script) -> None:
        if not self._replaying:
            self._replaying = True
            threading.Thread(target=self._keep_replaying, args=(script,), name="spool", daemon=True).start()

    def _keep_replaying(self, script: Script) -> None:
        pause = threading.Event()
        while True:
            pause.wait(self._retry_s)
            try:
                count = self.replay(script)
            except StoreUnavailable:
                continue
            except Exception:  # boundary: whatever it was, what is spooled must still be replayed one day
                log.exception("spool_replay_failed")
                continue
            log.info("settlements_replayed", count=count)
            if self._file is None:  # nothing came while the files were replayed
                self._replaying = False
                return


def _replay_line(line: bytes, script: Script, file: str) -> bool:
    """A line that cannot be replayed is left to the reaper, which has the call's open reservation."""
    try:
        settlement = _decode(line)
    except msgspec.DecodeError:
        log.warning("spool_line_broken", file=file)  # a process died in mid-write
        return False
    try:
        script(settlement.keys, settlement.args)
    except ResponseError as exc:
        log.error("settlement_refused", call_id=settlement.args[0].decode(), reason=str(exc))
        return False
    return True


def _lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether `path` still means the open `file`: its owner may have set it aside and begun another one."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _packed(value: Arg) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
