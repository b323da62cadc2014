"""Batches in the database: their requests, their status and counts, their output files.

A batch belongs to its key; for any other it does not exist (docs/clients.md, bug 7). Its status is changed only from an
expected one, so that a cancellation and the worker that runs the batch cannot overwrite each other.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from app.config.features import BatchConfig
from app.domain.batch import COMPLETION_WINDOW_S, UNFINISHED_STATUSES, BatchRequest
from app.domain.identity import Caller
from app.errors import Conflict, InvalidRequest, NotFound
from app.store.files import StoredFile
from app.store.sql.database import Database
from app.store.sql.tables import batches, files

_UNKNOWN = "There is no such batch, or it has expired."
_CANCELLABLE = ("validating", "in_progress")


class Batch(NamedTuple):
    """A row of the table `batches`. Times are Unix seconds; `metadata` and `errors` are JSON."""

    batch_id: str
    key_id: str
    key_hash: str
    status: str
    endpoint: str
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    metadata: str | None
    errors: str | None
    output_ttl_s: int
    total: int
    completed: int
    failed: int
    created_at: float
    expires_at: float
    in_progress_at: float | None
    finalizing_at: float | None
    completed_at: float | None
    failed_at: float | None
    expired_at: float | None
    cancelling_at: float | None
    cancelled_at: float | None


class Batches:
    """Commands on batches. Methods raise `StoreUnavailable`, and the errors that each names."""

    def __init__(self, *, database: Database, config: BatchConfig, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._config = config
        self._clock = clock

    def create(self, caller: Caller, request: BatchRequest) -> Batch:
        """Creates a batch, to be validated by a worker.

        Raises `NotFound` for an input file that is not the caller's, `InvalidRequest` for one of another purpose,
        `Conflict` when the key has as many unfinished batches as it may.
        """
        now = self._clock()
        expires = request.output_expires_after
        values: dict[str, Any] = {
            # The time comes first: ids sort by it.
            "batch_id": f"batch_{int(now * 1000):012x}{secrets.token_hex(6)}",
            "key_id": caller.key_id,
            "key_hash": caller.key_hash,
            "status": "validating",
            "endpoint": request.endpoint,
            "input_file_id": request.input_file_id,
            "metadata": None if request.metadata is None else json.dumps(request.metadata),
            "output_ttl_s": self._config.file_ttl_s if expires is None else expires.seconds,
            "total": 0,
            "completed": 0,
            "failed": 0,
            "created_at": now,
            "expires_at": now + COMPLETION_WINDOW_S,
        }
        with self._database.write() as connection:
            self._check_input(connection, caller.key_id, request.input_file_id, now)
            connection.execute(batches.insert(), values)
            return _batch(connection, values["batch_id"])

    def get(self, key_id: str, batch_id: str) -> Batch:
        """Returns a batch of this key. Raises `NotFound`."""
        with self._database.read() as connection:
            return _owned(connection, key_id, batch_id)

    def list(self, key_id: str, *, limit: int, after: str | None = None) -> tuple[Sequence[Batch], bool]:
        """Returns a page, newest first, and True if there is more."""
        query = sa.select(batches).where(batches.c.key_id == key_id)
        if after:
            query = query.where(batches.c.batch_id < after)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(batches.c.batch_id.desc()).limit(limit + 1)).all()
        return [Batch._make(row) for row in rows[:limit]], len(rows) > limit

    def cancel(self, key_id: str, batch_id: str) -> Batch:
        """Tells the worker that runs the batch to end it. Raises `NotFound`, and `Conflict` when it is too late."""
        with self._database.write() as connection:
            batch = _owned(connection, key_id, batch_id)
            _update(connection, batch_id, _CANCELLABLE, status="cancelling", cancelling_at=self._clock())
            batch = _batch(connection, batch_id)
        if batch.status not in ("cancelling", "cancelled"):
            raise Conflict(f"The batch cannot be cancelled any more: it is {batch.status}.")
        return batch

    def list_unfinished(self) -> Sequence[Batch]:
        """Returns the batches that workers are to run, oldest first."""
        query = sa.select(batches).where(batches.c.status.in_(UNFINISHED_STATUSES)).order_by(batches.c.batch_id)
        with self._database.read() as connection:
            return [Batch._make(row) for row in connection.execute(query)]

    def find(self, batch_id: str) -> Batch | None:
        """Returns a batch of any key, for the worker that runs it."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(batches).where(batches.c.batch_id == batch_id)).one_or_none()
        return None if row is None else Batch._make(row)

    def has_output(self, batch_id: str) -> bool | None:
        """Returns True if the batch has ended with its results in files; None while it has not ended."""
        batch = self.find(batch_id)
        if batch is not None and batch.status in UNFINISHED_STATUSES:
            return None
        return batch is not None and bool(batch.output_file_id or batch.error_file_id)

    def update(self, batch_id: str, expected: Collection[str], **values: Any) -> bool:
        """Updates a batch whose status is one of `expected`; returns False if it is not."""
        with self._database.write() as connection:
            return _update(connection, batch_id, expected, **values)

    def finish(self, batch: Batch, status: str, output_files: Collection[StoredFile], **values: Any) -> bool:
        """Ends a batch and creates its output files, in one transaction. Returns False if it has ended already."""
        with self._database.write() as connection:
            if not _update(connection, batch.batch_id, (batch.status,), status=status, **values):
                return False
            for file in output_files:
                connection.execute(files.insert(), file._asdict())
        return True

    def delete_old(self) -> None:
        """Deletes batches that ended so long ago that their files are gone."""
        old = batches.c.created_at < self._clock() - COMPLETION_WINDOW_S - self._config.file_ttl_s
        with self._database.write() as connection:
            connection.execute(batches.delete().where(old, batches.c.status.not_in(UNFINISHED_STATUSES)))

    def _check_input(self, connection: Connection, key_id: str, file_id: str, now: float) -> None:
        mine = sa.select(files.c.purpose).where(
            files.c.file_id == file_id, files.c.key_id == key_id, files.c.expires_at > now
        )
        # For update: the file cannot be deleted until the batch exists.
        purpose = connection.execute(mine.with_for_update()).scalar()
        if purpose is None:
            raise NotFound("There is no such file, or it has expired: `input_file_id`.", param="input_file_id")
        if purpose != "batch":
            raise InvalidRequest("The file's purpose must be `batch`: `input_file_id`.", param="input_file_id")
        unfinished = sa.select(sa.func.count()).where(
            batches.c.key_id == key_id, batches.c.status.in_(UNFINISHED_STATUSES)
        )
        most = self._config.max_unfinished_per_key
        if connection.execute(unfinished).scalar_one() >= most:
            raise Conflict(f"This key has {most} batches that have not ended: no more may begin.")


def _owned(connection: Connection, key_id: str, batch_id: str) -> Batch:
    if "\x00" in batch_id:  # PostgreSQL refuses to compare it
        raise NotFound(_UNKNOWN)
    query = sa.select(batches).where(batches.c.batch_id == batch_id, batches.c.key_id == key_id)
    row: Row[Any] | None = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(_UNKNOWN)
    return Batch._make(row)


def _batch(connection: Connection, batch_id: str) -> Batch:
    return Batch._make(connection.execute(sa.select(batches).where(batches.c.batch_id == batch_id)).one())


def _update(connection: Connection, batch_id: str, expected: Collection[str], **values: Any) -> bool:
    change = batches.update().where(batches.c.batch_id == batch_id, batches.c.status.in_(expected))
    return connection.execute(change.values(**values)).rowcount == 1
