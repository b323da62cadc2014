from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from app.domain.identity import Caller, Role, hash_key, is_well_formed
from app.errors import InvalidRequest, NotFound, StoreUnavailable
from app.store.keys import Keys, decode_record
from app.store.redis.client import Redis
from app.store.sql.database import Database
from app.store.sql.tables import api_keys, audit

NOW = 1_793_534_400.0


class FakeClock:
    now = NOW

    def __call__(self) -> float:
        return self.now


class InterruptedRedis(Redis):
    """A Redis client that runs another client's step right before a command is sent."""

    def __init__(self, url: str, before: Callable[[tuple[Any, ...]], None]) -> None:
        super().__init__(url)
        self._before = before

    def execute(self, *args: Any) -> Any:
        self._before(args)
        return super().execute(*args)

    def pipeline(self, commands: Any) -> list[Any]:
        for command in commands:
            self._before(command)
        return super().pipeline(commands)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def keys(database: Database, redis: Redis, clock: FakeClock) -> Keys:
    return Keys(database=database, redis=redis, clock=clock)


def mirror(key: str) -> str:
    return f"penstock:key:{hash_key(key)}"


def test_a_new_key_works_at_once_and_is_nowhere_in_clear(database: Database, redis: Redis, keys: Keys) -> None:
    key, info = keys.create("billing", plan="free", role=Role.ADMIN, models=["b", "a"], expires_at=NOW + 5, tenant="t")
    assert is_well_formed(key)
    caller = keys.authenticate(hash_key(key))
    assert caller == Caller(
        info.key_id,
        "billing",
        Role.ADMIN,
        "free",
        frozenset({"a", "b"}),
        "t",
        NOW + 5,
        hash_key(key),
        redis.execute("GET", mirror(key)),
    )
    assert keys.get(info.key_id) == info
    with database.read() as connection:
        stored = [str(connection.execute(sa.select(table)).all()) for table in (api_keys, audit)]
    assert not any(key in text or key[11:] in text for text in stored)
    assert hash_key(key) in stored[0]


def test_the_record_is_the_same_bytes_from_every_path(database: Database, redis: Redis, keys: Keys) -> None:
    key, _ = keys.create("a", models=["z", "b"])
    created = redis.execute("GET", mirror(key))
    redis.execute("DEL", mirror(key))
    read = keys.authenticate(hash_key(key))
    assert read is not None
    assert read.record == created == redis.execute("GET", mirror(key))
    assert list(json.loads(created)) == ["expires_at", "key_id", "models", "name", "plan", "revoked", "role", "tenant"]


def test_the_database_is_asked_once_for_a_key_and_once_for_an_unknown_one(
    database: Database, redis: Redis, keys: Keys
) -> None:
    key, _ = keys.create("a")
    redis.execute("DEL", mirror(key))
    assert keys.authenticate(hash_key(key)) is not None
    assert keys.authenticate("0" * 64) is None
    assert redis.execute("GET", f"penstock:key:{'0' * 64}") == b"-"
    assert 0 < redis.execute("TTL", f"penstock:key:{'0' * 64}") <= 5
    assert 3500 < redis.execute("TTL", mirror(key)) <= 3600
    with database.write() as connection:
        connection.execute(api_keys.delete())
    assert keys.authenticate(hash_key(key)) is not None
    assert keys.authenticate("0" * 64) is None


def test_a_revoked_key_is_refused_and_stays_so(redis: Redis, keys: Keys, clock: FakeClock) -> None:
    key, info = keys.create("a")
    clock.now += 60
    assert keys.revoke(info.key_id).revoked_at == clock.now
    assert keys.authenticate(hash_key(key)) is None
    redis.execute("FLUSHALL")
    assert keys.authenticate(hash_key(key)) is None
    clock.now += 60
    assert keys.revoke(info.key_id).revoked_at == clock.now - 60


def test_a_revocation_beats_a_reader_that_asked_the_database_before_it(
    database: Database, redis: Redis, redis_server: Any, keys: Keys
) -> None:
    key, info = keys.create("a")
    redis.execute("DEL", mirror(key))

    def revoke_meanwhile(command: tuple[Any, ...]) -> None:
        if command[0] == "SET":
            keys.revoke(info.key_id)

    slow_reader = Keys(database=database, redis=InterruptedRedis(redis_server.url, revoke_meanwhile), clock=lambda: NOW)
    assert slow_reader.authenticate(hash_key(key)) is None
    assert keys.authenticate(hash_key(key)) is None


def test_a_revocation_beats_a_sync_that_read_the_database_before_it(
    database: Database, redis: Redis, redis_server: Any, keys: Keys
) -> None:
    key, info = keys.create("a")

    def revoke_meanwhile(command: tuple[Any, ...]) -> None:
        if command[0] == "SET" and command[1] == mirror(key):
            keys.revoke(info.key_id)

    slow = Keys(database=database, redis=InterruptedRedis(redis_server.url, revoke_meanwhile), clock=lambda: NOW)
    slow.sync_mirror()
    assert keys.authenticate(hash_key(key)) is None


def test_a_revocation_that_redis_missed_follows_with_the_next_sync(
    database: Database, keys: Keys, dead_redis: Redis, clock: FakeClock
) -> None:
    key, info = keys.create("a")
    keys.sync_mirror()
    clock.now += 100
    with pytest.raises(StoreUnavailable, match=f"{info.key_id} is revoked in the database, but Redis does not answer"):
        Keys(database=database, redis=dead_redis, clock=clock).revoke(info.key_id)
    assert keys.get(info.key_id).revoked_at == clock.now
    assert keys.authenticate(hash_key(key)) is not None
    clock.now += 1
    assert keys.sync_mirror() == 1
    assert keys.authenticate(hash_key(key)) is None


def test_a_revocation_by_a_machine_whose_clock_is_behind_is_not_missed(
    database: Database, keys: Keys, dead_redis: Redis, clock: FakeClock
) -> None:
    key, info = keys.create("a")
    keys.sync_mirror()
    behind = Keys(database=database, redis=dead_redis, clock=lambda: clock.now - 30)
    with pytest.raises(StoreUnavailable):
        behind.revoke(info.key_id)
    keys.sync_mirror()
    assert keys.authenticate(hash_key(key)) is None


@pytest.mark.parametrize("lost_s", [1, 900])
def test_a_redis_that_went_back_in_time_is_told_again_of_revocations(
    redis: Redis, keys: Keys, clock: FakeClock, lost_s: int
) -> None:
    key, info = keys.create("a")
    keys.sync_mirror()
    before = {name: redis.execute("GET", name) for name in (mirror(key), "penstock:keys:synced")}
    keys.revoke(info.key_id)
    for _ in range(3):
        clock.now += lost_s / 3
        keys.sync_mirror()
    for name, value in before.items():  # what a crash does to a Redis that saves only now and then
        redis.execute("SET", name, value)
    assert keys.authenticate(hash_key(key)) is not None
    keys.sync_mirror()
    assert keys.authenticate(hash_key(key)) is None


def test_a_quiet_sync_reads_only_recent_changes(keys: Keys, redis: Redis, clock: FakeClock) -> None:
    _, info = keys.create("a")
    keys.revoke(info.key_id)
    assert keys.sync_mirror() == 1
    clock.now += 200
    assert keys.sync_mirror() == 1  # the last sync was before: what changed around it is told again
    assert keys.sync_mirror() == 0
    assert keys.sync_mirror(since=NOW) == 1
    assert redis.execute("TTL", "penstock:keys:synced") > 0


def test_a_key_can_be_created_while_redis_is_down(
    database: Database, dead_redis: Redis, keys: Keys, clock: FakeClock
) -> None:
    key, info = Keys(database=database, redis=dead_redis, clock=clock).create("a")
    caller = keys.authenticate(hash_key(key))
    assert caller is not None
    assert caller.key_id == info.key_id


def test_without_redis_a_key_is_found_in_the_database(
    database: Database, dead_redis: Redis, keys: Keys, clock: FakeClock
) -> None:
    key, info = keys.create("a")
    alone = Keys(database=database, redis=dead_redis, clock=clock)
    assert alone.authenticate_from_database(hash_key(key)) == keys.authenticate(hash_key(key))
    assert alone.authenticate_from_database("0" * 64) is None
    with pytest.raises(StoreUnavailable):
        alone.authenticate(hash_key(key))
    keys.revoke(info.key_id)
    assert alone.authenticate_from_database(hash_key(key)) is None


def test_an_expired_key_is_still_known(keys: Keys) -> None:
    key, _ = keys.create("a", expires_at=NOW - 1)
    caller = keys.authenticate(hash_key(key))
    assert caller is not None
    assert caller.expires_at == NOW - 1


@pytest.mark.parametrize("pattern", ["%", "key_%", "_", "", "key_0' OR '1'='1"])
def test_bug_9_a_key_is_found_by_its_exact_id_only(keys: Keys, pattern: str) -> None:
    keys.create("a")
    with pytest.raises(NotFound):
        keys.revoke(pattern)
    with pytest.raises(NotFound):
        keys.get(pattern)
    assert keys.list()[0].revoked_at is None


def test_keys_are_listed_in_the_order_they_were_made(keys: Keys, clock: FakeClock) -> None:
    made = []
    for name in "cab":
        made.append(keys.create(name)[1])
        clock.now += 1
    revoked = keys.revoke(made[1].key_id)
    assert keys.list() == (made[0], revoked, made[2])
    assert keys.list(include_revoked=False) == (made[0], made[2])


@pytest.mark.parametrize("name", ["", "  ", "a" * 201, "a\nb", "a\x1b[2J"])
def test_a_name_that_would_garble_a_list_is_refused(keys: Keys, name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        keys.create(name)
    assert caught.value.param == "name"
    assert keys.list() == ()


def test_every_change_is_in_the_audit_trail(database: Database, keys: Keys) -> None:
    _, info = keys.create("a", plan="free", actor="cli")
    keys.revoke(info.key_id, "admin")
    keys.revoke(info.key_id, "somebody else")
    with database.read() as connection:
        rows = connection.execute(sa.select(audit).order_by(audit.c.id)).all()
    assert [(r.ts, r.actor, r.action, r.subject) for r in rows] == [
        (NOW, "cli", "key.create", info.key_id),
        (NOW, "admin", "key.revoke", info.key_id),
    ]
    assert json.loads(rows[0].detail)["plan"] == "free"


@pytest.mark.parametrize(
    "record",
    [b"-", b"", b"{", b"[]", b"null", b"{}", b'{"revoked":false}', b'{"key_id":"k","revoked":true}', b"\xff"],
)
def test_what_is_not_a_record_of_a_live_key_is_nobody(record: bytes) -> None:
    assert decode_record(record, "0" * 64) is None
