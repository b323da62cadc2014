"""From a model's alias to an answer: which targets, in which order, and what to do when one fails.

Order: one target drawn by weight, then the other targets by weight, then the fallbacks as written. A single
target is tried again after a short pause. What the caller did wrong (the provider's 400) is never retried.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import structlog

from app.domain.config import GatewayConfig, ModelConfig, RetryConfig
from app.domain.config import Target as TargetConfig
from app.domain.identity import Caller
from app.errors import ClientGone, Forbidden, GatewayError, ModelNotFound, UpstreamError, UpstreamUnavailable
from app.gateway.attempts import Unanswered, unanswered
from app.gateway.breaker import Breaker
from app.providers.base import CancelToken, Provider
from app.telemetry.metrics import Metrics

log = structlog.get_logger()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """One provider's model. `name` is `provider/model`: the breaker's label."""

    provider: Provider
    model: str
    weight: float
    breaker: Breaker

    @property
    def name(self) -> str:
        return f"{self.provider.name}/{self.model}"


@dataclass(frozen=True, slots=True)
class Route:
    """What an alias stands for."""

    alias: str
    targets: tuple[Target, ...]
    fallbacks: tuple[Target, ...]
    max_output_tokens: int

    @property
    def all_targets(self) -> tuple[Target, ...]:
        return self.targets + self.fallbacks


class Attempts(msgspec.Struct):
    """How a call went so far: filled in by the router, read for headers, the row and the logs.

    `covered`: for how many attempts that may cost something money is reserved.
    """

    count: int = 0
    target: Target | None = None
    unanswered: list[Unanswered] = msgspec.field(default_factory=list)
    covered: int = 1


class Router:
    def __init__(
        self,
        *,
        config: GatewayConfig,
        providers: Mapping[str, Provider],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[Sequence[Target]], Target] | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._retry = config.retry
        self._metrics = metrics
        self._clock = clock
        self._draw = draw or _by_weight
        self._pause = pause
        self._targets: dict[tuple[str, str], Target] = {}
        self.routes = {alias: self._build(alias, model, config, providers) for alias, model in config.models.items()}

    def route(self, alias: str, caller: Caller) -> Route:
        """Raises `ModelNotFound` for an unknown alias, `Forbidden` for one that the key may not use."""
        route = self.routes.get(alias)
        if route is None:
            raise ModelNotFound("The model does not exist or is not configured on this gateway.", param="model")
        if not caller.may_use(alias):
            raise Forbidden("This API key may not use the model.", param="model")
        return route

    def states(self) -> dict[str, str]:
        """Each target's breaker state, by `provider/model`."""
        return {target.name: target.breaker.state for target in self._targets.values()}

    def run(
        self,
        route: Route,
        attempts: Attempts,
        deadline: float,
        cancel: CancelToken,
        call: Callable[[Target], T],
        *,
        cover: Callable[[], None] = lambda: None,
    ) -> T:
        """Runs `call` on the route's targets until one answers. Raises the last `UpstreamError`, or `ClientGone`.

        `cover` reserves money for one more attempt, after one that the provider may bill. What it raises when there is
        none left is raised only if there is no failure to tell of.
        """
        failure: UpstreamError | None = None
        for target in self._order(route):
            if attempts.count >= self._retry.max_attempts:
                break
            if cancel.cancelled:
                raise ClientGone("The client hung up.")
            repeated = failure if attempts.target is target else None
            # A pause before a breaker that is open already would only delay the error.
            if repeated and (target.breaker.state == "open" or not self._may_repeat(repeated, attempts, deadline)):
                break
            if len(attempts.unanswered) >= attempts.covered:
                try:
                    cover()
                except GatewayError:
                    if failure is None:
                        raise
                    break
            if not target.breaker.allows():
                failure = failure or _open(target)
                continue
            attempts.count += 1
            attempts.target = target
            try:
                answer = call(target)
            except BaseException as exc:
                billed = unanswered(target.provider.name, target.model, exc)
                if billed is not None:
                    attempts.unanswered.append(billed)
                if not isinstance(exc, UpstreamError):
                    raise
                failure = exc
                self._note(target, exc, attempts.count)
                if not exc.fall_back:
                    raise
                if self._clock() >= deadline:
                    break
            else:
                target.breaker.succeeded()
                return answer
        raise failure if failure is not None else _open(route.targets[0])

    def _order(self, route: Route) -> list[Target]:
        if len(route.targets) == 1:
            first = route.targets[0]
            return [first, *route.fallbacks] if route.fallbacks else [first] * self._retry.max_attempts
        rest = list(route.targets)
        order = []
        while rest:
            drawn = self._draw(rest)
            rest.remove(drawn)
            order.append(drawn)
        return [*order, *route.fallbacks]

    def _may_repeat(self, failure: UpstreamError, attempts: Attempts, deadline: float) -> bool:
        """Whether the target that just failed may be asked again; if so, after a pause."""
        if not failure.retry_here or failure.kind in ("auth", "not_found", "tls", "bad_body"):
            return False
        wait_s = self._retry.backoff_s * 2 ** (attempts.count - 1)
        # A vendor that says when to come back is not asked earlier; the caller's own retry is for longer waits.
        if failure.retry_after_s is not None and failure.retry_after_s > wait_s:
            return False
        if self._clock() + wait_s >= deadline:
            return False
        self._pause(wait_s)
        return True

    def _note(self, target: Target, failure: UpstreamError, attempt: int) -> None:
        self._metrics.upstream_error(target.provider.name, failure.kind)
        # The caller's own mistakes are answered by a healthy target.
        if failure.fall_back:
            target.breaker.failed()
        else:
            target.breaker.succeeded()
        log.warning(
            "upstream_failed", target=target.name, kind=failure.kind, status=failure.upstream_status, attempt=attempt
        )

    def _build(self, alias: str, model: ModelConfig, config: GatewayConfig, providers: Mapping[str, Provider]) -> Route:
        fallbacks: list[Target] = []
        for fallback in model.fallbacks:
            if isinstance(fallback, TargetConfig):
                fallbacks.append(self._target(fallback, alias, providers))
            elif fallback in config.models:
                fallbacks += (self._target(t, fallback, providers) for t in config.models[fallback].targets)
            else:
                fallbacks.append(self._target(TargetConfig(provider=fallback), alias, providers))
        targets = tuple(self._target(target, alias, providers) for target in model.targets)
        return Route(alias, targets, tuple(f for f in fallbacks if f not in targets), model.max_output_tokens)

    def _target(self, target: TargetConfig, alias: str, providers: Mapping[str, Provider]) -> Target:
        model = target.model or alias
        shared = self._targets.get((target.provider, model))
        breaker = shared.breaker if shared else self._breaker(self._retry)
        built = Target(providers[target.provider], model, target.weight, breaker)
        self._targets.setdefault((target.provider, model), built)
        return built

    def _breaker(self, retry: RetryConfig) -> Breaker:
        return Breaker(threshold=retry.breaker_threshold, cooldown_s=retry.breaker_cooldown_s, clock=self._clock)


def _by_weight(targets: Sequence[Target]) -> Target:
    weights = [target.weight for target in targets]
    return random.choices(targets, weights if any(weights) else None)[0]


def _open(target: Target) -> UpstreamUnavailable:
    return UpstreamUnavailable(
        "The model is unavailable: its provider keeps failing.",
        provider=target.provider.name, kind="breaker_open", retry_after_s=5,
    )  # fmt: skip
