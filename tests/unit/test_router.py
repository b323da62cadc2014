"""From an alias to an answer: who is asked, in which order, how often, and when nobody is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from app.config.gateway import GatewayConfig
from app.domain.identity import Caller
from app.errors import (
    ClientGone,
    Forbidden,
    ModelNotFound,
    Untranslatable,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from app.gateway.router import Attempts, Router
from app.gateway.routes import Target
from app.providers.base import CancelToken, ChatCall, EmbedCall, MediaCall, MediaResponse, ProviderResponse
from app.telemetry.metrics import _UPSTREAM_KINDS, Metrics

CALLER = Caller("key_1", "test")
OTHER = Caller("key_2", "other")


class NamedProvider:
    """A provider of which only the name is used."""

    def __init__(self, name: str) -> None:
        self.name = name

    def chat(self, call: ChatCall) -> ProviderResponse:
        raise NotImplementedError

    def stream(self, call: ChatCall) -> Any:
        raise NotImplementedError

    def embed(self, call: EmbedCall) -> ProviderResponse:
        raise NotImplementedError

    def media(self, call: MediaCall) -> MediaResponse:
        raise NotImplementedError

    def count_tokens(self, call: ChatCall) -> None:
        return None

    def check(self, timeout_s: float) -> None:
        raise NotImplementedError

    def stats(self) -> dict[str, Any]:
        return {}


class RouterHarness:
    """A router whose pauses only step its clock, and whose targets fail as scripted."""

    def __init__(self, models: dict[str, Any], *, draw: Any = lambda targets: targets[0], **retry: Any) -> None:
        names = ("a", "b", "c")
        config = GatewayConfig.model_validate(
            {"providers": {name: {"kind": "demo"} for name in names}, "models": models, "retry": retry}
        )
        self.now = 0.0
        self.pauses: list[float] = []
        self.asked: list[str] = []
        self.router = Router(
            config=config,
            providers={name: NamedProvider(name) for name in names},
            metrics=Metrics(config=config),
            clock=lambda: self.now,
            draw=draw,
            pause=self._pause,
        )

    def run(
        self,
        fails: dict[str, Any],
        *,
        alias: str = "m",
        deadline: float = 100.0,
        cancel: CancelToken | None = None,
        caller: Caller = CALLER,
    ) -> Attempts:
        """`fails`: what each target raises, by its name; a list is used up call by call."""
        attempts = Attempts(key_id=caller.key_id)

        def call(target: Target) -> str:
            self.asked.append(target.name)
            failure = fails.get(target.name)
            if isinstance(failure, list):
                failure = failure.pop(0) if failure else None
            if failure is not None:
                raise failure
            return target.name

        route = self.router.route(alias, caller)
        assert self.router.run(route, attempts, deadline, cancel or CancelToken(), call) == self.asked[-1]
        return attempts

    def error_of(self, failure: Any, **call: Any) -> Any:
        """Returns the error of a call whose targets all fail with `failure`."""
        with pytest.raises((UpstreamError, ClientGone)) as caught:
            self.run(dict.fromkeys(("a/m", "b/m"), failure), **call)
        return caught.value

    def _pause(self, wait_s: float) -> None:
        self.pauses.append(wait_s)
        self.now += wait_s


def one_model(*targets: Any, **more: Any) -> dict[str, Any]:
    return {"m": {"targets": [{"provider": name} for name in targets], **more}}


def down(
    kind: str = "status_5xx", make: Callable[..., UpstreamError] = UpstreamUnavailable, **more: Any
) -> UpstreamError:
    return make("down", provider="a", kind=kind, **more)


def test_an_unknown_alias_and_one_that_the_key_may_not_use() -> None:
    router = RouterHarness(one_model("a")).router
    with pytest.raises(ModelNotFound) as unknown:
        router.route("other", CALLER)
    with pytest.raises(Forbidden) as forbidden:
        router.route("m", Caller("key_1", "test", models=frozenset({"other"})))
    assert (unknown.value.param, forbidden.value.param) == ("model", "model")


def test_a_single_target_is_tried_again_after_pauses_that_double() -> None:
    harness = RouterHarness(one_model("a"), max_attempts=4, backoff_s=0.1)
    attempts = harness.run({"a/m": [down(), down(), down()]})
    assert (attempts.count, attempts.target and attempts.target.name) == (4, "a/m")
    assert harness.pauses == pytest.approx([0.1, 0.2, 0.4])


def test_the_last_failure_is_what_the_caller_gets() -> None:
    harness = RouterHarness(one_model("a"), max_attempts=2, backoff_s=0)
    last = down()
    with pytest.raises(UpstreamUnavailable) as caught:
        harness.run({"a/m": [down(), last]})
    assert caught.value is last
    assert harness.asked == ["a/m"] * 2


def test_a_callers_mistake_is_not_tried_elsewhere_and_harms_no_breaker() -> None:
    harness = RouterHarness(one_model("a", fallbacks=["b"]), breaker_threshold=1)
    with pytest.raises(UpstreamRejected):
        harness.run({"a/m": down("rejected", UpstreamRejected)})
    assert harness.asked == ["a/m"]
    assert harness.router.states()["a/m"] == "closed"


@pytest.mark.parametrize("kind", ["auth", "not_found", "tls", "bad_body"])
def test_an_error_that_a_retry_cannot_mend_is_not_retried_on_its_target(kind: str) -> None:
    harness = RouterHarness(one_model("a"))
    with pytest.raises(UpstreamUnavailable):
        harness.run({"a/m": down(kind)})
    assert (harness.asked, harness.pauses) == (["a/m"], [])
    falls_back = RouterHarness(one_model("a", fallbacks=["b"]))
    falls_back.run({"a/m": down(kind)})
    assert falls_back.asked == ["a/m", "b/m"], "but on another one"


def test_a_target_that_timed_out_is_not_waited_for_again() -> None:
    harness = RouterHarness(one_model("a"))
    with pytest.raises(UpstreamTimeout):
        harness.run({"a/m": down("timeout_first_byte", UpstreamTimeout)})
    assert harness.asked == ["a/m"]


def test_a_vendor_that_says_when_to_come_back_is_not_asked_earlier() -> None:
    harness = RouterHarness(one_model("a"), backoff_s=0.2)
    with pytest.raises(UpstreamUnavailable) as caught:
        harness.run({"a/m": down("rate_limited", retry_after_s=5)})
    assert (harness.asked, caught.value.retry_after_s) == (["a/m"], 5)


def test_no_pause_outlasts_the_deadline() -> None:
    harness = RouterHarness(one_model("a"), backoff_s=2)
    with pytest.raises(UpstreamUnavailable):
        harness.run({"a/m": down()}, deadline=1.5)
    assert (harness.asked, harness.pauses) == (["a/m"], [])


def test_targets_come_before_fallbacks_and_fallbacks_as_written() -> None:
    harness = RouterHarness(one_model("a", "b", fallbacks=["c", {"provider": "c", "model": "other"}]), max_attempts=10)
    harness.run({"a/m": down(), "b/m": down(), "c/m": down()})
    assert harness.asked == ["a/m", "b/m", "c/m", "c/other"]
    assert harness.pauses == [], "another target needs none"


def test_a_fallback_that_names_a_model_stands_for_its_targets() -> None:
    models = {
        **one_model("a", fallbacks=["n"]),
        "n": {"targets": [{"provider": "b", "model": "x"}, {"provider": "a", "model": "m"}]},
    }
    harness = RouterHarness(models)
    harness.run({"a/m": down()})
    assert harness.asked == ["a/m", "b/x"]
    assert [target.name for target in harness.router.routes["m"].all_targets] == ["a/m", "b/x"], "none twice"


def test_no_more_attempts_than_configured_however_many_targets_there_are() -> None:
    harness = RouterHarness(one_model("a", "b", "c"), max_attempts=2)
    with pytest.raises(UpstreamUnavailable):
        harness.run(dict.fromkeys(("a/m", "b/m", "c/m"), down()))
    assert len(harness.asked) == 2


def test_first_attempts_are_shared_by_weight_and_a_weight_of_nothing_waits() -> None:
    models = {"m": {"targets": [{"provider": "a", "weight": 3}, {"provider": "b"}, {"provider": "c", "weight": 0}]}}
    harness = RouterHarness(models, draw=None)
    for _ in range(2000):
        harness.run({})
    share = Counter(harness.asked)
    assert share["c/m"] == 0
    assert 1350 < share["a/m"] < 1650, "three quarters, by more than seven standard deviations"
    harness.asked.clear()
    harness.run({"a/m": down(), "b/m": down()})
    assert harness.asked[-1] == "c/m"


def test_a_broken_target_is_skipped_until_a_probe_finds_it_well() -> None:
    harness = RouterHarness(one_model("a", fallbacks=["b"]), breaker_threshold=2, breaker_cooldown_s=30)
    for _ in range(3):
        harness.run({"a/m": down()})
    assert harness.asked == ["a/m", "b/m"] * 2 + ["b/m"]
    assert harness.router.states() == {"a/m": "open", "b/m": "closed"}
    harness.now += 30
    harness.run({})
    assert harness.asked[-1] == "a/m"
    assert harness.router.states()["a/m"] == "closed"


def test_when_every_breaker_is_open_the_answer_comes_at_once() -> None:
    harness = RouterHarness(one_model("a"), breaker_threshold=1, backoff_s=0)
    with pytest.raises(UpstreamUnavailable):
        harness.run({"a/m": down()})
    harness.asked.clear()
    with pytest.raises(UpstreamUnavailable) as caught:
        harness.run({})
    assert (harness.asked, caught.value.kind, caught.value.status) == ([], "breaker_open", 503)


# What counts as the vendor's fault, and what does not

VENDORS = {
    "connect",
    "tls",
    "resolve",
    "timeout_connect",
    "timeout_first_byte",
    "timeout_idle",
    "timeout_total",
    "status_5xx",
    "bad_body",
    "cut",
    "stream_error",
    "closed",
}


@pytest.mark.parametrize("kind", sorted(_UPSTREAM_KINDS - {"breaker_open"}))
def test_only_a_vendors_fault_closes_a_model(kind: str) -> None:
    """Not a 429, a request that was refused, a credential, or what is used up here."""
    harness = RouterHarness(one_model("a"), breaker_threshold=2, max_attempts=1)
    make = UpstreamRejected if kind == "rejected" else UpstreamTimeout if "timeout" in kind else UpstreamUnavailable
    for caller in (CALLER, OTHER) * 3:
        harness.error_of(down(kind, make), caller=caller)
    assert harness.router.states()["a/m"] == ("open" if kind in VENDORS else "closed")
    assert len(harness.asked) == (2 if kind in VENDORS else 6)


def test_a_call_that_ran_out_of_time_does_not_blame_the_last_vendor() -> None:
    harness = RouterHarness(one_model("a", fallbacks=["b"]), breaker_threshold=1)
    harness.run({"a/m": down("timeout_first_byte", UpstreamTimeout)})
    with pytest.raises(UpstreamTimeout):
        harness.run({"b/m": down("timeout_total", UpstreamTimeout), "a/m": down()}, caller=OTHER)
    assert harness.router.states() == {"a/m": "open", "b/m": "closed"}


@pytest.mark.parametrize("kind", ["status_5xx", "timeout_first_byte", "connect", "rate_limited", "rejected"])
def test_no_number_of_one_keys_calls_closes_a_model_to_another(kind: str) -> None:
    harness = RouterHarness(one_model("a"), breaker_threshold=5, max_attempts=1)
    make = UpstreamRejected if kind == "rejected" else UpstreamUnavailable
    for _ in range(20):
        harness.error_of(down(kind, make, retry_after_s=30))
    harness.asked.clear()
    harness.run({}, caller=OTHER)
    assert harness.asked == ["a/m"]


def test_a_key_whose_calls_alone_fail_is_refused_without_asking() -> None:
    harness = RouterHarness(one_model("a"), breaker_threshold=5, max_attempts=1)
    for _ in range(20):
        error = harness.error_of(down())
    assert (len(harness.asked), getattr(error, "kind", "")) == (5, "breaker_open")


def test_a_call_is_repeated_although_another_keys_calls_are_refused() -> None:
    harness = RouterHarness(one_model("a"), breaker_threshold=4, max_attempts=4, backoff_s=0)
    harness.error_of(down())
    harness.asked.clear()
    harness.run({"a/m": [down()]}, caller=OTHER)
    assert harness.asked == ["a/m"] * 2


@pytest.mark.parametrize("ending", [ClientGone("gone"), down("rejected", UpstreamRejected), down("rate_limited")])
def test_a_probe_that_decides_nothing_leaves_the_next_one_to_decide(ending: Exception) -> None:
    harness = RouterHarness(one_model("a"), breaker_threshold=2, breaker_cooldown_s=30, max_attempts=1)
    harness.error_of(down())
    harness.error_of(down(), caller=OTHER)
    harness.now += 30
    harness.asked.clear()
    for _ in range(4):
        harness.error_of(ending)
    harness.run({})
    assert harness.asked == ["a/m"] * 5
    assert harness.router.states()["a/m"] == "closed"


def test_an_exhausted_target_is_not_waited_for_but_a_fallback_is_asked() -> None:
    harness = RouterHarness(one_model("a"))
    harness.error_of(down("saturated"))
    assert harness.asked == ["a/m"]
    harness = RouterHarness(one_model("a", fallbacks=["b"]))
    harness.run({"a/m": down("saturated")})
    assert harness.asked == ["a/m", "b/m"]


# A vendor that says when to come back


def test_a_vendor_is_left_alone_as_told_and_the_caller_told_at_once() -> None:
    harness = RouterHarness(one_model("a"))
    harness.error_of(down("rate_limited", retry_after_s=20))
    harness.now += 5
    harness.asked.clear()
    error = harness.error_of(None)
    assert isinstance(error, UpstreamUnavailable)
    assert (harness.asked, error.kind, error.status, error.retry_after_s) == ([], "rate_limited", 503, 15)
    harness.now += 15
    harness.run({})
    assert harness.asked == ["a/m"]


def test_calls_go_to_the_fallback_while_a_vendor_is_left_alone() -> None:
    harness = RouterHarness(one_model("a", fallbacks=["b"]))
    for _ in range(3):
        harness.run({"a/m": down("rate_limited", retry_after_s=20)})
    assert harness.asked == ["a/m", "b/m", "b/m", "b/m"]
    assert harness.router.states()["a/m"] == "closed"


def test_a_429_that_does_not_say_for_how_long_keeps_nobody_away() -> None:
    harness = RouterHarness(one_model("a"), max_attempts=1)
    harness.error_of(down("rate_limited"))
    harness.run({})
    assert harness.asked == ["a/m"] * 2


def test_what_two_keys_were_told_to_wait_holds_for_every_key() -> None:
    harness = RouterHarness(one_model("a"))
    for caller in (CALLER, OTHER):
        harness.error_of(down("rate_limited", retry_after_s=20), caller=caller)
    harness.asked.clear()
    harness.error_of(None, caller=Caller("key_3", "third"))
    assert harness.asked == []


# Keys that may not use every model


def lending_harness() -> RouterHarness:
    """Model m falls back on models n and o, and on a target of its own that is o's too."""
    return RouterHarness(
        {
            **one_model("a", fallbacks=["n", {"provider": "c", "model": "o"}, "o"]),
            "n": {"targets": [{"provider": "b", "model": "n"}]},
            "o": {"targets": [{"provider": "c", "model": "o"}, {"provider": "c", "model": "p"}]},
        }
    )


@pytest.mark.parametrize(
    ("models", "reached"),
    [
        (None, ["a/m", "b/n", "c/o", "c/p"]),
        ({"m"}, ["a/m", "c/o"]),
        ({"m", "n"}, ["a/m", "b/n", "c/o"]),
        ({"m", "o"}, ["a/m", "c/o", "c/p"]),
        ({"m", "n", "o", "unknown"}, ["a/m", "b/n", "c/o", "c/p"]),
    ],
)
def test_a_key_is_not_served_by_the_targets_of_a_model_that_it_may_not_use(
    models: set[str] | None, reached: list[str]
) -> None:
    harness = lending_harness()
    caller = Caller("key_1", "test", models=None if models is None else frozenset(models))
    route = harness.router.route("m", caller)
    assert [target.name for target in route.all_targets] == reached
    assert harness.router.route("m", caller) is route, "worked out once"
    with pytest.raises(UpstreamUnavailable):
        harness.run(dict.fromkeys(("a/m", "b/n", "c/o", "c/p"), down("auth")), caller=caller)
    assert harness.asked == reached[:3], "no more attempts than configured"


def test_a_narrower_route_has_the_same_breakers() -> None:
    harness = lending_harness()
    narrow = harness.router.route("m", Caller("key_1", "test", models=frozenset({"m"})))
    full = harness.router.route("m", CALLER)
    assert narrow.targets[0].breaker is full.targets[0].breaker


def test_a_target_that_is_also_a_fallback_is_asked_once() -> None:
    target = {"provider": "a", "weight": 3}
    harness = RouterHarness({"m": {"targets": [target], "fallbacks": ["a", "b", "b"]}})
    assert [found.name for found in harness.router.route("m", CALLER).all_targets] == ["a/m", "b/m"]


def test_aliases_of_the_same_model_share_its_breaker() -> None:
    target = {"targets": [{"provider": "a", "model": "x"}]}
    harness = RouterHarness({"m": target, "n": target}, breaker_threshold=1, backoff_s=0)
    with pytest.raises(UpstreamUnavailable):
        harness.run({"a/x": down()}, alias="m")
    harness.asked.clear()
    with pytest.raises(UpstreamUnavailable):
        harness.run({}, alias="n")
    assert harness.asked == []


def test_nobody_is_asked_for_a_client_that_is_gone() -> None:
    harness = RouterHarness(one_model("a", fallbacks=["b"]))
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(ClientGone):
        harness.run({}, cancel=cancel)
    assert harness.asked == []


def test_nobody_else_is_asked_after_the_deadline() -> None:
    harness = RouterHarness(one_model("a", fallbacks=["b"]))
    harness.now = 200.0
    with pytest.raises(UpstreamUnavailable):
        harness.run({"a/m": down()})
    assert harness.asked == ["a/m"]


@pytest.mark.parametrize(
    ("fails", "told"),
    [
        ({"a/m": [down(), down()]}, False),
        ({"a/m": [down("rate_limited"), down("rate_limited")]}, False),
        ({"a/m": [down("rate_limited", retry_after_s=0.01), down("rate_limited", retry_after_s=0.01)]}, False),
        ({"a/m": [down(), down("rate_limited", retry_after_s=20)]}, False),
        ({"a/m": down("auth")}, False),
        ({"a/m": down("timeout_first_byte", UpstreamTimeout)}, False),
        ({"a/m": down("rate_limited", retry_after_s=20)}, None),
        ({"a/m": down("saturated")}, None),
    ],
)
def test_a_caller_is_told_not_to_retry_once_our_own_attempts_were_spent(
    fails: dict[str, Any], told: bool | None
) -> None:
    with pytest.raises(UpstreamError) as caught:
        RouterHarness(one_model("a"), max_attempts=2, backoff_s=0.1).run(fails)
    assert caught.value.should_retry is told


@pytest.mark.parametrize(
    ("first", "last", "told"),
    [
        (down(), down(), False),
        (down(), down("rate_limited", retry_after_s=20), False),
        (down("rate_limited", retry_after_s=20), down(), False),
        (down("rate_limited", retry_after_s=20), down("rate_limited", retry_after_s=20), None),
        (down("saturated"), down("saturated"), None),
    ],
)
def test_a_fallback_is_an_attempt_unless_both_vendors_named_a_wait(
    first: UpstreamError, last: UpstreamError, told: bool | None
) -> None:
    with pytest.raises(UpstreamError) as caught:
        RouterHarness(one_model("a", fallbacks=["b"])).run({"a/m": first, "b/m": last})
    assert caught.value.should_retry is told


def test_without_retries_here_or_an_asked_vendor_the_caller_may_retry() -> None:
    assert RouterHarness(one_model("a"), max_attempts=1).error_of(down()).should_retry is None
    harness = RouterHarness(one_model("a"), max_attempts=3, backoff_s=0, breaker_threshold=1, breaker_cooldown_s=10)
    assert harness.error_of(down()).should_retry is None, "the open breaker cut our attempts short"
    assert harness.error_of(down()).kind == "breaker_open"
    assert harness.error_of(down()).should_retry is None


FOREIGN = Untranslatable("`logit_bias` cannot be translated.", param="logit_bias")


def test_a_target_that_cannot_be_told_the_request_is_passed_over() -> None:
    harness = RouterHarness(one_model("a", "b", fallbacks=["c"]))
    attempts = harness.run({"a/m": FOREIGN, "b/m": FOREIGN})
    assert harness.asked == ["a/m", "b/m", "c/m"]
    assert (attempts.count, attempts.unanswered) == (1, [])


@pytest.mark.parametrize("models", [one_model("a"), one_model("a", fallbacks=["b"]), one_model("a", "b")])
def test_a_request_that_no_target_can_be_told_is_the_callers_mistake(models: dict[str, Any]) -> None:
    harness = RouterHarness(models)
    with pytest.raises(Untranslatable) as caught:
        harness.run({"a/m": FOREIGN, "b/m": FOREIGN})
    assert caught.value.param == "logit_bias"
    assert (harness.asked.count("a/m"), harness.pauses) == (1, [])


def test_an_outage_is_not_told_as_the_callers_mistake() -> None:
    harness = RouterHarness(one_model("a", "b"))
    with pytest.raises(UpstreamUnavailable):
        harness.run({"a/m": down(), "b/m": FOREIGN})
