"""The cache: the key of each answer that is kept, and the waiting of identical calls for the first of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from app.config.gateway import CacheConfig
from app.domain.chat import ChatRequest
from app.domain.identity import Caller
from app.errors import ClientGone
from app.gateway.admission import AdmissionRequest, Admitted
from app.gateway.cache import Cache, as_cache_hit
from app.gateway.limits import Amounts
from app.providers.base import CancelToken
from app.store.redis.client import Redis
from app.store.redis.keys import cache_entry_key

ANN, BEN = Caller("ann", "test"), Caller("ben", "test")
ENTRY, FLIGHT = "penstock:cache:c", "penstock:flight:c"


def request(**fields: Any) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0, **fields}
    return ChatRequest.parse(json.dumps(body).encode())


class FollowingCall:
    """A call that follows another one; each of its pauses moves the clock, and is when other things happen."""

    def __init__(self, redis: Redis, **config: Any) -> None:
        self.redis = redis
        self.now = 100.0
        self.pauses: list[float] = []
        self.meanwhile: dict[int, Callable[[], object]] = {}  # by the number of the pause, from 1
        self.cache = Cache(redis=redis, config=CacheConfig(**config), monotonic=lambda: self.now, pause=self._pause)
        self.cancel = CancelToken()

    def wait(self, for_s: float = 5.0, *, follows: bool = True, cached: bytes | None = None) -> bytes | None:
        return self.cache.lookup(self.call(follows, cached), self.now + for_s, self.cancel)

    def call(self, follows: bool = True, cached: bytes | None = None, **ask: Any) -> Admitted:
        asked = AdmissionRequest(
            call_id="mine", row={}, reserve=Amounts(), if_lost=Amounts(), deadline_s=30, cache_key="c", **ask
        )
        return Admitted(
            caller=ANN, ask=asked, charges=(), leases="", reservations="", cached=cached, follows=follows, remaining=()
        )

    def _pause(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)
        self.meanwhile.get(len(self.pauses), lambda: None)()


@pytest.fixture
def waiting(redis: Redis) -> FollowingCall:
    redis.execute("SET", FLIGHT, "another call")
    return FollowingCall(redis)


def cache(**config: Any) -> Cache:
    return Cache(redis=Redis("redis://127.0.0.1:9/0"), config=CacheConfig(**config))


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "n"},
        {"temperature": 0.1},
        {"max_tokens": 1},
        {"n": 2},
        {"unknown": 1},
        {"user": "x"},
        {"seed": 1},
        {"messages": [{"role": "user", "content": "Ho"}]},
        {"messages": [{"role": "system", "content": "Hi"}]},
    ],
)
def test_another_question_has_another_key(fields: dict[str, Any]) -> None:
    assert cache().key(ANN, request(**fields)) != cache().key(ANN, request())


def test_the_same_question_has_the_same_key_however_it_is_to_be_delivered() -> None:
    one = cache().key(ANN, request(seed=1))
    assert one == cache().key(ANN, request(seed=1, stream=True, stream_options={"include_usage": True}))
    other_order = b'{"seed":1,"temperature":0,"messages":[{"role": "user", "content": "Hi"}],"model":"m"}'
    assert one == cache().key(ANN, ChatRequest.parse(other_order))
    assert len(one) == 64


def test_fields_cannot_be_read_as_one_another() -> None:
    """A name's length is part of the key: no two requests write the same bytes."""
    assert cache().key(ANN, request(a=1, b=2)) != cache().key(ANN, request(**{"a=1\x00b": 2}))


def test_a_key_is_the_callers_own_unless_answers_are_shared() -> None:
    assert cache().key(ANN, request()) != cache().key(BEN, request())
    ann, ben = (cache_entry_key(cache(shared=True).key(caller, request())) for caller in (ANN, BEN))
    assert ann == ben


def test_what_is_creative_has_no_key() -> None:
    assert cache(max_temperature=0.5).key(ANN, request(temperature=0.5))
    assert cache(max_temperature=0.5).key(ANN, request(temperature=0.51)) == ""
    assert cache().key(ANN, request(temperature=None)) == ""
    assert cache(enabled=False).key(ANN, request()) == ""


def test_an_entry_has_a_most_and_a_time() -> None:
    found = cache(max_entry_bytes=1024, ttl_s=7)
    assert (found.max_entry_bytes, found.ttl_s) == (1024, 7)


def test_an_answer_not_kept_is_remembered_as_long_as_it_would_be_kept(redis: Redis) -> None:
    waiting = FollowingCall(redis, ttl_s=7)
    waiting.cache.mark_uncacheable(waiting.call(single_flight=True))
    [key] = redis.execute("KEYS", "penstock:unkept:*")
    assert 6000 < redis.execute("PTTL", key) <= 7000
    waiting.wait()
    assert len(waiting.pauses) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b' \n{"id": "1", "created": 5, "x": [1.50, {"id": "kept"}]}',
        b'{"x":[1.50,{"id":"kept"}]}',
        b'{"id":"1","x":[1.50,{"id":"kept"}],"created":5,"id":"2","cached":false}',
    ],
)
def test_a_cached_answer_says_so_and_has_an_id_of_its_own(answer: bytes) -> None:
    found = as_cache_hit(answer, call_id="req_b", created=7)
    expected = {"id": "chatcmpl-req_b", "created": 7, "cached": True, "x": [1.5, {"id": "kept"}]}
    assert json.loads(found) == expected
    assert found.count(b'"id"') == 2, "one of the answer, one within"
    assert b"1.50" in found, "as the provider wrote it"


def test_what_is_kept_is_found_and_without_a_key_nobody_looks(redis: Redis) -> None:
    found = FollowingCall(redis).cache
    redis.execute("SET", ENTRY, "{}")
    redis.execute("SET", "penstock:none", "{}")
    assert (found.get("c"), found.get("other"), found.get("")) == (b"{}", None, None)


def test_who_has_an_answer_or_follows_nobody_does_not_wait(waiting: FollowingCall) -> None:
    assert waiting.wait(cached=b"{}") == b"{}"
    assert waiting.wait(follows=False) is None
    assert waiting.pauses == []


def test_a_follower_gets_what_the_first_call_kept(waiting: FollowingCall, redis: Redis) -> None:
    waiting.meanwhile[3] = lambda: redis.execute("SET", ENTRY, '{"id":"1"}')
    assert waiting.wait() == b'{"id":"1"}'
    assert len(waiting.pauses) == 3
    assert redis.execute("GET", FLIGHT) == b"another call"


def test_a_follower_looks_soon_and_then_not_too_often(waiting: FollowingCall, redis: Redis) -> None:
    waiting.meanwhile[20] = lambda: redis.execute("SET", ENTRY, "{}")
    waiting.wait()
    assert waiting.pauses[0] == 0.01
    assert waiting.pauses == sorted(waiting.pauses)
    assert waiting.pauses[-1] == 0.1
    assert 0.5 < sum(waiting.pauses) < 2


def test_when_the_first_call_kept_nothing_one_follower_goes_in_its_place(waiting: FollowingCall, redis: Redis) -> None:
    waiting.meanwhile[2] = lambda: redis.execute("DEL", FLIGHT)
    assert waiting.wait() is None
    assert len(waiting.pauses) == 2
    assert redis.execute("GET", FLIGHT) == b"mine", "and the others follow it"
    assert 29_000 < redis.execute("PTTL", FLIGHT) <= 30_000


def test_an_answer_that_came_with_the_flights_end_is_not_fetched_again(waiting: FollowingCall, redis: Redis) -> None:
    def settled() -> None:
        redis.execute("DEL", FLIGHT)
        redis.execute("SET", ENTRY, "{}")

    waiting.meanwhile[1] = settled
    assert waiting.wait() == b"{}"


def test_who_has_no_time_left_does_not_wait(waiting: FollowingCall) -> None:
    assert waiting.wait(for_s=0.0) is None
    assert waiting.pauses == []


def test_a_client_that_hangs_up_stops_waiting(waiting: FollowingCall) -> None:
    waiting.meanwhile[2] = waiting.cancel.cancel
    with pytest.raises(ClientGone):
        waiting.wait()
    assert len(waiting.pauses) == 2


def test_without_redis_a_follower_fetches_its_own_answer(dead_redis: Redis) -> None:
    assert FollowingCall(dead_redis).wait() is None
