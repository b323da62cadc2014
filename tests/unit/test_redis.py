"""A Redis that cannot serve, for its caller: always `StoreUnavailable`, soon, and never a stale reply.

Everything twice: with a connection for each caller, and with the one that greenlets share.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import gevent
import pytest
import redis as redis_py

from app.errors import StoreUnavailable
from app.store.redis.client import Redis, Script
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


REFUSALS = (
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "READONLY You can't write against a read only replica.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "LOADING Redis is loading the dataset in memory",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN The cluster is down",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "NOPERM this user has no permissions to run the 'evalsha' command",
    "MISCONF Redis is configured to save RDB snapshots, but it is currently unable to persist to disk.",
    "NOREPLICAS Not enough good replicas to write.",
    "UNKILLABLE Sorry the script already executed write commands against the dataset.",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "ERR max number of clients reached",
    "ERR Error running script (call to f_1): @user_script:3: -READONLY You can't write against a read only replica.",
    "NEWERWORD that nobody here has heard of",
)


class ScriptedRedis(threading.Thread):
    """A Redis that answers every command with `said`: the first one only, or EVALSHA with NOSCRIPT and EVAL with it."""

    def __init__(self, said: str, *, to_eval_only: bool = False) -> None:
        super().__init__(daemon=True)
        self._said = said
        self._to_eval_only = to_eval_only
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.start()

    def run(self) -> None:
        while True:
            client, _ = self._listener.accept()
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        while data := client.recv(65536):
            if b"CLIENT" in data:  # what redis-py says when a connection begins
                client.sendall(b"+OK\r\n" * data.count(b"SETINFO"))
            elif self._to_eval_only and b"EVALSHA" in data:
                client.sendall(b"-NOSCRIPT No matching script. Please use EVAL.\r\n")
            else:
                client.sendall(f"-{self._said}\r\n".encode())


@pytest.mark.parametrize("said", REFUSALS, ids=lambda said: said.split()[0])
def test_every_error_reply_of_redis_is_an_outage_and_never_our_bug(said: str, shared: bool) -> None:
    server = ScriptedRedis(said)
    client = Redis(server.url, shared=shared)
    with pytest.raises(StoreUnavailable):
        settle_once(client.script("settle"))
    client.close()


@pytest.mark.parametrize("said", ["BUSY Redis is busy running a script.", "NOSCRIPT No matching script."])
def test_a_script_that_redis_forgets_and_will_not_reload_is_an_outage(said: str, shared: bool) -> None:
    server = ScriptedRedis(said, to_eval_only=True)
    client = Redis(server.url, shared=shared)
    with pytest.raises(StoreUnavailable):
        settle_once(client.script("settle"))
    client.close()


class MovableAddress:
    """One address, behind which now this Redis is and now that one; connections stay where they are."""

    def __init__(self, port: int) -> None:
        self.leads_to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self.leads_to))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def test_a_fail_over_behind_one_address_is_noticed_by_kept_connections(
    own_server: RedisServer, redis_url: str, redis_server: RedisServer, shared: bool
) -> None:
    address = MovableAddress(own_server.port)
    client = Redis(address.url, shared=shared)
    client.ping()
    Redis(own_server.url).execute("REPLICAOF", "127.0.0.1", "1")
    address.leads_to = redis_server.port
    with pytest.raises(StoreUnavailable):
        client.ping()
    started = time.monotonic()
    wait_for(lambda: not failing_fast(client))
    client.ping()
    assert time.monotonic() - started < 1
    assert Redis(redis_url).execute("EXISTS", "penstock:ready") == 1, "the new master has it"
    client.close()


def test_who_waits_on_a_connection_that_is_given_up_still_gets_the_reply(own_server: RedisServer) -> None:
    client = Redis(own_server.url, shared=True)
    client.execute("SET", "penstock:x", "1")
    client.execute("REPLICAOF", "127.0.0.1", "1")
    jobs = [gevent.spawn(client.execute, *command) for command in (("SET", "a", "b"), ("GET", "penstock:x"))]
    gevent.joinall(jobs)
    assert isinstance(jobs[0].exception, StoreUnavailable)
    assert jobs[1].value == b"1"
    assert client.stats()["open"] == 0
    client.close()
