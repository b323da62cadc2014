from __future__ import annotations

import pytest

from app.gateway.breaker import Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(threshold=3, cooldown_s=30, clock=clock)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.failed()


def test_it_opens_after_so_many_failures_in_a_row(breaker: Breaker) -> None:
    fail(breaker, 2)
    assert (breaker.state, breaker.allows()) == ("closed", True)
    fail(breaker, 1)
    assert (breaker.state, breaker.allows()) == ("open", False)


def test_one_success_in_between_starts_the_count_again(breaker: Breaker) -> None:
    fail(breaker, 2)
    breaker.succeeded()
    fail(breaker, 2)
    assert breaker.state == "closed"


def test_after_the_cooldown_exactly_one_call_probes(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 29.9
    assert not breaker.allows()
    clock.now += 0.1
    assert breaker.state == "half_open"
    assert [breaker.allows() for _ in range(3)] == [True, False, False]


def test_a_probe_that_succeeds_closes_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 30
    assert breaker.allows()
    breaker.succeeded()
    assert breaker.state == "closed"
    assert [breaker.allows() for _ in range(3)] == [True, True, True]
    fail(breaker, 2)
    assert breaker.state == "closed", "the old failures are forgotten"


def test_a_probe_that_fails_opens_it_for_another_cooldown(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 30
    assert breaker.allows()
    breaker.failed()
    clock.now += 29.9
    assert (breaker.state, breaker.allows()) == ("open", False)
    clock.now += 0.1
    assert breaker.allows()


def test_a_probe_that_never_reports_does_not_close_the_door_for_ever(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 30
    assert breaker.allows()
    clock.now += 29
    assert not breaker.allows()
    clock.now += 1
    assert breaker.allows()


def test_a_threshold_of_one_opens_at_once(clock: Clock) -> None:
    breaker = Breaker(threshold=1, cooldown_s=1, clock=clock)
    breaker.failed()
    assert not breaker.allows()
