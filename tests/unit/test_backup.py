"""A backup is the ledger at one moment, whoever writes; a restore is all or nothing, never under a ledger process."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.domain.identity import hash_key
from app.errors import ConfigError, GatewayError, InvalidRequest, StoreUnavailable
from app.store.keys import Keys
from app.store.ledger import Ledger
from app.store.redis.client import Redis
from app.store.sql.backup import Backups
from app.store.sql.database import Database
from tests.support.servers import DEV_KEY, ROOT

NOON = 1_793_534_400.0  # 2026-11-01T12:00:00Z


def call(call_id: str) -> dict[str, Any]:
    return {
        "call_id": call_id,
        "request_id": call_id,
        "ts": NOON,
        "key_id": "dev",
        "model": "fast",
        "status": "ok",
        "cost_nanousd": 7,
    }


def query(path: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def ids(path: Path) -> set[str]:
    return {call_id for (call_id,) in query(path, "SELECT call_id FROM usage")}


@pytest.fixture
def live(database: Database) -> Path:
    assert database.file is not None
    return database.file


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database=database)


@pytest.fixture
def backups(database: Database) -> Backups:
    return Backups(database=database, clock=lambda: NOON)


def test_a_backup_is_one_moment_of_a_ledger_that_is_being_written(
    ledger: Ledger, backups: Backups, tmp_path: Path
) -> None:
    stop, written = threading.Event(), threading.Semaphore(0)

    def write() -> None:
        for batch in range(100_000):
            if stop.is_set():
                return
            ledger.write([call(f"{batch}-{i}") for i in range(10)])
            written.release()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        sizes = []
        for number in range(5):
            assert written.acquire(timeout=20)
            assert written.acquire(timeout=20)
            target = tmp_path / f"copy-{number}.db"
            contents = backups.back_up(target)
            # The roll-up and whole batches: neither could be half there.
            [(rows, cost)] = query(target, "SELECT count(*), sum(cost_nanousd) FROM usage")
            assert query(target, "SELECT sum(calls), sum(cost_nanousd) FROM usage_daily") == [(rows, cost)]
            assert rows % 10 == 0
            assert (contents.calls, contents.newest) == (rows, NOON)
            sizes.append(rows)
    finally:
        stop.set()
        writer.join()
    assert sizes == sorted(set(sizes)), "each later backup holds more"
    assert sizes[0] > 0
    leftovers = [path.name for path in tmp_path.glob("copy-*") if path.suffix != ".db"]
    assert leftovers == [], "one file each, nothing beside it"
    assert (tmp_path / "copy-0.db").stat().st_mode & 0o077 == 0


def test_a_restore_brings_back_the_backup_and_keeps_what_was_there(
    ledger: Ledger, backups: Backups, database: Database, live: Path, tmp_path: Path
) -> None:
    ledger.write([call("old")])
    backups.back_up(tmp_path / "copy.db")
    ledger.write([call("new")])
    restored = backups.restore(tmp_path / "copy.db")
    assert str(restored.contents) == "1 calls, the last of 2026-11-01 12:00:00 UTC and 0 keys"
    assert restored.kept == live.with_name("ledger.db.before-20261101T120000Z")
    assert ids(restored.kept) == {"old", "new"}
    assert ids(live) == {"old"}
    assert query(live, "PRAGMA journal_mode") == [("wal",)]
    assert query(live, "SELECT action, subject FROM audit") == [("ledger.restore", "copy.db")]
    # The engine, open all the while, goes on with it.
    database.ping()
    assert ledger.write([call("new"), call("old")]) == 1


def test_who_reads_during_a_restore_sees_the_one_or_the_other(
    ledger: Ledger, backups: Backups, database: Database, tmp_path: Path
) -> None:
    ledger.write([call("old")])
    backups.back_up(tmp_path / "copy.db")
    ledger.write([call("new")])
    with database.read() as connection:
        count = "SELECT count(*) FROM usage"
        assert connection.exec_driver_sql(count).scalar() == 2
        backups.restore(tmp_path / "copy.db")
        assert connection.exec_driver_sql(count).scalar() == 2, "its transaction began before"
    with database.read() as connection:
        assert connection.exec_driver_sql(count).scalar() == 1


def test_a_restore_makes_the_ledger_of_a_new_machine(backups: Backups, ledger: Ledger, tmp_path: Path) -> None:
    ledger.write([call("a")])
    backups.back_up(tmp_path / "copy.db")
    fresh = Database(f"sqlite:///{tmp_path}/elsewhere/data/ledger.db")
    restored = Backups(database=fresh).restore(tmp_path / "copy.db")
    assert (restored.kept, restored.revoked) == (None, 0)
    fresh.ping()
    assert fresh.file is not None
    assert ids(fresh.file) == {"a"}
    fresh.close()
    assert sorted(path.name for path in fresh.file.parent.iterdir()) == ["ledger.db", "ledger.db.process"]


def test_a_copy_made_by_hand_counts_with_its_log_beside_it(
    backups: Backups, ledger: Ledger, live: Path, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(live)) as held:  # while somebody has it open, rows stay in the -wal
        held.execute("SELECT count(*) FROM usage").fetchall()
        ledger.write([call("in the log")])
        (tmp_path / "by-hand").mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{live}{suffix}", tmp_path / "by-hand")
    assert "in the log" not in (tmp_path / "by-hand" / "ledger.db").read_bytes().decode("latin-1")
    fresh = Database(f"sqlite:///{tmp_path}/fresh.db")
    Backups(database=fresh).restore(tmp_path / "by-hand" / "ledger.db")
    assert ids(tmp_path / "fresh.db") == {"in the log"}


def test_a_key_revoked_since_the_backup_stays_revoked_also_for_redis(
    database: Database, redis: Redis, tmp_path: Path
) -> None:
    backups = Backups(database=database)
    keys = Keys(database=database, redis=redis)
    good, _ = keys.create("good")
    bad, info = keys.create("bad")
    backups.back_up(tmp_path / "copy.db")
    keys.revoke(info.key_id)
    redis.execute("FLUSHALL")
    assert keys.authenticate(hash_key(bad)) is None
    assert backups.restore(tmp_path / "copy.db").revoked == 1
    assert keys.sync_mirror() == 1
    redis.execute("FLUSHALL")
    assert keys.authenticate(hash_key(bad)) is None
    found = keys.authenticate(hash_key(good))
    assert found is not None
    assert found.name == "good"


def test_no_restore_beside_a_ledger_process_and_no_such_start_during_one(
    backups: Backups, database: Database, ledger: Ledger, live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups.back_up(tmp_path / "copy.db")
    ledger.write([call("a")])
    with backups.hold_off_restores(), backups.hold_off_restores():
        with pytest.raises(StoreUnavailable, match="a ledger process runs on it; stop that first"):
            backups.restore(tmp_path / "copy.db")
        backups.back_up(tmp_path / "another.db")
    assert ids(live) == {"a"}
    refused: list[str] = []

    def try_to_run(*_: object) -> list[tuple[str, float]]:
        with pytest.raises(StoreUnavailable, match="it is being restored") as refusal, backups.hold_off_restores():
            pass
        refused.append(str(refusal.value))
        return []

    monkeypatch.setattr(backups, "_set_aside", try_to_run)
    backups.restore(tmp_path / "copy.db")
    assert len(refused) == 1


def broken_page(copy: Path) -> None:
    pages = bytearray(copy.read_bytes())
    [(root,)] = query(copy, "SELECT rootpage FROM sqlite_master WHERE name = 'usage_daily'")
    pages[(root - 1) * 4096 : root * 4096] = b"\xa5" * 4096
    copy.write_bytes(pages)


def cut_short(copy: Path) -> None:
    copy.write_bytes(copy.read_bytes()[: 4096 * 5 + 100])


def without_keys(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("DROP TABLE api_keys")


def of_a_newer_version(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (broken_page, "is not a sound ledger"),
        (cut_short, "is not a sound ledger"),
        (without_keys, "it has no table api_keys"),
        (of_a_newer_version, "cannot be migrated"),
        (lambda copy: copy.write_text("-- dump"), "is not a sound ledger"),
        (lambda copy: copy.write_bytes(b""), "it has no table"),
        (Path.unlink, "no such file"),
    ],
)
def test_what_is_no_sound_ledger_is_not_restored(
    backups: Backups, ledger: Ledger, live: Path, tmp_path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    ledger.write([call("a")])
    backups.back_up(tmp_path / "copy.db")
    spoil(tmp_path / "copy.db")
    ledger.write([call("b")])
    with pytest.raises(GatewayError, match=reason):
        backups.restore(tmp_path / "copy.db")
    assert ids(live) == {"a", "b"}
    assert list(live.parent.glob("*before*")) == list(live.parent.glob("restore-*")) == []


@pytest.mark.parametrize("rubbish", [b"\x00" * 8192, b"rubbish" * 2000])
def test_a_ledger_that_cannot_be_read_is_set_aside_and_replaced(
    backups: Backups, ledger: Ledger, database: Database, live: Path, tmp_path: Path, rubbish: bytes
) -> None:
    ledger.write([call("a")])
    backups.back_up(tmp_path / "copy.db")
    database.close()
    live.write_bytes(rubbish)
    kept = backups.restore(tmp_path / "copy.db").kept
    assert kept is not None
    assert kept.read_bytes() == rubbish
    assert ids(live) == {"a"}


def test_a_backup_that_fails_leaves_the_last_good_one(backups: Backups, live: Path, tmp_path: Path) -> None:
    target = tmp_path / "nightly.db"
    backups.back_up(target)
    before = target.read_bytes()
    broken_page(live)
    with pytest.raises(GatewayError):
        backups.back_up(target)
    assert target.read_bytes() == before
    assert not target.with_name("nightly.db.part").exists()
    with pytest.raises(StoreUnavailable, match="No such file or directory"):
        backups.back_up(tmp_path / "nowhere" / "copy.db")


def test_a_backup_never_overwrites_the_ledger_itself(backups: Backups, live: Path, tmp_path: Path) -> None:
    (tmp_path / "symbolic.db").symlink_to(live)
    (tmp_path / "hard.db").hardlink_to(live)
    for target in (live, tmp_path / "symbolic.db", tmp_path / "hard.db", Path(f"{live}-wal")):
        with pytest.raises(InvalidRequest, match="is the ledger itself"):
            backups.back_up(target)


def test_a_server_database_has_tools_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(f"sqlite:///{tmp_path}/ledger.db")
    monkeypatch.setattr(Database, "file", None)
    with pytest.raises(ConfigError, match="is not SQLite"):
        Backups(database=database).back_up(tmp_path / "copy.db")
    with Backups(database=database).hold_off_restores():
        pass


def test_the_commands_copy_through_pipes_between_two_machines(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "gateway.yaml").write_text("providers: {d: {kind: demo}}\nmodels: {d: {targets: [{provider: d}]}}\n")

    def flask(home: str, *command: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        env = {
            "PATH": "/usr/bin:/bin",
            "DATA_DIR": str(tmp_path / home),
            "REDIS_URL": redis_url,
            "GATEWAY_CONFIG": str(tmp_path / "gateway.yaml"),
            "DEV_API_KEY": DEV_KEY,
        }
        executable = str(Path(sys.executable).parent / "flask")
        return subprocess.run([executable, "--app", "app", *command], cwd=ROOT, env=env, timeout=60, **options)

    flask("one", "ledger", "migrate", check=True)
    Ledger(database=Database(f"sqlite:///{tmp_path}/one/ledger.db")).write([call("a")])
    copied = flask("one", "ledger", "backup", "-", capture_output=True, check=True)
    assert copied.stdout.startswith(b"SQLite format 3\0")
    assert copied.stderr == b"Backed up 1 calls, the last of 2026-11-01 12:00:00 UTC and 0 keys.\n"
    restored = flask("two", "ledger", "restore", "-", input=copied.stdout, capture_output=True, check=True)
    assert restored.stdout == b""
    assert ids(tmp_path / "two" / "ledger.db") == {"a"}
    refused = flask("two", "ledger", "restore", "-", input=b"rubbish", capture_output=True)
    assert (refused.returncode, refused.stderr.count(b"\n")) == (1, 1)
    assert ids(tmp_path / "two" / "ledger.db") == {"a"}
