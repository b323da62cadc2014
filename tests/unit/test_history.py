"""Conversations as they are kept: the newest exchanges within their bounds, each once, for a time, for one key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Thread

import pytest
from fakeredis import TcpFakeServer

from app.store.history import ConversationTurn, History
from app.store.redis.client import Redis


@pytest.fixture(params=["redis", "fakeredis"])
def redis(request: pytest.FixtureRequest) -> Iterator[Redis]:
    """Redis itself, and one that others wrote: a managed Redis may be neither."""
    if request.param == "redis":
        yield from _client(request.getfixturevalue("redis_url"))
        return
    with TcpFakeServer(("127.0.0.1", 0), server_type="redis") as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield from _client(f"redis://127.0.0.1:{server.server_address[1]}/0")
        server.shutdown()


def _client(url: str) -> Iterator[Redis]:
    client = Redis(url)
    yield client
    client.close()


@pytest.fixture
def history(redis: Redis) -> Callable[..., History]:
    def history_with(max_turns: int = 3, max_bytes: int = 10_000, ttl_s: int = 60) -> History:
        return History(redis=redis, max_turns=max_turns, max_bytes=max_bytes, ttl_s=ttl_s)

    return history_with


def turn(number: int, text: str = "") -> ConversationTurn:
    return ConversationTurn(f"id_{number}", f"question {number}", text or f"answer {number}")


def ids(found: list[ConversationTurn]) -> list[str]:
    return [exchange.id for exchange in found]


def test_the_last_exchanges_are_kept_oldest_first(history: Callable[..., History], redis: Redis) -> None:
    kept = history(max_turns=3)
    for number in range(1, 6):
        kept.append("key_1", "ann", turn(number))
    assert kept.read("key_1", "ann") == [turn(3), turn(4), turn(5)]
    [key] = redis.execute("KEYS", "penstock:history:*")
    assert redis.execute("LLEN", key) == 3
    assert ids(history(max_turns=2).read("key_1", "ann")) == ["id_4", "id_5"], "fewer by now"


def test_an_exchange_that_is_sent_twice_is_kept_once(history: Callable[..., History]) -> None:
    kept = history()
    for number in (1, 2, 1, 2):
        kept.append("key_1", "ann", turn(number))
    assert ids(kept.read("key_1", "ann")) == ["id_1", "id_2"]


def test_what_is_too_much_goes_from_the_oldest_on(history: Callable[..., History], redis: Redis) -> None:
    kept = history(max_turns=100, max_bytes=10_000)
    kept.append("key_1", "ann", turn(1))
    [key] = redis.execute("KEYS", "penstock:history:*")
    size = len(redis.execute("LINDEX", key, 0))
    exact = history(max_turns=100, max_bytes=3 * size)
    for number in range(2, 5):
        exact.append("key_1", "ann", turn(number))
    assert ids(exact.read("key_1", "ann")) == ["id_2", "id_3", "id_4"], "as much as fits, to the byte"
    tight = history(max_turns=100, max_bytes=3 * size - 1)
    tight.append("key_1", "ann", turn(5))
    assert ids(tight.read("key_1", "ann")) == ["id_4", "id_5"]


def test_the_newest_is_kept_cut_even_when_it_alone_is_too_long(history: Callable[..., History], redis: Redis) -> None:
    kept = history(max_bytes=200)
    kept.append("key_1", "ann", turn(1))
    kept.append("key_1", "ann", turn(2, "é" * 500))
    [found] = kept.read("key_1", "ann")
    assert (found.id, found.message) == ("id_2", "question 2")
    assert found.answer == "é" * len(found.answer)
    [key] = redis.execute("KEYS", "penstock:history:*")
    assert 195 <= len(redis.execute("LINDEX", key, 0)) <= 200
    kept.append("key_1", "ann", ConversationTurn("id_3", "q" * 500, "short"))
    assert [(each.id, each.answer) for each in kept.read("key_1", "ann")] == [("id_3", "")]


def test_a_conversation_is_forgotten_a_time_after_its_last_exchange(
    history: Callable[..., History], redis: Redis
) -> None:
    kept = history(ttl_s=60)
    kept.append("key_1", "ann", turn(1))
    [key] = redis.execute("KEYS", "penstock:history:*")
    redis.execute("PEXPIRE", key, 5000)
    kept.append("key_1", "ann", turn(2))
    assert 55_000 < redis.execute("PTTL", key) <= 60_000


def test_bug_07_each_user_of_each_key_has_a_conversation_of_its_own(history: Callable[..., History]) -> None:
    kept = history()
    people = [("key_1", "ann"), ("key_1", "ben"), ("key_2", "ann")]
    for number, (key_id, user) in enumerate(people):
        kept.append(key_id, user, turn(number))
    assert [ids(kept.read(*who)) for who in people] == [["id_0"], ["id_1"], ["id_2"]]
    kept.clear("key_1", "ann")
    assert [ids(kept.read(*who)) for who in people] == [[], ["id_1"], ["id_2"]]


def test_a_user_is_named_in_no_key(history: Callable[..., History], redis: Redis) -> None:
    history().append("key_1", "ann@example.com *:\n", turn(1))
    [key] = redis.execute("KEYS", "penstock:history:*")
    assert key.startswith(b"penstock:history:key_1:")
    everything = [*redis.execute("KEYS", "*"), *redis.execute("ZRANGE", "penstock:conversations", 0, -1)]
    assert len(everything) == 3
    assert b"ann" not in b" ".join(everything)
