"""A key on a plan that is not there is refused, and the log says so once an hour a key, whoever keeps calling."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from app.config.gateway import Plan
from app.domain.identity import Caller
from app.errors import Forbidden
from app.gateway.callers import Callers
from app.gateway.plans import Plans
from tests.support.calls import NoKeys

FREE = Plan(concurrency=1)


class FakeClock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def logged(clock: FakeClock) -> Callable[..., list[str]]:
    plans = Plans({"default": Plan(), "free": FREE}, callers=Callers(keys=NoKeys()), clock=clock)

    def refuse(*key_ids: str) -> list[str]:
        with capture_logs() as logs:
            for key_id in key_ids:
                with pytest.raises(Forbidden):
                    plans.plan_of(Caller(key_id, "test", plan="gone"))
        return [f"{log['key_id']} {log['plan']}" for log in logs if log["event"] == "plan_unknown"]

    return refuse


def test_a_plan_that_is_there_is_the_callers() -> None:
    plans = Plans({"default": Plan(), "free": FREE}, callers=Callers(keys=NoKeys()), clock=FakeClock())
    caller = Caller("key_1", "test", plan="free")
    assert plans.plan_of(caller) is FREE
    assert plans.verify(caller) is caller


def test_one_that_is_not_is_logged_once_an_hour_a_key(logged: Callable[..., list[str]], clock: FakeClock) -> None:
    assert logged("a", "a", "b", "a") == ["a gone", "b gone"]
    clock.now += 3599
    assert logged("a") == []
    clock.now += 1
    assert logged("a", "b") == ["a gone", "b gone"]


def test_who_was_logged_is_not_remembered_without_end(logged: Callable[..., list[str]]) -> None:
    assert len(logged(*(f"key_{number}" for number in range(10_000)))) == 10_000
    assert logged("key_0", "key_9999") == []
    assert logged("one_more", "key_0") == ["one_more gone", "key_0 gone"]
