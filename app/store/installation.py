"""The installation id: one in DATA_DIR, in the database and in Redis, compared when a process starts.

A worker with another disk than the one that the database refers to would take each batch's files for lost; two
installations on one Redis would run each other's jobs. A database that is a file below DATA_DIR is moved with it.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
import structlog

from app.errors import ConfigError, StoreUnavailable
from app.store.redis.client import Redis
from app.store.redis.keys import INSTALLATION, WORKERS
from app.store.sql.database import Database
from app.store.sql.tables import installation

log = structlog.get_logger()
_FILE = "installation"
_REDIS_TTL_S = 30 * 86_400  # after the last start
_WORKER_ALIVE_S = 30  # since a worker's last sign of life, which it shows every few seconds
_ADOPT_HINT = "if they are to belong together from now on, run: flask --app app installation adopt"


class Installation:
    """Methods raise `StoreUnavailable` when the database or the disk does not answer."""

    def __init__(
        self, *, database: Database, redis: Redis, data_dir: Path, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._redis = redis
        self._directory = data_dir.absolute()
        self._clock = clock

    def check(self, *, files: bool = False) -> None:
        """Raises `ConfigError`, in one line, when this process's parts belong to different installations.

        `files`: the process will run batches and remove expired files, so DATA_DIR must be known to be the
        installation's. Any other process may join from a machine of its own, whose DATA_DIR holds only settlements
        that wait for Redis. A part without an id gets one.
        """
        here, there = self.id_in_directory(), self.id_in_database()
        if (here is None and there is None and files) or (
            self._database_is_in_directory() and (here is None or there is None)
        ):
            there = self._write_to_database(there or here or secrets.token_hex(16))
            here = self._write_to_directory(there)
        if here is not None and there is not None and here != there:
            raise ConfigError(f"{self._mismatch(here, there)}: they must not be mixed; {_ADOPT_HINT}")
        if files and here != there:
            raise ConfigError(f"{self._mismatch(here, there)}: batches would be run without their files; {_ADOPT_HINT}")
        if there is None:
            return
        if here is None:
            log.warning("data_dir_not_shared", data_dir=str(self._directory), effect="no batches can be run from here")
        try:
            self._check_redis(there)
        except StoreUnavailable as exc:
            log.warning("installation_unchecked", reason=exc.message)

    def _check_redis(self, mine: str) -> None:
        self._redis.execute("SET", INSTALLATION, mine, "NX", "EX", _REDIS_TTL_S)
        found = self.id_in_redis()
        if found == mine:
            self._redis.execute("EXPIRE", INSTALLATION, _REDIS_TTL_S)
            return
        [(seconds, _)] = self._redis.pipeline([("TIME",)])
        if self._redis.execute("ZCOUNT", WORKERS, int(seconds) - _WORKER_ALIVE_S, "+inf"):
            raise ConfigError(
                f"REDIS_URL leads to the Redis of {_described(found)}, which is running; the database "
                f"{self._database.name} belongs to {_described(mine)}: "
                f"two installations must not share a Redis; {_ADOPT_HINT}"
            )
        # None of its workers is alive: this Redis is used again, with another DATA_DIR and database.
        log.warning("redis_taken_over", of=_described(found))
        self._redis.execute("SET", INSTALLATION, mine, "EX", _REDIS_TTL_S)

    def adopt(self) -> str:
        """Gives DATA_DIR, the database and Redis one id, the database's if it has one; returns it."""
        found = self._write_to_database(self.id_in_database() or self.id_in_directory() or secrets.token_hex(16))
        self._write_to_directory(found, replace=True)
        self._redis.execute("SET", INSTALLATION, found, "EX", _REDIS_TTL_S)
        return found

    def adopt_database(self) -> None:
        """Gives the database, which has just been restored here, the id of DATA_DIR, wherever its backup was made."""
        here = self.id_in_directory()
        if here is not None:
            self._write_to_database(here, replace=True)
        elif (there := self.id_in_database()) is not None:
            self._write_to_directory(there)

    def id_in_directory(self) -> str | None:
        try:
            return (self._directory / _FILE).read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as exc:
            raise StoreUnavailable(f"{self._directory / _FILE}: cannot be read.") from exc

    def id_in_database(self) -> str | None:
        with self._database.read() as connection:
            found: str | None = connection.execute(sa.select(installation.c.installation_id)).scalar()
        return found

    def id_in_redis(self) -> str | None:
        found: bytes | None = self._redis.execute("GET", INSTALLATION)
        return found.decode() if found else None

    def _write_to_database(self, found: str, *, replace: bool = False) -> str:
        """Writes the id to the database unless there is one, or to `replace` it; returns the one that is there now."""
        row = {"id": 1, "installation_id": found, "created_at": self._clock()}
        insert = self._database.insert(installation).values(row)
        with self._database.write() as connection:
            connection.execute(
                insert.on_conflict_do_update(index_elements=["id"], set_={"installation_id": found})
                if replace
                else insert.on_conflict_do_nothing()
            )
            return str(connection.execute(sa.select(installation.c.installation_id)).scalar_one())

    def _write_to_directory(self, found: str, *, replace: bool = False) -> str | None:
        """Writes the id to DATA_DIR in the same way; atomically, whatever other processes do."""
        path = self._directory / _FILE
        new = path.with_name(f"{_FILE}.{secrets.token_hex(8)}")
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(found + "\n")
                file.flush()
                os.fsync(file.fileno())
            if replace:
                new.replace(path)
            else:
                path.hardlink_to(new)
        except FileExistsError:
            pass
        except OSError as exc:
            raise StoreUnavailable(f"{path}: {exc.strerror}.") from exc
        finally:
            new.unlink(missing_ok=True)
        return self.id_in_directory()

    def _database_is_in_directory(self) -> bool:
        file = self._database.file
        return file is not None and file.resolve().is_relative_to(self._directory.resolve())

    def _mismatch(self, here: str | None, there: str | None) -> str:
        database = self._database.name
        return (
            f"DATA_DIR {self._directory} belongs to {_described(here)}, the database {database} to {_described(there)}"
        )


def _described(found: str | None) -> str:
    return "no installation" if found is None else f"installation {found[:8]}"
