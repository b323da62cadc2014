from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.errors import ConfigError, StoreUnavailable
from app.store.sql import database as database_module
from app.store.sql.database import Database
from app.store.sql.tables import audit, metadata


def _entry(subject: str) -> dict[str, object]:
    return {"ts": 1.0, "actor": "test", "action": "test", "subject": subject, "detail": "{}"}


def test_the_migrations_make_exactly_the_tables_of_the_code(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_migrating_makes_the_directory_enables_wal_and_can_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "not there yet" / "with 100%" / "ledger.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.migrate()
    database.ping()
    with database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 1, "busy_timeout": 5000, "foreign_keys": 1}


@pytest.mark.server
def test_processes_that_start_together_can_all_migrate(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'ledger.db'}"
    code = f"from app.store.sql.database import Database; Database({url!r}).migrate()"
    root = Path(__file__).parents[2]
    started = [
        subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert [process.communicate(timeout=30)[1] for process in started] == [""] * 4
    Database(url).ping()


def test_a_migration_waits_for_another_one_but_not_for_ever(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_MIGRATE_TIMEOUT_S", 0.1)
    with (tmp_path / "ledger.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="Another process has been migrating"):
            database.migrate()
    database.migrate()


def test_a_failed_migration_leaves_nothing_half_done(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/ledger.db")
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE audit (taken TEXT)")  # the last table that the migration makes
    with pytest.raises(StoreUnavailable):
        database.migrate()
    with database.read() as connection:
        assert sa.inspect(connection).get_table_names() == ["audit"]


def test_a_schema_newer_than_the_code_is_one_clear_line(database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreUnavailable, match=r"cannot be migrated: .*9999"):
        database.migrate()


@pytest.mark.slow
def test_bug_10_a_writer_and_four_readers_never_see_a_locked_database(database: Database, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    failures: list[StoreUnavailable] = []
    done = {"writes": 0, "reads": 0}
    until = time.monotonic() + 2

    def work(kind: str) -> None:
        mine = Database(url)
        try:
            while time.monotonic() < until:
                if kind == "writes":
                    with mine.write() as connection:
                        count = connection.scalar(sa.select(sa.func.count()).select_from(audit))
                        connection.execute(audit.insert(), [_entry(f"{count}")] * 20)
                else:
                    with mine.read() as connection:
                        connection.execute(sa.select(sa.func.count()).select_from(audit)).scalar_one()
                done[kind] += 1
        except StoreUnavailable as exc:
            failures.append(exc)
        finally:
            mine.close()

    # Two writers: the ledger process, and a worker or a command that creates a key meanwhile.
    threads = [threading.Thread(target=work, args=(kind,)) for kind in ("writes", "writes", *["reads"] * 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert done["writes"] > 20
    assert done["reads"] > 20
    with database.read() as connection:
        rows = connection.execute(sa.select(audit.c.subject)).scalars().all()
    # Each writer read the count inside its transaction: had two overlapped, a count would appear twice.
    assert sorted({int(subject) for subject in rows}) == list(range(0, len(rows), 20))


def test_a_ping_does_not_wait_for_a_writer(database: Database) -> None:
    with database.write() as connection:
        connection.execute(audit.insert(), [_entry("x")])
        started = time.monotonic()
        database.ping(timeout_s=5)
        assert time.monotonic() - started < 1


def test_a_database_that_was_never_migrated_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        Database(f"sqlite:///{tmp_path}/ledger.db").ping()


def test_a_failed_write_is_rolled_back_and_its_error_shows_no_statement(database: Database) -> None:
    twice = [{**_entry("my-secret"), "id": 1}] * 2
    with pytest.raises(StoreUnavailable) as caught, database.write() as connection:
        connection.execute(audit.insert(), twice)
    assert caught.value.message == "The database does not answer as it should (IntegrityError)."
    assert "my-secret" not in "".join(traceback.format_exception(caught.value))
    with database.read() as connection:
        assert connection.execute(sa.select(audit)).all() == []


def test_a_directory_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable, match="directory cannot be written"):
        Database(f"sqlite:///{tmp_path}/file/ledger.db").migrate()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("no url, but a hunter2", "is not a database URL"),
        ("mysql://root:hunter2@db/ledger", "expected sqlite or postgresql, not mysql"),
        ("sqlite://", "sqlite needs a file"),
        ("sqlite:///:memory:", "sqlite needs a file"),
        ("postgresql+nosuch://penstock:hunter2@db/ledger", "driver cannot be loaded"),
    ],
)
def test_an_unusable_url_stops_the_start_without_showing_its_password(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"DATABASE_URL: .*{reason}") as caught:
        Database(url)
    assert "hunter2" not in caught.value.message
    assert "\n" not in caught.value.message
