"""The connection that a worker's greenlets share: everybody gets the reply to their own question, or an error soon."""

from __future__ import annotations

import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
import pytest

from app.errors import StoreUnavailable
from app.store.redis.client import Redis
from tests.support.servers import ROOT, RedisServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may break."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.resume()
    server.stop()


@pytest.fixture
def connection(redis_url: str) -> Iterator[Redis]:
    client = Redis(redis_url, shared=True)
    yield client
    client.close()


@pytest.fixture
def fake_redis() -> Iterator[Callable[[Callable[[Any, int], None]], str]]:
    """Starts a server that does with each connection (and its number) as the test says. Returns its URL."""
    servers = []

    def start(conversation: Callable[[Any, int], None]) -> str:
        count = 0

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                nonlocal count
                count += 1
                with suppress(OSError):
                    conversation(self.request, count)

        # In threads: redis-py's own part, the beginning of a connection, holds up the event loop in this process.
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"redis://127.0.0.1:{server.server_address[1]}/0"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def question(sock: Any) -> bytes:
    """The next command; whatever redis-py says of itself at the start is answered."""
    while True:
        data: bytes = sock.recv(65536)
        if b"CLIENT" not in data:
            return data
        sock.sendall(b"+OK\r\n" * data.count(b"CLIENT"))


def answer_all(jobs: list[gevent.Greenlet[..., Any]]) -> list[Any]:
    assert len(gevent.joinall(jobs, timeout=10)) == len(jobs), "everybody was answered"
    return [job.exception or job.value for job in jobs]


def test_everybody_gets_their_own_reply_over_one_connection(connection: Redis) -> None:
    def asks(i: int) -> Any:
        return connection.execute("ECHO", f"{i}"), connection.pipeline(
            [("ECHO", f"{i}a"), ("ECHO", f"{i}b")][: 1 + i % 2]
        )

    found = answer_all([gevent.spawn(asks, i) for i in range(200)])
    assert found == [(b"%d" % i, [b"%da" % i, b"%db" % i][: 1 + i % 2]) for i in range(200)]
    assert connection.stats() == {"open": 1, "idle": 1, "waiting": 0, "max": 64}


def test_what_is_asked_in_one_turn_of_the_event_loop_is_sent_at_once(fake_redis: Any) -> None:
    received = []

    def conversation(sock: Any, _: int) -> None:
        while data := question(sock):
            received.append(data.count(b"PING"))
            sock.sendall(b"+PONG\r\n" * data.count(b"PING"))

    client = Redis(fake_redis(conversation), shared=True)
    client.execute("PING")
    answer_all([gevent.spawn(client.execute, "PING") for _ in range(20)])
    assert received == [1, 20]
    client.close()


def test_who_is_killed_while_waiting_leaves_its_reply_to_nobody(server: RedisServer) -> None:
    client = Redis(server.url, shared=True)
    client.pipeline([("SET", "a", "of a"), ("SET", "b", "of b")])
    server.suspend()
    jobs = [gevent.spawn(client.execute, "GET", key) for key in "abab"]
    several = gevent.spawn(client.pipeline, [("GET", "a"), ("GET", "a")])
    last = gevent.spawn(client.execute, "GET", "b")
    gevent.sleep(0)  # all have asked
    gevent.killall([jobs[0], jobs[2], several])
    server.resume()
    assert answer_all([jobs[1], jobs[3], last]) == [b"of b"] * 3
    assert client.execute("GET", "a") == b"of a"
    client.close()


def test_a_hung_redis_fails_all_who_wait_and_their_replies_reach_nobody(server: RedisServer) -> None:
    client = Redis(server.url, socket_timeout_s=0.3, shared=True)
    client.execute("SET", "n", 0)
    server.suspend()
    started = time.monotonic()
    first = [gevent.spawn(client.execute, "INCR", "n") for _ in range(20)]
    gevent.sleep(0.1)
    later = [gevent.spawn(client.execute, "INCR", "n") for _ in range(20)]
    failures = answer_all([*first, *later])
    assert 0.3 <= time.monotonic() - started < 5, "well before the test is given up"
    assert all(type(failure) is StoreUnavailable and failure.perhaps_done for failure in failures)
    server.resume()
    while True:
        try:
            assert client.execute("GET", "n").isdigit(), "not a reply to an INCR, which is no bytes"
            break
        except StoreUnavailable:
            assert time.monotonic() - started < 5
            gevent.sleep(0.05)
    client.close()


def test_a_patient_caller_outlives_one_who_asked_long_before(fake_redis: Any) -> None:
    """The clock is set for who asked first; when that one is answered in time, the next one's time counts."""
    release = threading.Event()

    def conversation(sock: Any, _: int) -> None:
        question(sock)
        sock.sendall(b"+first\r\n")
        question(sock)
        release.wait(5)
        sock.sendall(b"+second\r\n")
        sock.recv(1)

    client = Redis(fake_redis(conversation), socket_timeout_s=0.4, shared=True)
    assert client.execute("PING") == b"first"
    gevent.sleep(0.3)
    second = gevent.spawn(client.execute, "PING")
    gevent.sleep(0.2)  # the first one's time is up now, the second one's is not
    release.set()
    assert answer_all([second]) == [b"second"]
    client.close()


def test_a_connection_that_breaks_is_replaced_and_all_ask_once_more(fake_redis: Any) -> None:
    asked: list[int] = []

    def conversation(sock: Any, number: int) -> None:
        while data := question(sock):
            count = data.count(b"PING")
            asked.append(count)
            if number == 1 and len(asked) == 2:
                sock.close()
                return
            sock.sendall(b"+of %d\r\n" % number * count)

    client = Redis(fake_redis(conversation), shared=True)
    client.execute("PING")
    assert answer_all([gevent.spawn(client.execute, "PING") for _ in range(5)]) == [b"of 2"] * 5
    assert asked == [1, 5, 5]
    client.close()


def test_a_connection_that_breaks_before_any_answer_is_not_tried_again(fake_redis: Any) -> None:
    connections = []

    def conversation(sock: Any, number: int) -> None:
        connections.append(number)
        question(sock)
        sock.close()

    client = Redis(fake_redis(conversation), shared=True)
    failures = answer_all([gevent.spawn(client.execute, "PING") for _ in range(5)])
    assert [type(failure) for failure in failures] == [StoreUnavailable] * 5
    assert connections == [1]


def test_a_server_that_accepts_and_says_nothing_fails_everybody_in_time(fake_redis: Any) -> None:
    def conversation(sock: Any, _: int) -> None:
        while sock.recv(65536):
            pass

    client = Redis(fake_redis(conversation), socket_timeout_s=0.3, shared=True)
    started = time.monotonic()
    failures = answer_all([gevent.spawn(client.execute, "PING") for _ in range(5)])
    assert [type(failure) for failure in failures] == [StoreUnavailable] * 5
    assert time.monotonic() - started < 0.6


@pytest.mark.parametrize("nonsense", [b"+PONG\r\n+PONG\r\n", b"?what\r\n"], ids=["a reply too many", "no reply"])
def test_what_is_not_the_reply_to_a_question_ends_the_connection(fake_redis: Any, nonsense: bytes) -> None:
    def conversation(sock: Any, number: int) -> None:
        while question(sock):
            sock.sendall(nonsense if number == 1 else b"+of 2\r\n")

    client = Redis(fake_redis(conversation), shared=True)
    # Of two replies to one question nobody can say which is which.
    assert client.execute("PING") == b"of 2"
    client.close()


_WAITING = """
from gevent import monkey
monkey.patch_all()
import sys, time, gevent
from app.store.redis.client import Redis
client = Redis(sys.argv[1])
started = time.monotonic()
waits = gevent.spawn(client.execute, "XREAD", "BLOCK", 1500, "STREAMS", "penstock:nothing", "0-0")
while client.stats()["open"] < 1 or client.stats()["idle"]:
    gevent.sleep(0.01)
jobs = [gevent.spawn(client.execute, "PING") for _ in range(10)]
gevent.joinall(jobs)
print([job.value for job in jobs] == [b"PONG"] * 10, waits.ready(), client.stats()["open"])
"""


def test_in_a_worker_who_waits_inside_redis_holds_up_nobody(redis_url: str) -> None:
    """In a process of its own, patched as a worker is."""
    command = [sys.executable, "-c", _WAITING, redis_url]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT, check=True)
    assert ran.stdout == "True False 2\n"


def test_large_commands_and_replies_arrive_whole_and_in_order(connection: Redis) -> None:
    """Longer than the socket takes at once, so that they are sent in parts while others join the queue."""
    large = [bytes([65 + i]) * 5_000_000 for i in range(4)]

    def keeps(i: int) -> Any:
        connection.execute("SET", f"penstock:large:{i}", large[i])
        return connection.execute("ECHO", f"{i}"), connection.execute("GET", f"penstock:large:{i}") == large[i]

    assert answer_all([gevent.spawn(keeps, i) for i in range(4)]) == [(b"%d" % i, True) for i in range(4)]


def test_a_closed_client_fails_those_who_wait(server: RedisServer) -> None:
    client = Redis(server.url, shared=True)
    client.execute("PING")
    server.suspend()
    waits = gevent.spawn(client.execute, "PING")
    gevent.sleep(0)
    client.close()
    # One who had been answered before tries once more; the second connection finds Redis as it is.
    server.resume()
    assert answer_all([waits]) == [b"PONG"]
    client.close()
