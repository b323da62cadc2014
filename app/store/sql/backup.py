"""Backup and restore of the SQLite ledger: backups while it is in use, restores while no ledger process runs.

A backup is one file, checked before it gets its name. A restore works on a copy of that file until it is known to be
a sound ledger with this code's schema; only then do its pages replace those of the ledger, in one transaction. The
ledger of before is kept beside it, and a key revoked since the backup stays revoked. PostgreSQL has tools of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

from sqlalchemy.engine import URL

from app.errors import ConfigError, InvalidRequest, StoreUnavailable
from app.store.sql.database import Database

_BUSY_TIMEOUT_S = 5.0
_TABLES = {"alembic_version", "usage", "usage_daily", "api_keys", "audit"}
# Files that SQLite keeps beside a database: committed pages that are not in the file yet, and the index of them.
_COMPANIONS = ("-wal", "-shm")
# Not a database, a broken one, or one without our tables; not a full disk or a lock.
_UNREADABLE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR)


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a copy; as text, one line for the person at the terminal."""

    calls: int
    keys: int
    newest: float | None  # Unix seconds of the last call

    def __str__(self) -> str:
        last = "" if self.newest is None else f", the last of {datetime.fromtimestamp(self.newest, UTC):%F %T} UTC"
        return f"{self.calls} calls{last} and {self.keys} keys"


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore."""

    contents: Contents
    revoked: int  # keys that were valid in the backup and are revoked again
    kept: Path | None  # the ledger of before


class Backups:
    """Backups of a database's SQLite file. Raises `ConfigError` for any other database; `clock` is in Unix seconds."""

    def __init__(self, *, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def back_up(self, target: Path) -> Contents:
        """Writes the ledger as it is at one moment to `target`; writers need not stop. Raises `StoreUnavailable`."""
        live = self._live()
        if not live.is_file():
            raise StoreUnavailable(f"{live}: there is no ledger yet.")
        if _is_the_ledger(target, live):
            raise InvalidRequest(f"{target}: is the ledger itself.")
        unfinished = target.with_name(target.name + ".part")
        with _translated_errors(target):
            unfinished.unlink(missing_ok=True)
            _create_private(unfinished)
            try:
                _copy(live, unfinished)
                contents = _checked(unfinished, "quick_check")
                _sync(unfinished)
                unfinished.replace(target)
            finally:
                unfinished.unlink(missing_ok=True)
        return contents

    def restore(self, source: Path) -> Restored:
        """Replaces the ledger by the backup at `source`.

        Raises `InvalidRequest` when that is not a ledger, `StoreUnavailable` when a ledger process runs or the schema
        is newer than this code's: the ledger is then as it was.
        """
        live = self._live()
        if not source.is_file():
            raise InvalidRequest(f"{source}: no such file.")
        with _translated_errors(live):
            live.parent.mkdir(parents=True, exist_ok=True)
            with (
                self._lock(fcntl.LOCK_EX, "a ledger process runs on it; stop that first"),
                tempfile.TemporaryDirectory(dir=live.parent, prefix="restore-") as directory,
            ):
                return self._restore(source, live, Path(directory) / "ledger.db")

    def back_up_to_stream(self, stream: BinaryIO, *, below: Path) -> Contents:
        """Writes the ledger to `stream`, by way of a file in the directory `below`: SQLite needs to seek."""
        with _temporary(below) as path:
            contents = self.back_up(path)
            with path.open("rb") as file:
                shutil.copyfileobj(file, stream)
            stream.flush()
        return contents

    def restore_from_stream(self, stream: BinaryIO, *, below: Path) -> Restored:
        """Replaces the ledger by the backup that `stream` holds, by way of a file in the directory `below`."""
        with _temporary(below) as path:
            with path.open("wb") as file:
                shutil.copyfileobj(stream, file)
            return self.restore(path)

    @contextmanager
    def hold_off_restores(self) -> Iterator[None]:
        """Keeps every process from restoring; several may hold it at once. Does nothing for another database.

        Raises `StoreUnavailable` while a restore is going on.
        """
        if self._database.file is None:
            yield
            return
        self._database.file.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(fcntl.LOCK_SH, "it is being restored"):
            yield

    def _restore(self, source: Path, live: Path, staged: Path) -> Restored:
        for companion in ("", *_COMPANIONS[:1]):
            beside = source.with_name(source.name + companion)
            if beside.is_file():
                shutil.copyfile(beside, staged.with_name(staged.name + companion))
        try:
            contents = _checked(staged, "integrity_check")
        except (sqlite3.DatabaseError, InvalidRequest) as exc:
            raise InvalidRequest(f"{source}: is not a sound ledger ({exc}).") from exc
        Database(URL.create("sqlite", database=str(staged)).render_as_string()).migrate()
        kept = live.with_name(f"{live.name}.before-{datetime.fromtimestamp(self._clock(), UTC):%Y%m%dT%H%M%SZ}")
        revoked = self._set_aside(live, kept)
        ended = self._revoke_again(staged, revoked, source)
        _copy(staged, live)
        _sync(live)
        return Restored(contents, ended, kept if kept.exists() else None)

    def _set_aside(self, live: Path, kept: Path) -> list[tuple[str, float]]:
        """Copies the ledger of before to `kept`, and returns its revoked keys. An unreadable one is moved as it is."""
        if not live.exists():
            return []
        try:
            _create_private(kept)
            _copy(live, kept)
            with closing(sqlite3.connect(kept)) as connection:
                found = connection.execute("SELECT key_id, revoked_at FROM api_keys WHERE revoked_at IS NOT NULL")
                return found.fetchall()
        except sqlite3.DatabaseError as exc:
            if exc.sqlite_errorcode not in _UNREADABLE:
                raise
            for companion in ("", *_COMPANIONS):
                beside = live.with_name(live.name + companion)
                if beside.exists():
                    beside.replace(kept.with_name(kept.name + companion))
            return []

    def _revoke_again(self, staged: Path, revoked: list[tuple[str, float]], source: Path) -> int:
        now = self._clock()
        with closing(sqlite3.connect(staged)) as connection, connection:
            changed = connection.executemany(
                # By `updated_at` the mirror in Redis gets it, too.
                "UPDATE api_keys SET revoked_at = ?, updated_at = ? WHERE key_id = ? AND revoked_at IS NULL",
                [(when, now, key_id) for key_id, when in revoked],
            ).rowcount
            ended = max(0, changed)
            connection.execute(
                "INSERT INTO audit (ts, actor, action, subject, detail) VALUES (?, 'cli', 'ledger.restore', ?, ?)",
                (now, source.name, json.dumps({"revoked_again": ended})),
            )
        return ended

    @contextmanager
    def _lock(self, operation: int, refusal: str) -> Iterator[None]:
        live = self._live()
        with live.with_name(live.name + ".process").open("a") as file:
            try:
                fcntl.flock(file, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreUnavailable(f"{live}: {refusal}.") from None
            yield

    def _live(self) -> Path:
        if self._database.file is None:
            raise ConfigError("environment: DATABASE_URL: is not SQLite; use that database's own tools")
        return self._database.file


@contextmanager
def _temporary(below: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=below, prefix="copy-") as directory:
        yield Path(directory) / "ledger.db"


def _copy(source: Path, target: Path) -> None:
    """Copies all pages in one step: a snapshot of the source, one transaction of the target."""
    reading = sqlite3.connect(source, timeout=_BUSY_TIMEOUT_S)
    with closing(reading), closing(sqlite3.connect(target, timeout=_BUSY_TIMEOUT_S)) as writing:
        reading.backup(writing)


def _checked(path: Path, check: Literal["quick_check", "integrity_check"]) -> Contents:
    """Returns the contents of the copy at `path`; makes it a single file. Raises `InvalidRequest` for no ledger."""
    with closing(sqlite3.connect(path)) as connection:
        found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if missing := _TABLES - found:
            raise InvalidRequest(f"it has no table {min(missing)}")
        [verdict] = connection.execute(f"PRAGMA {check}(1)").fetchone()
        if verdict != "ok":
            raise InvalidRequest(str(verdict))
        # A file in WAL mode may need a second one beside it, which a person would not copy.
        connection.execute("PRAGMA journal_mode = DELETE")
        [calls, keys, newest] = connection.execute(
            "SELECT (SELECT coalesce(sum(calls), 0) FROM usage_daily), (SELECT count(*) FROM api_keys),"
            " (SELECT max(ts) FROM usage)"
        ).fetchone()
        return Contents(calls, keys, newest)


def _create_private(path: Path) -> None:
    # Readable by its owner only: it holds keys and costs.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _is_the_ledger(target: Path, live: Path) -> bool:
    taken = [live.with_name(live.name + companion).resolve() for companion in ("", *_COMPANIONS)]
    return target.resolve() in taken or (target.exists() and target.samefile(live))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise StoreUnavailable(f"{path}: {exc}.") from exc
    except OSError as exc:
        raise StoreUnavailable(f"{exc.filename or path}: {exc.strerror}.") from exc
