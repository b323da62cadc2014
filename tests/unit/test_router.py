"""Which target is asked, in which order, and what happens when one fails."""

from __future__ import annotations

import itertools
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
)  # fmt: skip
from app.gateway.router import Attempts, Router, Target
from app.providers.base import CancelToken
from app.providers.demo import DemoProvider
from app.telemetry.metrics import Metrics

CALLER = Caller("key_1", "test")


class World:
    """A router whose time passes only when it pauses, and whose first target is always the first one written."""

    def __init__(self, models: dict[str, Any], **retry: Any) -> None:
        names = ("a", "b", "c")
        self.now = 0.0
        self.config = GatewayConfig.model_validate(
            {"providers": {name: {"kind": "demo"} for name in names}, "models": models, "retry": retry}
        )
        providers = {
            name: DemoProvider(
                name=name, config=self.config.providers[name], timeouts=self.config.timeouts, heartbeat_s=15,
                secrets=frozenset(),
            )
            for name in names
        }  # fmt: skip
        self.router = Router(
            config=self.config, providers=providers, metrics=Metrics(config=self.config), clock=lambda: self.now,
            draw=lambda targets: targets[0], pause=self.pass_time,
        )  # fmt: skip
        self.asked: list[str] = []
        self.failures: dict[str, Any] = {}

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def call(self, model: str = "m", *, deadline: float = 100.0, cancel: CancelToken | None = None) -> str:
        attempts = Attempts()
        route = self.router.route(model, CALLER)
        return self.router.run(route, attempts, deadline, cancel or CancelToken(), self.answer)

    def answer(self, target: Target) -> str:
        self.asked.append(target.provider.name)
        failure = self.failures.get(target.provider.name)
        if failure is not None:
            raise failure
        return target.provider.name


def fails(kind: type[UpstreamError] = UpstreamError, name: str = "status_5xx", **more: Any) -> UpstreamError:
    return kind("it failed", provider="x", kind=name, **more)


THREE = {"m": {"targets": [{"provider": "a"}, {"provider": "b"}], "fallbacks": ["c"]}}
ONE = {"m": {"targets": [{"provider": "a"}]}}


def test_falls_back_in_order() -> None:
    world = World(THREE)
    assert world.call() == "a"
    world.failures = {"a": fails(), "b": fails()}
    assert world.call() == "c"
    assert world.asked == ["a", "a", "b", "c"]


def test_a_single_target_is_tried_again_after_a_pause_that_doubles() -> None:
    world = World(ONE, max_attempts=3, backoff_s=0.5)
    world.failures = {"a": fails()}
    with pytest.raises(UpstreamError):
        world.call()
    assert (world.asked, world.now) == (["a", "a", "a"], 1.5)


@pytest.mark.parametrize(
    "failure",
    [
        fails(UpstreamTimeout, "timeout_first_byte"),
        fails(name="auth"),
        fails(UpstreamUnavailable, "rate_limited", retry_after_s=30),
        fails(UpstreamRejected, "rejected"),
    ],
)
def test_what_would_not_help_is_not_tried_again(failure: UpstreamError) -> None:
    world = World(ONE)
    world.failures = {"a": failure}
    with pytest.raises(type(failure)):
        world.call()
    assert world.asked == ["a"]


def test_bug_11_a_timeout_while_waiting_for_headers_still_falls_back() -> None:
    world = World(THREE)
    world.failures = {"a": fails(UpstreamTimeout, "timeout_first_byte")}
    assert world.call() == "b"


def test_the_callers_own_mistake_is_not_sent_to_everybody() -> None:
    world = World(THREE)
    world.failures = {"a": fails(UpstreamRejected, "rejected")}
    with pytest.raises(UpstreamRejected):
        world.call()
    assert world.asked == ["a"]


def test_a_target_that_keeps_failing_is_left_alone_until_a_probe_succeeds() -> None:
    world = World(ONE, max_attempts=1, breaker_threshold=2, breaker_cooldown_s=10)
    world.failures = {"a": fails()}
    for _ in range(2):
        with pytest.raises(UpstreamError):
            world.call()
    with pytest.raises(UpstreamUnavailable) as error:
        world.call()
    assert error.value.kind == "breaker_open"
    assert world.asked == ["a", "a"], "not asked while the breaker is open"
    world.pass_time(10)
    assert world.router.states() == {"a/m": "half_open"}
    with pytest.raises(UpstreamError):
        world.call()
    assert world.router.states() == {"a/m": "open"}, "the probe failed"
    world.pass_time(10)
    world.failures = {}
    assert world.call() == "a"
    assert world.router.states() == {"a/m": "closed"}


def test_nobody_is_asked_for_a_client_that_is_gone_or_after_the_deadline() -> None:
    world, gone = World(THREE), CancelToken()
    gone.cancel()
    with pytest.raises(ClientGone):
        world.call(cancel=gone)
    world.failures = {"a": fails()}
    with pytest.raises(UpstreamError):
        world.call(deadline=0.0)
    assert world.asked == ["a"]


def test_bug_08_callers_name_models_never_hosts() -> None:
    world = World(ONE)
    for name in ("a", "http://127.0.0.1/", "a/m", ""):
        with pytest.raises(ModelNotFound):
            world.router.route(name, CALLER)
    with pytest.raises(Forbidden):
        world.router.route("m", Caller("key_2", "other", models=frozenset({"n"})))


def test_a_fallback_may_be_a_model_a_provider_or_a_target() -> None:
    models = {
        "m": {"targets": [{"provider": "a"}], "fallbacks": ["n", "c", {"provider": "b", "model": "big"}]},
        "n": {"targets": [{"provider": "b", "model": "small"}]},
    }
    route = World(models).router.route("m", CALLER)
    assert [target.name for target in route.all_targets] == ["a/m", "b/small", "c/m", "b/big"]


def test_targets_are_drawn_by_weight() -> None:
    models = {"m": {"targets": [{"provider": "a", "weight": 3}, {"provider": "b", "weight": 1}]}}
    world = World(models)
    router = Router(config=world.config, providers=_providers(world), metrics=Metrics(config=world.config))
    first: Callable[[], str] = lambda: router.run(  # noqa: E731
        router.route("m", CALLER), Attempts(), 1e12, CancelToken(), lambda target: target.provider.name
    )
    drawn = [first() for _ in itertools.repeat(None, 4000)]
    assert 2700 < drawn.count("a") < 3300, "within 11 standard deviations of 3000"


def _providers(world: World) -> Any:
    return {target.provider.name: target.provider for route in world.router.routes.values() for target in route.targets}
