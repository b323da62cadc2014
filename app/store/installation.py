"""Which installation a DATA_DIR, a database and a Redis belong to: an id in each, compared when a process starts.

A worker on another disk than the one the database tells of would take each batch's files for lost; two installations on
one Redis would run each other's jobs. Where the database is a file below DATA_DIR, the two travel together.
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
_KEEP_S = 30 * 86_400  # after the last start
_ALIVE_S = 30  # since a worker's last sign of life, which it shows every few seconds
_ADOPT = "if they are to belong together from now on, run: flask --app app installation adopt"


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
        """Raises `ConfigError`, in one line, when what this process was given belongs to different installations.

        `files`: it will run batches and remove what has expired, so DATA_DIR must be known to be the installation's.
        Any other process may join from a machine of its own, where only what waits for Redis is kept in DATA_DIR.
        What has no id yet gets one.
        """
        here, there = self.id_in_directory(), self.id_in_database()
        if (here is None and there is None and files) or (self._travel_together() and (here is None or there is None)):
            there = self._into_database(there or here or secrets.token_hex(16))
            here = self._into_directory(there)
        if here is not None and there is not None and here != there:
            raise ConfigError(f"{self._named(here, there)}: they must not be mixed; {_ADOPT}")
        if files and here != there:
            raise ConfigError(f"{self._named(here, there)}: batches would be run without their files; {_ADOPT}")
        if there is None:
            return
        if here is None:
            log.warning("data_dir_not_shared", data_dir=str(self._directory), effect="no batches can be run from here")
        try:
            self._check_redis(there)
        except StoreUnavailable as exc:
            log.warning("installation_unchecked", reason=exc.message)

    def _check_redis(self, mine: str) -> None:
        self._redis.execute("SET", INSTALLATION, mine, "NX", "EX", _KEEP_S)
        found = self.id_in_redis()
        if found == mine:
            self._redis.execute("EXPIRE", INSTALLATION, _KEEP_S)
            return
        [(seconds, _)] = self._redis.pipeline([("TIME",)])
        if self._redis.execute("ZCOUNT", WORKERS, int(seconds) - _ALIVE_S, "+inf"):
            raise ConfigError(
                f"REDIS_URL leads to the Redis of {_short(found)}, which is running; the database "
                f"{self._database.name} belongs to {_short(mine)}: two installations must not share a Redis; {_ADOPT}"
            )
        # Nobody of it has shown a sign of life: it was begun anew with another DATA_DIR and database.
        log.warning("redis_taken_over", of=_short(found))
        self._redis.execute("SET", INSTALLATION, mine, "EX", _KEEP_S)

    def adopt(self) -> str:
        """DATA_DIR, the database and Redis belong together from now on; as what, is up to the database if it knows."""
        found = self._into_database(self.id_in_database() or self.id_in_directory() or secrets.token_hex(16))
        self._into_directory(found, replace=True)
        self._redis.execute("SET", INSTALLATION, found, "EX", _KEEP_S)
        return found

    def adopt_database(self) -> None:
        """The database, which has just been restored here, is this DATA_DIR's, wherever its backup was made."""
        here = self.id_in_directory()
        if here is not None:
            self._into_database(here, replace=True)
        elif (there := self.id_in_database()) is not None:
            self._into_directory(there)

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

    def _into_database(self, found: str, *, replace: bool = False) -> str:
        """The id that the database has now."""
        row = {"id": 1, "installation_id": found, "created_at": self._clock()}
        insert = self._database.insert(installation).values(row)
        with self._database.write() as connection:
            connection.execute(
                insert.on_conflict_do_update(index_elements=["id"], set_={"installation_id": found})
                if replace
                else insert.on_conflict_do_nothing()
            )
            return str(connection.execute(sa.select(installation.c.installation_id)).scalar_one())

    def _into_directory(self, found: str, *, replace: bool = False) -> str | None:
        """The id that DATA_DIR has now. It appears whole or not at all, and once, whoever else is at it."""
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

    def _travel_together(self) -> bool:
        file = self._database.file
        return file is not None and file.resolve().is_relative_to(self._directory.resolve())

    def _named(self, here: str | None, there: str | None) -> str:
        database = self._database.name
        return f"DATA_DIR {self._directory} belongs to {_short(here)}, the database {database} to {_short(there)}"


def _short(found: str | None) -> str:
    return "no installation" if found is None else f"installation {found[:8]}"
