"""What a Redis that cannot serve looks like to a caller: always `StoreUnavailable`, soon, and never a stale reply.

Everything twice: with a connection for each caller, and with the one that greenlets share.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_py

from app.errors import StoreUnavailable
from app.store.redis import Redis, Script
from tests.support.servers import RedisServer, wait_for


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may break."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.resume()
    server.stop()


@pytest.fixture(params=[False, True], ids=["own connections", "shared connection"])
def shared(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def settle_once(script: Script) -> None:
    keys = [f"penstock:{name}" for name in ("reservation", "open", "cache", "flight", "running", "outbox", "limit")]
    script(keys, ["call_1", "settled", "{}", "", 1, 1000, "window", 0, 5, 10, 1000])


@pytest.mark.parametrize(
    ("breakage", "kept"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), 1),
        (("REPLICAOF", "127.0.0.1", "1"), 0),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), 0),
    ],
    ids=["full", "replica", "too few replicas"],
)
def test_a_redis_that_takes_no_writes_is_unavailable_to_scripts_too(
    own_server: RedisServer, breakage: tuple[str, ...], kept: int, shared: bool
) -> None:
    client = Redis(own_server.url, shared=shared)
    client.execute(*breakage)
    with pytest.raises(StoreUnavailable):
        client.execute("SET", "penstock:x", "1")
    with pytest.raises(StoreUnavailable):
        client.ping()
    assert client.stats()["idle"] == client.stats()["open"] == kept, "another may be behind the address by now"
    wait_for(lambda: not failing_fast(client))
    with pytest.raises(StoreUnavailable):
        settle_once(client.script("settle"))
    client.close()


def failing_fast(client: Redis) -> bool:
    try:
        client.execute("PING")
    except StoreUnavailable:
        return True
    return False


def test_a_mistake_of_ours_is_not_taken_for_an_outage(redis_url: str, shared: bool) -> None:
    redis = Redis(redis_url, shared=shared)
    redis.execute("SET", "penstock:x", "text")
    with pytest.raises(redis_py.ResponseError):
        redis.execute("INCRBY", "penstock:x", 1)
    with pytest.raises(redis_py.ResponseError):
        redis.pipeline([("INCRBY", "penstock:x", 1), ("GET", "penstock:x")])
    assert redis.execute("GET", "penstock:x") == b"text", "the replies after the error were read"
    redis.close()


def test_a_hung_redis_costs_one_time_out_and_then_nothing(own_server: RedisServer, shared: bool) -> None:
    client = Redis(own_server.url, socket_timeout_s=0.2, shared=shared)
    client.execute("SET", "penstock:x", "first")
    own_server.suspend()
    started = time.monotonic()
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            client.execute("GET", "penstock:y")
    assert time.monotonic() - started < 0.5
    own_server.resume()
    while True:
        try:
            assert client.execute("GET", "penstock:x") == b"first", "not the reply to an earlier question"
            break
        except StoreUnavailable:
            assert time.monotonic() - started < 5
    client.close()


def test_a_restarted_redis_is_found_again_without_an_error(own_server: RedisServer, shared: bool) -> None:
    client = Redis(own_server.url, shared=shared)
    script = client.script("settle")
    client.execute("SET", "penstock:x", "1")
    own_server.stop()
    own_server.start()
    assert client.execute("GET", "penstock:x") == b"1", "the idle connection was replaced"
    settle_once(script)
    assert client.execute("XLEN", "penstock:outbox") == 1, "the script was loaded again"
    client.close()


def test_a_refused_connection_is_unavailable(shared: bool) -> None:
    with socket.socket() as bound:  # but not listening
        bound.bind(("127.0.0.1", 0))
        client = Redis(f"redis://127.0.0.1:{bound.getsockname()[1]}/0", shared=shared)
        with pytest.raises(StoreUnavailable):
            client.ping()
        assert client.stats()["waiting"] == 0
