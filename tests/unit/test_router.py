"""From an alias to an answer: who is asked, in which order, how often, and when nobody is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from app.domain.config import GatewayConfig
from app.domain.identity import Caller
from app.errors import (
    ClientGone,
    Forbidden,
    ModelNotFound,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from app.gateway.router import Attempts, Router, Target
from app.providers.base import Answer, CancelToken, ChatCall, EmbedCall
from app.telemetry.metrics import Metrics

CALLER = Caller("key_1", "test")


class Vendor:
    """A provider that is only asked who it is."""

    def __init__(self, name: str) -> None:
        self.name = name

    def chat(self, call: ChatCall) -> Answer:
        raise NotImplementedError

    def stream(self, call: ChatCall) -> Any:
        raise NotImplementedError

    def embed(self, call: EmbedCall) -> Answer:
        raise NotImplementedError

    def check(self, timeout_s: float) -> None:
        raise NotImplementedError

    def stats(self) -> dict[str, Any]:
        return {}


class Road:
    """A router whose pauses only move its clock, and whose targets fail as told."""

    def __init__(self, models: dict[str, Any], *, draw: Any = lambda targets: targets[0], **retry: Any) -> None:
        names = ("a", "b", "c")
        config = GatewayConfig.model_validate(
            {"providers": {name: {"kind": "demo"} for name in names}, "models": models, "retry": retry}
        )
        self.now = 0.0
        self.pauses: list[float] = []
        self.asked: list[str] = []
        self.router = Router(
            config=config, providers={name: Vendor(name) for name in names}, metrics=Metrics(config=config),
            clock=lambda: self.now, draw=draw, pause=self._pause,
        )  # fmt: skip

    def run(
        self, fails: dict[str, Any], *, alias: str = "m", deadline: float = 100.0, cancel: CancelToken | None = None
    ) -> Attempts:
        """`fails`: what each target raises, by its name; a list is used up call by call."""
        attempts = Attempts()

        def call(target: Target) -> str:
            self.asked.append(target.name)
            failure = fails.get(target.name)
            if isinstance(failure, list):
                failure = failure.pop(0) if failure else None
            if failure is not None:
                raise failure
            return target.name

        route = self.router.route(alias, CALLER)
        assert self.router.run(route, attempts, deadline, cancel or CancelToken(), call) == self.asked[-1]
        return attempts

    def _pause(self, wait_s: float) -> None:
        self.pauses.append(wait_s)
        self.now += wait_s


def one(*targets: Any, **more: Any) -> dict[str, Any]:
    return {"m": {"targets": [{"provider": name} for name in targets], **more}}


def down(
    kind: str = "status_5xx", make: Callable[..., UpstreamError] = UpstreamUnavailable, **more: Any
) -> UpstreamError:
    return make("down", provider="a", kind=kind, **more)


def test_an_unknown_alias_and_one_that_the_key_may_not_use() -> None:
    router = Road(one("a")).router
    with pytest.raises(ModelNotFound) as unknown:
        router.route("other", CALLER)
    with pytest.raises(Forbidden) as forbidden:
        router.route("m", Caller("key_1", "test", models=frozenset({"other"})))
    assert (unknown.value.param, forbidden.value.param) == ("model", "model")


def test_a_single_target_is_tried_again_after_pauses_that_double() -> None:
    road = Road(one("a"), max_attempts=4, backoff_s=0.1)
    attempts = road.run({"a/m": [down(), down(), down()]})
    assert (attempts.count, attempts.target and attempts.target.name) == (4, "a/m")
    assert road.pauses == pytest.approx([0.1, 0.2, 0.4])


def test_the_last_failure_is_what_the_caller_gets() -> None:
    road = Road(one("a"), max_attempts=2, backoff_s=0)
    last = down()
    with pytest.raises(UpstreamUnavailable) as caught:
        road.run({"a/m": [down(), last]})
    assert caught.value is last
    assert road.asked == ["a/m"] * 2


def test_the_callers_own_mistake_is_not_tried_anywhere_else_and_harms_no_breaker() -> None:
    road = Road(one("a", fallbacks=["b"]), breaker_threshold=1)
    with pytest.raises(UpstreamRejected):
        road.run({"a/m": down("rejected", UpstreamRejected)})
    assert road.asked == ["a/m"]
    assert road.router.states()["a/m"] == "closed"


@pytest.mark.parametrize("kind", ["auth", "not_found", "tls", "bad_body"])
def test_what_another_try_cannot_mend_is_not_tried_again_on_the_same_target(kind: str) -> None:
    road = Road(one("a"))
    with pytest.raises(UpstreamUnavailable):
        road.run({"a/m": down(kind)})
    assert (road.asked, road.pauses) == (["a/m"], [])
    falls_back = Road(one("a", fallbacks=["b"]))
    falls_back.run({"a/m": down(kind)})
    assert falls_back.asked == ["a/m", "b/m"], "but on another one"


def test_a_target_that_timed_out_is_not_waited_for_again() -> None:
    road = Road(one("a"))
    with pytest.raises(UpstreamTimeout):
        road.run({"a/m": down("timeout_first_byte", UpstreamTimeout)})
    assert road.asked == ["a/m"]


def test_a_vendor_that_says_when_to_come_back_is_not_asked_earlier() -> None:
    road = Road(one("a"), backoff_s=0.2)
    with pytest.raises(UpstreamUnavailable) as caught:
        road.run({"a/m": down("rate_limited", retry_after_s=5)})
    assert (road.asked, caught.value.retry_after_s) == (["a/m"], 5)


def test_no_pause_outlasts_the_deadline() -> None:
    road = Road(one("a"), backoff_s=2)
    with pytest.raises(UpstreamUnavailable):
        road.run({"a/m": down()}, deadline=1.5)
    assert (road.asked, road.pauses) == (["a/m"], [])


def test_targets_come_before_fallbacks_and_fallbacks_as_written() -> None:
    road = Road(one("a", "b", fallbacks=["c", {"provider": "c", "model": "other"}]), max_attempts=10)
    road.run({"a/m": down(), "b/m": down(), "c/m": down()})
    assert road.asked == ["a/m", "b/m", "c/m", "c/other"]
    assert road.pauses == [], "another target needs none"


def test_a_fallback_that_names_a_model_stands_for_its_targets() -> None:
    models = {
        **one("a", fallbacks=["n"]),
        "n": {"targets": [{"provider": "b", "model": "x"}, {"provider": "a", "model": "m"}]},
    }
    road = Road(models)
    road.run({"a/m": down()})
    assert road.asked == ["a/m", "b/x"]
    assert [target.name for target in road.router.routes["m"].all_targets] == ["a/m", "b/x"], "none twice"


def test_no_more_attempts_than_configured_however_many_targets_there_are() -> None:
    road = Road(one("a", "b", "c"), max_attempts=2)
    with pytest.raises(UpstreamUnavailable):
        road.run(dict.fromkeys(("a/m", "b/m", "c/m"), down()))
    assert len(road.asked) == 2


def test_first_attempts_are_shared_by_weight_and_a_weight_of_nothing_waits() -> None:
    models = {"m": {"targets": [{"provider": "a", "weight": 3}, {"provider": "b"}, {"provider": "c", "weight": 0}]}}
    road = Road(models, draw=None)
    for _ in range(2000):
        road.run({})
    share = Counter(road.asked)
    assert share["c/m"] == 0
    assert 1350 < share["a/m"] < 1650, "three quarters, by more than seven standard deviations"
    road.asked.clear()
    road.run({"a/m": down(), "b/m": down()})
    assert road.asked[-1] == "c/m"


def test_a_broken_target_is_skipped_until_a_probe_finds_it_well() -> None:
    road = Road(one("a", fallbacks=["b"]), breaker_threshold=2, breaker_cooldown_s=30)
    for _ in range(3):
        road.run({"a/m": down()})
    assert road.asked == ["a/m", "b/m"] * 2 + ["b/m"]
    assert road.router.states() == {"a/m": "open", "b/m": "closed"}
    road.now += 30
    road.run({})
    assert road.asked[-1] == "a/m"
    assert road.router.states()["a/m"] == "closed"


def test_when_every_breaker_is_open_the_answer_comes_at_once() -> None:
    road = Road(one("a"), breaker_threshold=1, backoff_s=0)
    with pytest.raises(UpstreamUnavailable):
        road.run({"a/m": down()})
    road.asked.clear()
    with pytest.raises(UpstreamUnavailable) as caught:
        road.run({})
    assert (road.asked, caught.value.kind, caught.value.status) == ([], "breaker_open", 503)


def test_aliases_of_the_same_model_share_its_breaker() -> None:
    target = {"targets": [{"provider": "a", "model": "x"}]}
    road = Road({"m": target, "n": target}, breaker_threshold=1, backoff_s=0)
    with pytest.raises(UpstreamUnavailable):
        road.run({"a/x": down()}, alias="m")
    road.asked.clear()
    with pytest.raises(UpstreamUnavailable):
        road.run({}, alias="n")
    assert road.asked == []


def test_nobody_is_asked_for_a_client_that_is_gone() -> None:
    road = Road(one("a", fallbacks=["b"]))
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(ClientGone):
        road.run({}, cancel=cancel)
    assert road.asked == []


def test_nobody_else_is_asked_after_the_deadline() -> None:
    road = Road(one("a", fallbacks=["b"]))
    road.now = 200.0
    with pytest.raises(UpstreamUnavailable):
        road.run({"a/m": down()})
    assert road.asked == ["a/m"]
