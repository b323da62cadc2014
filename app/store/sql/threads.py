"""SQLite connections whose calls run in native threads, for processes of greenlets.

A call into SQLite stops the whole event loop, for as long as another process holds the write lock; so each statement
runs in one of a few threads, and only its greenlet waits. All rows are fetched there too: a step may read the disk.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from gevent.lock import BoundedSemaphore
from gevent.threadpool import ThreadPool

T = TypeVar("T")
_THREADS = 4  # one for the writer, the others for readers, who do not wait for locks
_ACQUIRE_TIMEOUT_S = 5.0


class SqliteThreads:
    """A bounded pool of native threads."""

    def __init__(self) -> None:
        self._pool: ThreadPool | None = None  # made at the first call: a process that forks must not have it
        self._free = BoundedSemaphore(_THREADS)

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Returns `function(*args)`, run in a thread. Raises `sqlite3.OperationalError` when none is free in time."""
        if not self._free.acquire(timeout=_ACQUIRE_TIMEOUT_S):
            raise sqlite3.OperationalError("all threads are waiting")
        try:
            if self._pool is None:
                self._pool = ThreadPool(_THREADS)
            running: Any = self._pool.spawn(_result_or_error, function, args)
            try:
                result: T | sqlite3.Error = running.get()
            except BaseException:
                # The greenlet was ended: the connection is in use until its thread has finished.
                running.wait()
                raise
        finally:
            self._free.release()
        if isinstance(result, sqlite3.Error):
            raise result
        return result


def _result_or_error(function: Callable[..., T], args: tuple[Any, ...]) -> T | sqlite3.Error:
    try:
        return function(*args)
    except sqlite3.Error as exc:
        return exc  # if it were raised in the thread, gevent's hub would print it


def threaded_connection_class(threads: SqliteThreads) -> type[sqlite3.Connection]:
    """Returns a class for `sqlite3.connect(factory=…)`: connections whose every call runs in `threads`."""

    class Cursor(sqlite3.Cursor):
        _rows: deque[Any]

        def execute(self, *args: Any) -> Cursor:
            self._rows = threads.run(self._execute_and_fetch, super().execute, args)
            return self

        def executemany(self, *args: Any) -> Cursor:
            self._rows = threads.run(self._execute_and_fetch, super().executemany, args)
            return self

        def _execute_and_fetch(self, execute: Callable[..., Any], args: tuple[Any, ...]) -> deque[Any]:
            execute(*args)
            return deque(super().fetchall())

        def fetchone(self) -> Any:
            return self._rows.popleft() if self._rows else None

        def fetchmany(self, size: int | None = None) -> list[Any]:
            return [self._rows.popleft() for _ in range(min(size or self.arraysize, len(self._rows)))]

        def fetchall(self) -> list[Any]:
            rows, self._rows = list(self._rows), deque()
            return rows

        def __next__(self) -> Any:
            if not self._rows:
                raise StopIteration
            return self._rows.popleft()

    class Connection(sqlite3.Connection):
        def cursor(self, *_: Any) -> Any:
            return super().cursor(Cursor)

        def execute(self, *args: Any) -> Any:
            return self.cursor().execute(*args)

        def commit(self) -> None:
            threads.run(super().commit)

        def rollback(self) -> None:
            threads.run(super().rollback)

        def close(self) -> None:
            threads.run(super().close)  # the last one to close writes the log back into the file

    return Connection
