"""An id in DATA_DIR, database and Redis: what belongs to different installations is refused in one line."""

from __future__ import annotations

import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import ConfigError
from app.gateway.heartbeat import Heartbeat
from app.store.installation import Installation
from app.store.redis.client import Redis
from app.store.sql.backup import Backups
from app.store.sql.database import Database
from tests.support.aging import let_pass


@pytest.fixture
def installation_at(redis: Redis, migrated_file: Path, tmp_path: Path) -> Callable[..., Installation]:
    """The installation of DATA_DIR `name` with the database of DATA_DIR `database`, or `beside` all of them."""

    def installation_at(name: str, database: str | None = None, *, beside: bool = False) -> Installation:
        home = tmp_path if beside else tmp_path / (database or name)
        home.mkdir(exist_ok=True)
        if not (home / "ledger.db").exists():
            shutil.copy(migrated_file, home / "ledger.db")
        found = Database(f"sqlite:///{home / 'ledger.db'}")
        return Installation(database=found, redis=redis, data_dir=tmp_path / name)

    return installation_at


def ids(found: Installation) -> tuple[str | None, str | None, str | None]:
    return found.id_in_directory(), found.id_in_database(), found.id_in_redis()


def test_an_installation_gets_one_private_id_in_all_three_places(
    installation_at: Callable[..., Installation], tmp_path: Path
) -> None:
    found = installation_at("a")
    found.check()
    assert len(set(ids(found))) == 1
    path = tmp_path / "a" / "installation"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = ids(found)
    for files in (True, False):
        installation_at("a").check(files=files)
    assert ids(found) == before
    assert [name.name for name in (tmp_path / "a").glob("installation*")] == ["installation"]


def test_processes_that_start_together_agree(installation_at: Callable[..., Installation]) -> None:
    found = [installation_at("a") for _ in range(8)]
    threads = [threading.Thread(target=one.check, kwargs={"files": True}) for one in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each for one in found for each in ids(one)}) == 1


def test_a_data_dir_of_another_installation_is_refused_in_one_line(
    installation_at: Callable[..., Installation], redis: Redis, tmp_path: Path
) -> None:
    installation_at("a").check(files=True)
    redis.execute("FLUSHALL")
    installation_at("b").check(files=True)
    for files in (True, False):
        with pytest.raises(ConfigError) as refused:
            installation_at("b", database="a").check(files=files)
        message = refused.value.message
        assert "\n" not in message
        for part in (str(tmp_path / "b"), str(tmp_path / "a" / "ledger.db"), "flask --app app installation adopt"):
            assert part in message


def test_a_new_data_dir_may_join_with_a_gateway_but_not_with_a_worker(
    installation_at: Callable[..., Installation], tmp_path: Path
) -> None:
    installation_at("a", beside=True).check(files=False)
    assert not (tmp_path / "a" / "installation").exists(), "whoever has the files says whose they are"
    installation_at("a", beside=True).check(files=True)
    installation_at("vm2", beside=True).check(files=False)
    assert not (tmp_path / "vm2" / "installation").exists()
    with pytest.raises(ConfigError, match="batches would be run without their files"):
        installation_at("vm2", beside=True).check(files=True)
    installation_at("vm2", beside=True).adopt()
    installation_at("vm2", beside=True).check(files=True)
    installation_at("a", beside=True).check(files=True)


def test_a_new_database_does_not_take_over_a_data_dir_with_files(
    installation_at: Callable[..., Installation], tmp_path: Path
) -> None:
    installation_at("a").check(files=True)
    with pytest.raises(ConfigError, match="no installation"):
        installation_at("a", beside=True).check(files=True)
    (tmp_path / "a" / "ledger.db").unlink()  # one that begins anew where it was: it travels with its directory
    before = (tmp_path / "a" / "installation").read_text()
    installation_at("a").check(files=True)
    assert installation_at("a").id_in_database() == before.strip()


def test_two_installations_never_share_a_redis_but_one_may_come_back(
    installation_at: Callable[..., Installation], redis: Redis
) -> None:
    installation_at("a").check()
    heartbeat = Heartbeat(redis=redis, timeout_s=15)
    heartbeat.beat()
    with pytest.raises(ConfigError, match="two installations must not share a Redis"):
        installation_at("b").check()
    assert redis.execute("TTL", "penstock:installation") > 86_400
    redis.execute("DEL", "penstock:installation")
    installation_at("a").check()
    assert len(set(ids(installation_at("a")))) == 1
    assert installation_at("b").adopt() == installation_at("b").id_in_redis()


def test_a_redis_whose_installation_is_no_more_is_taken_over(
    installation_at: Callable[..., Installation], redis: Redis
) -> None:
    """DATA_DIR was removed, and all began anew."""
    installation_at("a").check()
    Heartbeat(redis=redis, timeout_s=15).beat()
    let_pass(redis, 60)
    installation_at("b").check()
    assert installation_at("b").id_in_redis() == installation_at("b").id_in_directory()


def test_a_redis_that_is_away_does_not_keep_a_process_from_starting(
    dead_redis: Redis, database: Database, tmp_path: Path
) -> None:
    Installation(database=database, redis=dead_redis, data_dir=tmp_path).check(files=True)


def test_a_restored_backup_belongs_to_where_it_was_restored(
    installation_at: Callable[..., Installation], redis: Redis, tmp_path: Path
) -> None:
    one, other, fresh = installation_at("one"), installation_at("other"), installation_at("fresh")
    one.check(files=True)
    Backups(database=one._database).back_up(tmp_path / "copy.db")
    redis.execute("FLUSHALL")
    other.check(files=True)
    before = other.id_in_directory()
    Backups(database=other._database).restore(tmp_path / "copy.db")
    assert other.id_in_database() == one.id_in_database() != before
    other.adopt_database()
    other.check(files=True)
    assert other.id_in_directory() == before
    redis.execute("FLUSHALL")
    Backups(database=fresh._database).restore(tmp_path / "copy.db")
    fresh.adopt_database()
    fresh.check(files=True)
    assert fresh.id_in_directory() == one.id_in_directory()
