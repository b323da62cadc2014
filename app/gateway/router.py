"""From a model's alias to an answer: which targets, in which order, and what to do when one fails.

Order: one target drawn by weight, then the other targets by weight, then the fallbacks as written. A single
target is tried again after a short pause. What the caller did wrong (the provider's 400) is never retried.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec
import structlog

from app.domain.config import GatewayConfig, RetryConfig
from app.domain.config import Target as TargetConfig
from app.domain.identity import Caller
from app.domain.misspelt import unknown_model
from app.domain.serving import no_key
from app.errors import (
    ClientGone,
    Forbidden,
    GatewayError,
    ModelNotFound,
    ProviderWithoutKey,
    UpstreamError,
    UpstreamUnavailable,
)
from app.gateway.attempts import Unanswered, unanswered
from app.gateway.breaker import Breaker
from app.gateway.outage import Outage
from app.providers.base import CancelToken, Provider
from app.telemetry.metrics import Metrics

log = structlog.get_logger()
T = TypeVar("T")
# What says that the vendor is not well. Not a 429 or our own limits, and no refusal: a vendor that answers 401, 403 or
# 404 costs nobody time, a closed breaker would hide why, and the caller can be the reason (a file that does not exist,
# words that the vendor does not serve).
_VENDORS_FAULTS = frozenset({
    "connect", "tls", "resolve", "timeout_connect", "timeout_first_byte", "timeout_idle", "status_5xx", "bad_body",
    "cut", "stream_error", "closed",
})  # fmt: skip
# A second try on the same target would end alike; for a place at a saturated one the call has waited already.
_NOT_REPEATED = frozenset({"auth", "not_found", "tls", "bad_body", "saturated"})


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
    lenders: frozenset[str] = frozenset()  # other aliases, whose targets are among the fallbacks
    no_key: str = ""  # what is missing when none of the targets can be asked; else those that cannot are left out

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
    key_id: str = ""  # whose call it is


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
        self._config = config
        self._providers = providers
        self._targets: dict[tuple[str, str], Target] = {}
        self.routes = {alias: self._build(alias, frozenset(config.models)) for alias in config.models}
        self.outage = Outage(config, self._targets.values())
        # By alias and those of its lenders that a key may use: at most what their number allows.
        self._narrowed: dict[tuple[str, frozenset[str]], Route] = {}

    def route(self, alias: str, caller: Caller) -> Route:
        """Raises `ModelNotFound` for an unknown alias, `Forbidden` for one that the key may not use."""
        route = self.routes.get(alias)
        if route is None:
            others = [name for name in self.routes if caller.may_use(name)]
            raise ModelNotFound(unknown_model(alias, others), param="model")
        if caller.models is None:
            return route
        if alias not in caller.models:
            raise Forbidden("This API key may not use the model.", param="model")
        usable = route.lenders & caller.models
        if usable == route.lenders:
            return route
        if (alias, usable) not in self._narrowed:
            self._narrowed[alias, usable] = self._build(alias, usable)
        return self._narrowed[alias, usable]

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
        if route.no_key:
            attempts.target = route.targets[0]
            message = f"The model is unavailable: {route.no_key}."
            raise ProviderWithoutKey(message, provider=attempts.target.provider.name, kind="no_key")
        self.outage.note(attempts.key_id)
        failure: UpstreamError | None = None
        spent = False
        for target in self._order(route):
            if attempts.count >= self._retry.max_attempts:
                break
            if cancel.cancelled:
                raise ClientGone("The client hung up.")
            repeated = failure if attempts.target is target else None
            # A pause before a breaker that is open already would only delay the error.
            if repeated and (
                target.breaker.is_open(attempts.key_id) or not self._may_repeat(repeated, attempts, deadline)
            ):
                break
            if len(attempts.unanswered) >= attempts.covered:
                try:
                    cover()
                except GatewayError:
                    if failure is None:
                        raise
                    break
            if not target.breaker.allows(attempts.key_id):
                failure = failure or _not_asked(target, attempts.key_id)
                continue
            attempts.count += 1
            attempts.target = target
            try:
                answer = call(target)
            except BaseException as exc:
                billed = unanswered(target.provider.name, target.model, exc)
                if billed is not None:
                    attempts.unanswered.append(billed)
                if not isinstance(exc, UpstreamError):  # a hang-up, the worker's end, a bug
                    target.breaker.undecided(attempts.key_id)
                    raise
                failure = exc
                spent = spent or repeated is not None or not _put_off(exc)
                self._note(target, exc, attempts)
                if not exc.fall_back:
                    raise
                if self._clock() >= deadline:
                    break
            else:
                target.breaker.succeeded()
                return answer
        if failure is None:
            raise _not_asked(route.targets[0], attempts.key_id)
        if spent and (attempts.count > 1 or _is_final(failure)):
            failure.should_retry = False  # the caller's retries would multiply ours, and the vendors' bills
        raise failure

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
        if _is_final(failure):
            return False
        wait_s = self._retry.backoff_s * 2 ** (attempts.count - 1)
        # A vendor that says when to come back is not asked earlier; the caller's own retry is for longer waits.
        if failure.retry_after_s is not None and failure.retry_after_s > wait_s:
            return False
        if self._clock() + wait_s >= deadline:
            return False
        self._pause(wait_s)
        return True

    def _note(self, target: Target, failure: UpstreamError, attempts: Attempts) -> None:
        kind, breaker = failure.kind, target.breaker
        self._metrics.upstream_error(target.provider.name, kind)
        # A later attempt has only what earlier ones left of the call's time.
        if kind in _VENDORS_FAULTS or (kind == "timeout_total" and attempts.count == 1):
            breaker.failed(attempts.key_id)
        else:
            breaker.undecided(attempts.key_id)
        if kind == "rate_limited" and failure.retry_after_s:
            breaker.rest(attempts.key_id, failure.retry_after_s)
        log.warning(
            "upstream_failed", target=target.name, kind=kind, status=failure.upstream_status, attempt=attempts.count
        )

    def _build(self, alias: str, usable: Set[str]) -> Route:
        """The route for keys that may use, of the aliases that lend it fallbacks, only the `usable` ones."""
        models, model = self._config.models, self._config.models[alias]
        targets = tuple(self._target(target, alias) for target in model.targets)
        names = {target.name for target in targets}
        fallbacks: list[Target] = []
        lenders = set()
        for fallback in model.fallbacks:
            if isinstance(fallback, TargetConfig):
                found = [self._target(fallback, alias)]
            elif fallback not in models:
                found = [self._target(TargetConfig(provider=fallback), alias)]
            elif fallback in usable:
                lenders.add(fallback)
                found = [self._target(target, fallback) for target in models[fallback].targets]
            else:
                continue
            for target in found:
                if target.name not in names:
                    names.add(target.name)
                    fallbacks.append(target)
        route = Route(alias, targets, tuple(fallbacks), model.max_output_tokens, frozenset(lenders))
        return self._with_keys(route)

    def _with_keys(self, route: Route) -> Route:
        """The route without the targets whose provider's key is missing; if it has no other, it says so."""
        lacking = {name for name, provider in self._config.providers.items() if provider.has_no_key}
        targets = tuple(target for target in route.targets if target.provider.name not in lacking)
        fallbacks = tuple(target for target in route.fallbacks if target.provider.name not in lacking)
        if not targets and not fallbacks:
            return replace(route, no_key=no_key(self._config, route.targets[0].provider.name))
        # The first fallback takes the place of targets that are not there: alone, it is asked again.
        return replace(route, targets=targets or fallbacks[:1], fallbacks=fallbacks if targets else fallbacks[1:])

    def _target(self, target: TargetConfig, alias: str) -> Target:
        model = target.model or alias
        shared = self._targets.get((target.provider, model))
        breaker = shared.breaker if shared else self._breaker(self._retry)
        built = Target(self._providers[target.provider], model, target.weight, breaker)
        self._targets.setdefault((target.provider, model), built)
        return built

    def _breaker(self, retry: RetryConfig) -> Breaker:
        return Breaker(threshold=retry.breaker_threshold, cooldown_s=retry.breaker_cooldown_s, clock=self._clock)


def _by_weight(targets: Sequence[Target]) -> Target:
    weights = [target.weight for target in targets]
    return random.choices(targets, weights if any(weights) else None)[0]


def _is_final(failure: UpstreamError) -> bool:
    """Whether the same target would only fail again, or make the caller wait as long again."""
    return not failure.retry_here or failure.kind in _NOT_REPEATED


def _put_off(failure: UpstreamError) -> bool:
    """Whether the vendor did no work and need not fear a retry: it said when to come back and is left alone until then,
    or it was not asked."""
    return failure.kind == "saturated" or (failure.kind == "rate_limited" and bool(failure.retry_after_s))


def _not_asked(target: Target, key_id: str) -> UpstreamUnavailable:
    """The error of a call that `target`'s breaker does not allow."""
    wait_s = target.breaker.rests_s(key_id)
    if wait_s > 0:
        return UpstreamUnavailable(
            "The model is unavailable: its provider is limiting the gateway's calls.",
            provider=target.provider.name, kind="rate_limited", retry_after_s=wait_s,
        )  # fmt: skip
    return UpstreamUnavailable(
        "The model is unavailable: its provider keeps failing.",
        provider=target.provider.name, kind="breaker_open", retry_after_s=5,
    )  # fmt: skip
