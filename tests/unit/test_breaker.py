"""The circuit breaker: the callers it stops, and for how long; no caller can close a target to another."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.gateway.breaker import Breaker


class FakeClock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def breaker(clock: FakeClock) -> Breaker:
    return Breaker(threshold=3, cooldown_s=30, clock=clock)


def fail(breaker: Breaker, *callers: str) -> None:
    for caller in callers:
        breaker.record_failure(caller)


def opened(breaker: Breaker) -> Breaker:
    """Open to everybody."""
    fail(breaker, "a", "b", "a")
    assert not breaker.allows("c")
    return breaker


def test_it_opens_after_so_many_failures_in_a_row(breaker: Breaker) -> None:
    fail(breaker, "a", "b")
    assert (breaker.state, breaker.allows("c")) == ("closed", True)
    fail(breaker, "c")
    assert (breaker.state, breaker.allows("a"), breaker.allows("new")) == ("open", False, False)


def test_one_success_in_between_starts_the_count_again(breaker: Breaker) -> None:
    fail(breaker, "a", "b")
    breaker.record_success()
    fail(breaker, "a", "b")
    assert breaker.state == "closed"


# No caller closes it to another


def test_one_callers_failures_however_many_close_it_to_that_caller_alone(breaker: Breaker) -> None:
    fail(breaker, *["a"] * 50)
    assert (breaker.allows("a"), breaker.is_open("a")) == (False, True)
    assert (breaker.allows("b"), breaker.is_open("b")) == (True, False)


def test_the_only_caller_is_protected_too_and_its_target_counts_as_open(breaker: Breaker) -> None:
    fail(breaker, "a", "a")
    assert (breaker.state, breaker.allows("a")) == ("closed", True)
    fail(breaker, "a")
    assert (breaker.state, breaker.allows("a")) == ("open", False)


def test_the_success_of_another_says_that_the_vendor_is_well(breaker: Breaker) -> None:
    fail(breaker, "a", "a", "a")
    assert breaker.allows("b")
    breaker.record_success()
    assert (breaker.state, breaker.allows("a")) == ("closed", True)


def test_the_failures_of_others_decide_and_not_a_single_one_of_many() -> None:
    breaker = Breaker(threshold=5, cooldown_s=30)
    fail(breaker, *["a"] * 20, "b")
    assert breaker.allows("c"), "one failure may be chance"
    fail(breaker, "c")
    assert not breaker.allows("d")


def test_a_threshold_of_one_closes_it_to_the_caller_and_then_to_all(clock: FakeClock) -> None:
    breaker = Breaker(threshold=1, cooldown_s=1, clock=clock)
    fail(breaker, "a")
    assert (breaker.allows("a"), breaker.allows("b")) == (False, True)
    fail(breaker, "b")
    assert not breaker.allows("c")


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 8),
    st.lists(st.sampled_from(["record_failure", "release_probe", "hold_off", "allows", "later"]), max_size=60),
)
def test_whatever_one_caller_does_the_others_may_call(threshold: int, acts: list[str]) -> None:
    clock = FakeClock()
    breaker = Breaker(threshold=threshold, cooldown_s=30, clock=clock)
    for act in acts:
        if act == "later":
            clock.now += 11
        elif act == "hold_off":
            breaker.hold_off("a", 60)
        else:
            getattr(breaker, act)("a")
    assert breaker.allows("b")


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 8), st.lists(st.sampled_from("abcdefghijklmnop"), max_size=60))
def test_it_remembers_no_more_callers_than_the_threshold(threshold: int, callers: list[str]) -> None:
    breaker = Breaker(threshold=threshold, cooldown_s=30, clock=FakeClock())
    for caller in callers:
        breaker.allows(caller)
        breaker.record_failure(caller)
        breaker.hold_off(caller, 5)
        assert len(breaker._failures) <= threshold
        assert len(breaker._refused_at) <= 2
        assert len(breaker._hold_off_until) <= 2


# Probes


def test_after_the_cooldown_a_caller_probes_once(breaker: Breaker, clock: FakeClock) -> None:
    opened(breaker)
    clock.now += 29.9
    assert not breaker.allows("a")
    clock.now += 0.1
    assert breaker.state == "half_open"
    assert [breaker.allows("a") for _ in range(3)] == [True, False, False]


def test_a_caller_whose_probe_takes_its_time_keeps_no_other_from_probing(breaker: Breaker, clock: FakeClock) -> None:
    opened(breaker)
    clock.now += 30
    assert [breaker.allows(caller) for caller in "abcd"] == [True, True, True, False], "three at once, not all"


@pytest.mark.parametrize("closed_to", ["everybody", "one caller"])
def test_a_probe_that_succeeds_closes_it(breaker: Breaker, clock: FakeClock, closed_to: str) -> None:
    fail(breaker, "a", "a", "a") if closed_to == "one caller" else opened(breaker)
    clock.now += 30
    assert breaker.allows("a")
    breaker.record_success()
    assert breaker.state == "closed"
    assert [breaker.allows("a") for _ in range(3)] == [True, True, True]
    fail(breaker, "a", "b")
    assert breaker.state == "closed", "the old failures are forgotten"


@pytest.mark.parametrize("closed_to", ["everybody", "one caller"])
def test_a_probe_that_fails_refuses_its_caller_for_another_cooldown(
    breaker: Breaker, clock: FakeClock, closed_to: str
) -> None:
    fail(breaker, "a", "a", "a") if closed_to == "one caller" else opened(breaker)
    clock.now += 30
    assert breaker.allows("a")
    fail(breaker, "a")
    clock.now += 29.9
    assert (breaker.state, breaker.allows("a")) == ("open", False)
    clock.now += 0.1
    assert breaker.allows("a")


def test_probes_of_two_callers_that_fail_open_it_to_everybody_again(breaker: Breaker, clock: FakeClock) -> None:
    opened(breaker)
    clock.now += 30
    assert breaker.allows("a")
    fail(breaker, "a")
    assert breaker.allows("b"), "one caller's probe does not decide for all"
    fail(breaker, "b")
    assert (breaker.state, breaker.allows("c")) == ("open", False)
    clock.now += 30
    assert breaker.allows("a")


def test_a_probe_that_was_hung_up_is_the_next_calls(breaker: Breaker, clock: FakeClock) -> None:
    opened(breaker)
    clock.now += 30
    for caller in "abc":
        assert breaker.allows(caller)
    breaker.release_probe("b")
    assert [breaker.allows(caller) for caller in "db"] == [True, False]


def test_a_probe_that_never_reports_does_not_close_the_door_for_ever(breaker: Breaker, clock: FakeClock) -> None:
    opened(breaker)
    clock.now += 30
    assert breaker.allows("a")
    clock.now += 29
    assert not breaker.allows("a")
    clock.now += 1
    assert breaker.allows("a")


def test_a_call_that_began_before_it_opened_does_not_keep_it_open(breaker: Breaker, clock: FakeClock) -> None:
    opened(breaker)
    clock.now += 29
    fail(breaker, "c", "d", "c", "d")
    clock.now += 1
    assert breaker.allows("c")


# A vendor that asks to be left alone


def test_a_caller_leaves_a_vendor_alone_for_as_long_as_it_was_told_to(breaker: Breaker, clock: FakeClock) -> None:
    breaker.hold_off("a", 7)
    assert (breaker.allows("a"), breaker.hold_off_s("a"), breaker.state) == (False, 7, "closed")
    clock.now += 6.5
    assert (breaker.allows("a"), breaker.hold_off_s("a")) == (False, 0.5)
    clock.now += 0.5
    assert (breaker.allows("a"), breaker.hold_off_s("a")) == (True, 0)


def test_what_two_callers_were_told_holds_for_all(breaker: Breaker, clock: FakeClock) -> None:
    breaker.hold_off("a", 60)
    assert (breaker.allows("b"), breaker.hold_off_s("b")) == (True, 0), "it may be about one caller's huge request"
    breaker.hold_off("b", 10)
    assert [breaker.hold_off_s(caller) for caller in "abc"] == [60, 10, 10]
    clock.now += 10
    assert [breaker.allows(caller) for caller in "abc"] == [False, True, True]
    breaker.hold_off("c", 20)
    assert [breaker.hold_off_s(caller) for caller in "abc"] == [50, 20, 20]


def test_a_rest_that_is_over_is_forgotten(breaker: Breaker, clock: FakeClock) -> None:
    breaker.hold_off("a", 5)
    breaker.hold_off("b", 5)
    clock.now += 5
    assert breaker.allows("c")
    assert not breaker._hold_off_until, "a call on a healthy target looks nothing up"
    breaker.hold_off("b", 5)
    assert breaker.allows("c")
