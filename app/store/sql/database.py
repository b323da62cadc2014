"""The database: read and write transactions on one SQLAlchemy engine, and the migration of its schema.

SQLite is a file in WAL mode: readers never wait and never block the writer. A writer takes the lock when its
transaction begins (BEGIN IMMEDIATE) and waits for it at most 5 s; a transaction that began as a reader and wrote
later would get "database is locked" at once, however long the timeout. Where greenlets share a process, only the
greenlet that made the call waits (see `store.sql.threads`). PostgreSQL is used as its URL says.
"""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from gevent.monkey import is_module_patched
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine

from app.errors import ConfigError, StatementTimeout, StoreUnavailable
from app.store.sql.threads import SqliteThreads, threaded_connection_class

_BUSY_TIMEOUT_MS = 5000
_CONNECT_TIMEOUT_S = 5
_IDS_A_STATEMENT = 500
_MIGRATE_TIMEOUT_S = 60.0
_STEPS_BETWEEN_CHECKS = 100_000  # of SQLite's virtual machine: about a millisecond
_MIGRATIONS = Path(__file__).with_name("migrations")
# The key of an advisory lock: any number, the same in every process.
_MIGRATION_LOCK = 0x70656E73746F636B
# Both databases spell "ON CONFLICT" alike, but SQLAlchemy has it in their dialects only.
_INSERT: dict[str, Callable[[sa.Table], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class Database:
    """Transactions on the database at `url`. Raises `ConfigError` when the URL cannot be used.

    Every method raises `StoreUnavailable` when the database does not answer, is locked, or refuses.
    """

    def __init__(self, url: str) -> None:
        self._url = _parsed(url)
        self._engine = _engine(self._url)
        self._writer = self._engine.execution_options(penstock_begin="BEGIN IMMEDIATE")
        # Greenlets that wait for SQLite's lock would take all threads, and its holder needs one to go on.
        self._one_writer = threading.Lock() if self.file is not None and is_module_patched("threading") else None

    @contextmanager
    def read(self, timeout_s: float | None = None) -> Iterator[Connection]:
        """Opens a transaction that sees one state of the database and is rolled back at the end.

        `timeout_s` bounds the time of its statements (PostgreSQL: of each of them); then `StatementTimeout` is raised.
        """
        with _translated_errors(), self._engine.connect() as connection:
            if timeout_s is None:
                yield connection
                return
            with self._time_limit(connection, timeout_s):
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Opens a transaction that is committed at the end, or rolled back when the block raises. Keep it short."""
        with _translated_errors(), self._only_writer(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def _time_limit(self, connection: Connection, timeout_s: float) -> Iterator[None]:
        try:
            if self.file is None:
                connection.execute(sa.text(f"SET LOCAL statement_timeout = {max(1, int(timeout_s * 1000))}"))
                yield
                return
            deadline = time.monotonic() + timeout_s
            sqlite3_connection: Any = connection.connection.driver_connection
            sqlite3_connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_BETWEEN_CHECKS)
            try:
                yield
            finally:
                sqlite3_connection.set_progress_handler(None, 0)
        except sa.exc.DBAPIError as exc:
            if _is_timeout(exc.orig):
                raise StatementTimeout(f"The database took longer than {timeout_s:g} s.") from exc
            raise

    @contextmanager
    def _only_writer(self) -> Iterator[None]:
        """Keeps the other greenlets of this process from writing."""
        lock = self._one_writer
        if lock is None:
            yield
            return
        if not lock.acquire(timeout=_BUSY_TIMEOUT_MS / 1000):
            raise StoreUnavailable("The database is locked.", retry_after_s=5)
        try:
            yield
        finally:
            lock.release()

    def insert(self, table: sa.Table) -> Any:
        """Returns an INSERT with `on_conflict_do_nothing` and `on_conflict_do_update`."""
        return _INSERT[self._engine.dialect.name](table)

    def ping(self, timeout_s: float = 1.0) -> None:
        """Raises `StoreUnavailable` unless the database answers in time and has been migrated once."""
        milliseconds = max(1, int(timeout_s * 1000))
        with self.read() as connection:
            if self.file is None:
                connection.execute(sa.text(f"SET LOCAL statement_timeout = {milliseconds}"))
                connection.execute(sa.text("SELECT version_num FROM alembic_version"))
                return
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {milliseconds}")
            try:
                connection.exec_driver_sql("SELECT version_num FROM alembic_version")
            finally:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")

    def migrate(self) -> None:
        """Brings the schema to the newest version. Several processes may call this at once; one does the work."""
        with _translated_errors(), self._migration_lock():
            if self.file is not None:
                # The mode is a property of the file. It cannot change inside a transaction, nor while others write.
                with self._engine.execution_options(penstock_begin="").connect() as connection:
                    connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            with self._writer.begin() as connection:
                if self.file is None:
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                _upgrade(connection)
        # A server that forks after this must not share a connection with its children.
        self.close()

    def close(self) -> None:
        self._engine.dispose()

    def stats(self) -> dict[str, Any]:
        """Returns the dialect and the number of connections in use, for `/debug`."""
        return {"dialect": self._engine.dialect.name, "in_use": getattr(self._engine.pool, "checkedout", int)()}

    @property
    def file(self) -> Path | None:
        """The SQLite file; none when the database is a server."""
        return Path(self._url.database or "") if self._url.get_backend_name() == "sqlite" else None

    @property
    def name(self) -> str:
        """The file's path, or the URL without the password."""
        return str(self.file) if self.file is not None else self._url.render_as_string(hide_password=True)

    @contextmanager
    def _migration_lock(self) -> Iterator[None]:
        if self.file is None:
            yield
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.with_name(self.file.name + ".lock").open("a") as lock:
                _lock(lock.fileno(), _MIGRATE_TIMEOUT_S)
                yield
        except OSError as exc:
            raise StoreUnavailable(f"The database's directory cannot be written: {exc.strerror}.") from exc


def id_chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yields `ids` in parts that fit into one statement: SQLite before 3.32 takes 999 parameters."""
    for start in range(0, len(ids), _IDS_A_STATEMENT):
        yield ids[start : start + _IDS_A_STATEMENT]


def _upgrade(connection: Connection) -> None:
    # Imported here, because only a migration needs it: it would take a fifth of every other process's start.
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as exc:
        # Its schema is newer than this code: after a rollback of the code, for instance.
        raise StoreUnavailable(f"The database cannot be migrated: {exc}.") from exc


def _parsed(url: str) -> URL:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        # The URL may hold a password: it is not repeated.
        raise ConfigError("environment: DATABASE_URL: is not a database URL") from None
    backend = parsed.get_backend_name()
    if backend not in _INSERT:
        raise ConfigError(f"environment: DATABASE_URL: expected sqlite or postgresql, not {backend}")
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigError("environment: DATABASE_URL: sqlite needs a file, as in sqlite:////var/lib/penstock/ledger.db")
    return parsed


def _engine(url: URL) -> Engine:
    try:
        if url.get_backend_name() == "sqlite":
            options: dict[str, Any] = {}
            if is_module_patched("threading"):
                options = {"factory": threaded_connection_class(SqliteThreads()), "check_same_thread": False}
            engine = sa.create_engine(url, pool_timeout=_CONNECT_TIMEOUT_S, hide_parameters=True, connect_args=options)
            sa.event.listen(engine, "connect", _prepare_sqlite)
            sa.event.listen(engine, "begin", _begin_sqlite)
            return engine
        limits = {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT_TIMEOUT_S}
        return sa.create_engine(
            url, pool_timeout=_CONNECT_TIMEOUT_S, pool_pre_ping=True, connect_args=limits, hide_parameters=True
        )
    except (ImportError, sa.exc.ArgumentError) as exc:
        raise ConfigError(f"environment: DATABASE_URL: its driver cannot be loaded: {exc}") from None


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions of its own accord
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    # In WAL mode a power cut can then lose the last commits but never corrupt; a crash of ours loses nothing.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -16384")  # 16 MiB: ids are random, so every batch touches many pages


def _begin_sqlite(connection: Connection) -> None:
    statement = connection.get_execution_options().get("penstock_begin", "BEGIN")
    if statement:
        connection.exec_driver_sql(statement)


def _is_timeout(error: Any) -> bool:
    # PostgreSQL's code for a query that was cancelled: by its timeout.
    return getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT" or getattr(error, "sqlstate", "") == "57014"


def _lock(fileno: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(fileno, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreUnavailable("Another process has been migrating the database for too long.") from None
            time.sleep(0.05)


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raises SQLAlchemy's errors as `StoreUnavailable`. Statements and values stay out of the message."""
    try:
        yield
    except sa.exc.SQLAlchemyError as exc:
        cause = type(getattr(exc, "orig", None) or exc).__name__
        raise StoreUnavailable(f"The database does not answer as it should ({cause}).", retry_after_s=5) from exc
