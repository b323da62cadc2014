"""Callers' files: contents on disk, below DATA_DIR/files, named by the file's id; their metadata in the database.

A file is written under another name first, then synced, renamed, and its row inserted last: an interruption leaves a
file without a row, which `sweep` removes when it would have expired with one. A file belongs to its key; for any other
it does not exist (docs/clients.md, bug 7).
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection, Row

from app.config.features import BatchConfig
from app.domain.batch import UNFINISHED_STATUSES
from app.errors import Conflict, InvalidRequest, NotFound, NotReady, RequestTooLarge, StoreUnavailable
from app.store.sql.database import Database, id_chunks
from app.store.sql.tables import batches, files

log = structlog.get_logger()
_UNKNOWN = "There is no such file, or it has expired."
_ORPHANED_S = 86_400  # an unfinished upload is an orphan when it is older than any upload takes
_MAX_UPLOADS = 4  # of one key at once
_UPLOAD_ALIVE_S = 60  # an upload that wrote nothing for so long has ended
_SPARE_DISK = 0.05  # share of the disk, which the ledger is on too
_UPLOAD_PREFIX = "upload."


class StoredFile(NamedTuple):
    """A row of the table `files`. Times are Unix seconds."""

    file_id: str
    key_id: str
    purpose: str
    filename: str
    bytes: int
    created_at: float
    expires_at: float


class Upload:
    """A file that is being written, until `Files.commit`, `Files.place` or `discard`."""

    def __init__(self, path: Path, *, max_bytes: int | None) -> None:
        self.path = path
        self.size = 0
        self._max_bytes = max_bytes
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    def write(self, data: bytes) -> int:
        """Raises `RequestTooLarge` beyond the bound, `NotReady` when the disk is full."""
        self.size += len(data)
        if self._max_bytes is not None and self.size > self._max_bytes:
            raise RequestTooLarge(f"The file is longer than {self._max_bytes} bytes.", param="file")
        try:
            return self._file.write(data)
        except OSError as exc:
            raise _disk_refused(exc) from exc

    def finish(self, sync: Callable[[int], None]) -> None:
        try:
            self._file.flush()
            sync(self._file.fileno())
            self._file.close()
        except OSError as exc:
            raise _disk_refused(exc) from exc

    def discard(self) -> None:
        try:
            self._file.close()
        except OSError:
            pass  # the content is not wanted any more
        self.path.unlink(missing_ok=True)


class Files:
    """Commands on files. Methods raise `StoreUnavailable`, and the errors that each names. `sync` is an fsync."""

    def __init__(
        self, *, database: Database, directory: Path, config: BatchConfig, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._directory = directory
        self._config = config
        self._clock = clock

    def begin_upload(self, key_id: str) -> Upload:
        """Returns an upload. Raises `InvalidRequest` when the key has too many files, `NotReady` for a full disk."""
        with self._database.read() as connection:
            self._check_room(connection, key_id, 0)
        uploads = self._directory.glob(f"{_upload_prefix(key_id)}*")
        if sum(_age_s(path) < _UPLOAD_ALIVE_S for path in uploads) >= _MAX_UPLOADS:
            raise NotReady("This key uploads too many files at once. Please try again.", retry_after_s=5)
        upload = self.begin_output(key_id, max_bytes=self._config.max_file_bytes)
        disk = shutil.disk_usage(self._directory)
        if disk.free - self._config.max_file_bytes < disk.total * _SPARE_DISK:
            upload.discard()
            log.error("files_disk_full", free_bytes=disk.free)
            raise NotReady("The server has no room for files. Please try again later.", retry_after_s=60)
        return upload

    def begin_output(self, key_id: str, *, max_bytes: int | None = None) -> Upload:
        """Returns a file to be written, for a batch's output: kept whatever room its key has left."""
        self._directory.mkdir(parents=True, exist_ok=True)
        name = f"{_upload_prefix(key_id)}{secrets.token_hex(8)}"
        try:
            return Upload(self._directory / name, max_bytes=max_bytes)
        except OSError as exc:
            raise _disk_refused(exc) from exc

    def commit(
        self,
        upload: Upload,
        key_id: str,
        *,
        purpose: str,
        filename: str,
        ttl_s: float | None = None,
        sync: Callable[[int], None] = os.fsync,
    ) -> StoredFile:
        """Makes a finished upload a file of the key. Raises `InvalidRequest` when the key has no room for it."""
        file = self.place(upload, key_id, purpose=purpose, filename=filename, ttl_s=ttl_s, sync=sync)
        try:
            with self._database.write() as connection:
                self._check_room(connection, key_id, file.bytes)
                connection.execute(files.insert(), file._asdict())
        except StoreUnavailable:
            if not self._has_row(file.file_id):  # the commit may have been carried out though its answer was lost
                raise
        except BaseException:
            self.path(file.file_id).unlink(missing_ok=True)
            raise
        return file

    def _has_row(self, file_id: str) -> bool:
        with self._database.read() as connection:
            found = connection.execute(sa.select(files.c.file_id).where(files.c.file_id == file_id)).scalar()
        if found is None:
            self.path(file_id).unlink(missing_ok=True)
        return found is not None

    def place(
        self,
        upload: Upload,
        key_id: str,
        *,
        purpose: str,
        filename: str,
        ttl_s: float | None = None,
        sync: Callable[[int], None] = os.fsync,
    ) -> StoredFile:
        """Moves the content of a finished upload to its place; the caller is to insert the row that this returns."""
        upload.finish(sync)
        now = self._clock()
        file = StoredFile(
            # The time comes first: ids sort by it.
            f"file-{int(now * 1000):012x}{secrets.token_hex(8)}",
            key_id,
            purpose,
            filename,
            upload.size,
            now,
            now + (ttl_s or self._config.file_ttl_s),
        )
        upload.path.rename(self.path(file.file_id))
        return file

    def get(self, key_id: str, file_id: str) -> StoredFile:
        """Returns a file of this key. Raises `NotFound` for one that is unknown, expired or another key's."""
        with self._database.read() as connection:
            return _stored(self._find(connection, key_id, file_id))

    def list(
        self, key_id: str, *, limit: int, after: str | None = None, descending: bool = True, purpose: str | None = None
    ) -> tuple[Sequence[StoredFile], bool]:
        """Returns a page, and True if there is more."""
        query = self._visible(key_id)
        if purpose:
            query = query.where(files.c.purpose == purpose)
        if after:
            query = query.where(files.c.file_id < after if descending else files.c.file_id > after)
        order = files.c.file_id.desc() if descending else files.c.file_id
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(order).limit(limit + 1)).all()
        return [_stored(row) for row in rows[:limit]], len(rows) > limit

    def delete(self, key_id: str, file_id: str) -> None:
        """Deletes a file of this key. Raises `NotFound`, and `Conflict` while an unfinished batch reads it."""
        with self._database.write() as connection:
            self._find(connection, key_id, file_id, for_update=True)
            used = sa.select(batches.c.batch_id).where(_in_use(file_id))
            batch_id = connection.execute(used.limit(1)).scalar()
            if batch_id is not None:
                raise Conflict(f"The file is the input of {batch_id}, which has not ended.")
            connection.execute(files.delete().where(files.c.file_id == file_id))
        self.path(file_id).unlink(missing_ok=True)

    def path(self, file_id: str) -> Path:
        """Returns the path of the content of a file with a row. Never call it with text that a client sent."""
        return self._directory / file_id

    def sweep(self) -> int:
        """Removes expired files, and contents without a row. Returns how many of both."""
        with self._database.write() as connection:
            input_of = sa.select(batches.c.input_file_id).where(batches.c.status.in_(UNFINISHED_STATUSES))
            expired = files.c.expires_at <= self._clock(), files.c.file_id.not_in(input_of)
            gone = list(connection.execute(sa.select(files.c.file_id).where(*expired)).scalars())
            connection.execute(files.delete().where(*expired))
        for file_id in gone:
            self.path(file_id).unlink(missing_ok=True)
        return len(gone) + self._sweep_orphans()

    def _sweep_orphans(self) -> int:
        if not self._directory.is_dir():
            return 0
        # After a restore the database may be older than the disk: then a content without a row is not an orphan yet.
        old = [
            path.name
            for path in self._directory.iterdir()
            if _age_s(path) > (_ORPHANED_S if path.name.startswith(_UPLOAD_PREFIX) else self._config.file_ttl_s)
        ]
        removed = 0
        for names in id_chunks(old):
            with self._database.read() as connection:
                query = sa.select(files.c.file_id).where(files.c.file_id.in_(names))
                known = set(connection.execute(query).scalars())
            for name in set(names) - known:
                self.path(name).unlink(missing_ok=True)
                removed += 1
        return removed

    def _visible(self, key_id: str) -> sa.Select[Any]:
        return sa.select(files).where(files.c.key_id == key_id, files.c.expires_at > self._clock())

    def _find(self, connection: Connection, key_id: str, file_id: str, *, for_update: bool = False) -> Row[Any]:
        if "\x00" in file_id:  # PostgreSQL refuses to compare it
            raise NotFound(_UNKNOWN)
        query = self._visible(key_id).where(files.c.file_id == file_id)
        row = connection.execute(query.with_for_update() if for_update else query).one_or_none()
        if row is None:
            raise NotFound(_UNKNOWN)
        return row

    def _check_room(self, connection: Connection, key_id: str, size: int) -> None:
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(files.c.bytes), 0))
        count, used = connection.execute(query.where(files.c.key_id == key_id)).one()
        most_files, max_bytes = self._config.max_files_per_key, self._config.max_bytes_per_key
        if count >= most_files or used + size > max_bytes:
            raise InvalidRequest(
                f"This key's {count} files take {used} bytes; {most_files} files and {max_bytes} bytes is the most. "
                "Delete some.",
                param="file",
            )


def _in_use(file_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(batches.c.input_file_id == file_id, batches.c.status.in_(UNFINISHED_STATUSES))


def _stored(row: Row[Any]) -> StoredFile:
    return StoredFile._make(row)


def _upload_prefix(key_id: str) -> str:
    return f"{_UPLOAD_PREFIX}{key_id}."


def _age_s(path: Path) -> float:
    """Returns the seconds since the last write; 0 when the file is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _disk_refused(exc: OSError) -> NotReady:
    log.error("file_not_written", reason=exc.strerror)
    return NotReady("The file cannot be stored. Please try again later.", retry_after_s=60)
