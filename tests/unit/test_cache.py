"""Identical calls at once: who asks the vendor, who waits for whom, and for how long at the most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.config.gateway import CacheConfig
from app.domain.chat import ChatRequest
from app.domain.identity import Caller
from app.errors import ClientGone
from app.gateway.admission import AdmissionRequest, Admitted
from app.gateway.cache import Cache
from app.gateway.limits import Amounts
from app.providers.base import CancelToken
from app.store.redis.client import Redis
from app.store.redis.keys import cache_entry_key, flight_key

REQUEST = ChatRequest.parse(b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"temperature":0}')
LEADER = "call_leader"


class WaitingCalls:
    """Calls that wait behind one that has the flight. Time passes only in their pauses."""

    def __init__(self, redis: Redis, **config: Any) -> None:
        self.redis = redis
        self.now = 0.0
        self.events: list[tuple[float, Callable[[], Any]]] = []
        self.cache = Cache(redis=redis, config=CacheConfig(**config), monotonic=lambda: self.now, pause=self._pause)
        self.key = self.cache.key(Caller("key_1", "test"), REQUEST)
        redis.execute("DEL", flight_key(self.key), cache_entry_key(self.key))
        redis.execute("SET", flight_key(self.key), LEADER)

    def call(self, call_id: str = "call_1", **more: Any) -> Admitted:
        none = Amounts(0)
        ask = AdmissionRequest(
            call_id=call_id,
            row={},
            reserve=none,
            if_lost=none,
            deadline_s=60,
            cache_key=self.key,
            read_cache=True,
            single_flight=True,
            **more,
        )
        return Admitted(
            caller=Caller("key_1", "test"),
            ask=ask,
            charges=(),
            leases="",
            reservations="",
            cached=None,
            follows=True,
            remaining=(),
        )

    def wait(self, call_id: str = "call_1", *, deadline: float = 600.0, cancel: CancelToken | None = None) -> Any:
        return self.cache.lookup(self.call(call_id), deadline, cancel or CancelToken())

    def at(self, when: float, event: Callable[[], Any]) -> None:
        self.events.append((when, event))

    def lands(self, answer: bytes = b"") -> None:
        """As settle.lua ends the leader's call."""
        if answer:
            self.redis.execute("SET", cache_entry_key(self.key), answer)
        self.redis.execute("DEL", flight_key(self.key))

    def holder(self) -> Any:
        return self.redis.execute("GET", flight_key(self.key))

    def _pause(self, wait_s: float) -> None:
        self.now += wait_s
        for when, event in self.events:
            if when <= self.now:
                event()
        self.events = [(when, event) for when, event in self.events if when > self.now]


@pytest.fixture
def queue(redis: Redis) -> WaitingCalls:
    return WaitingCalls(redis, max_entry_bytes=1024)


def test_a_call_that_waits_gets_the_answer_when_it_is_there(queue: WaitingCalls) -> None:
    queue.at(2.0, lambda: queue.lands(b"{}"))
    assert queue.wait() == b"{}"
    assert 2.0 <= queue.now < 2.2


def test_all_who_wait_go_at_once_when_the_answer_turns_out_not_to_be_kept(queue: WaitingCalls) -> None:
    def too_long() -> None:
        assert queue.cache.cacheable(queue.call(LEADER), b"x" * 1025) == b""
        queue.lands()

    queue.at(1.0, too_long)
    assert queue.wait("call_1") is None
    assert queue.now < 1.2
    assert queue.holder() == b"call_1"
    for late in range(2, 6):
        queue.now = 0.0
        assert queue.wait(f"call_{late}") is None
        assert queue.now < 0.2, "it waited for another one that had gone on its own"


def test_an_answer_that_may_be_kept_lets_nobody_go(queue: WaitingCalls) -> None:
    assert queue.cache.cacheable(queue.call(LEADER), b"x" * 1024) == b"x" * 1024
    queue.at(1.0, lambda: queue.lands(b"kept"))
    assert queue.wait() == b"kept"


def test_a_call_that_bypasses_the_cache_says_nothing_about_its_answer(queue: WaitingCalls) -> None:
    call = queue.call()
    call.ask.single_flight = False
    queue.cache.cacheable(call, b"x" * 1025)
    assert queue.redis.execute("KEYS", "penstock:unkept:*") == []


def test_when_the_leader_fails_one_call_takes_its_place_for_the_others(queue: WaitingCalls) -> None:
    queue.at(1.0, queue.lands)
    assert queue.wait("call_1") is None
    assert queue.holder() == b"call_1"
    queue.at(queue.now + 1, lambda: queue.lands(b"second"))
    assert queue.wait("call_2") == b"second"


@pytest.mark.parametrize(("deadline", "longest_s"), [(600.0, 30.0), (20.0, 10.0)])
def test_nobody_waits_for_ever_for_a_call_that_takes_long(
    queue: WaitingCalls, deadline: float, longest_s: float
) -> None:
    """And who has waited has as much time left for the vendor."""
    assert queue.wait(deadline=deadline) is None
    assert longest_s <= queue.now < longest_s + 0.2
    assert queue.holder() == LEADER.encode()


def test_the_bound_is_the_configurations(redis: Redis) -> None:
    queue = WaitingCalls(redis, flight_wait_s=2)
    assert queue.wait() is None
    assert 2 <= queue.now < 2.2


def test_who_hangs_up_waits_no_longer(queue: WaitingCalls) -> None:
    cancel = CancelToken()
    queue.at(1.0, cancel.cancel)
    with pytest.raises(ClientGone):
        queue.wait(cancel=cancel)
    assert queue.now < 1.2


@pytest.mark.parametrize("shared", [True, False])
def test_no_key_waits_for_another_although_they_may_share_answers(redis: Redis, shared: bool) -> None:
    """A caller whose calls last on purpose would hold up all who ask the same."""
    cache = Cache(redis=redis, config=CacheConfig(shared=shared))
    first, second = (cache.key(Caller(key_id, "test"), REQUEST) for key_id in ("key_1", "key_2"))
    assert flight_key(first) != flight_key(second)
    assert (cache_entry_key(first) == cache_entry_key(second)) == shared
