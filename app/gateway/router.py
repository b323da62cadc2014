"""Router: chooses the target of each attempt of a call, and retries and falls back when one fails.

Order: one target drawn by weight, then the other targets by weight, then the fallbacks as written. A single
target is tried again after a short pause. What the caller did wrong (the provider's 400) is never retried.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
import structlog

from app.config.gateway import GatewayConfig
from app.domain.identity import Caller
from app.errors import (
    ClientGone,
    GatewayError,
    ProviderWithoutKey,
    Untranslatable,
    UpstreamError,
    UpstreamUnavailable,
)
from app.gateway.attempt_costs import Unanswered, unanswered
from app.gateway.outage import OutageDetector
from app.gateway.routes import Route, Routes, Target
from app.providers.base import CancelToken, Provider
from app.telemetry.metrics import Metrics

log = structlog.get_logger()
T = TypeVar("T")
# Failures that count against the vendor. Not a 429 or our own limits, and no refusal: a vendor that answers 401, 403 or
# 404 costs nobody time, an open breaker would hide why, and the caller can be the reason (a file that does not exist,
# words that the vendor does not serve).
_VENDOR_FAULTS = frozenset(
    {
        "connect",
        "tls",
        "resolve",
        "timeout_connect",
        "timeout_first_byte",
        "timeout_idle",
        "status_5xx",
        "bad_body",
        "cut",
        "stream_error",
        "closed",
    }
)
# A second try on the same target would end alike; a call has waited already for a place at a saturated one.
_NOT_REPEATED = frozenset({"auth", "not_found", "tls", "bad_body", "saturated"})


class Attempts(msgspec.Struct):
    """The upstream attempts of a call so far. Mutable: the router fills it in; headers, row and logs are made of it.

    `reserved` is the number of attempts that may cost something for which money is reserved.
    """

    count: int = 0
    target: Target | None = None
    unanswered: list[Unanswered] = msgspec.field(default_factory=list)
    reserved: int = 1
    key_id: str = ""  # the caller's

    def record_failure(self, target: Target, exc: BaseException) -> None:
        """Adds the attempt to `unanswered` if its provider may bill it."""
        billed = unanswered(target.provider.name, target.model, exc)
        if billed is not None:
            self.unanswered.append(billed)


class Router:
    """Routes calls by the aliases of the configuration. `draw` picks one of several targets, by weight unless given."""

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
        self._draw = draw or _draw_by_weight
        self._pause = pause
        self._routes = Routes(config=config, providers=providers, clock=clock)
        self.outage = OutageDetector(config, self._routes.targets)

    @property
    def routes(self) -> Mapping[str, Route]:
        """Every route by its alias, for keys that may use all models."""
        return self._routes.by_alias

    def route(self, alias: str, caller: Caller) -> Route:
        """Returns the caller's route for `alias`. Raises `ModelNotFound`, or `Forbidden` if the key may not use it."""
        return self._routes.resolve(alias, caller)

    def states(self) -> dict[str, str]:
        """Returns each target's breaker state, by `provider/model`."""
        return self._routes.states()

    def run(
        self,
        route: Route,
        attempts: Attempts,
        deadline: float,
        cancel: CancelToken,
        call: Callable[[Target], T],
        *,
        reserve_attempt: Callable[[], None] = lambda: None,
    ) -> T:
        """Runs `call` on the route's targets until one answers. Raises the last `UpstreamError`, or `ClientGone`.

        Raises `Untranslatable` when no target was asked because none understands the request.

        `reserve_attempt` reserves money for one more attempt, after one that the provider may bill. What it raises when
        there is none left is raised only if there is no failure to report.
        """
        if route.missing_key:
            attempts.target = route.targets[0]
            raise _without_key(route)
        self.outage.record_caller(attempts.key_id)
        failure: UpstreamError | None = None
        untranslatable: Untranslatable | None = None
        did_work = False
        for target in self._order(route):
            if attempts.count >= self._retry.max_attempts:
                break
            if cancel.cancelled:
                raise ClientGone("The client hung up.")
            if untranslatable is not None and attempts.target is target:
                break
            repeated = failure if attempts.target is target else None
            # A pause before a breaker that is open already would only delay the error.
            if repeated and (
                target.breaker.is_open(attempts.key_id) or not self._may_repeat(repeated, attempts, deadline)
            ):
                break
            if len(attempts.unanswered) >= attempts.reserved and not _try_reserve(reserve_attempt, failure):
                break
            if not target.breaker.allows(attempts.key_id):
                failure = failure or _refused_by_breaker(target, attempts.key_id)
                continue
            try:
                return self._attempt(target, attempts, call)
            except Untranslatable as exc:
                untranslatable = exc
                attempts.count -= 1  # nothing was sent
            except UpstreamError as exc:
                failure = exc
                did_work = did_work or repeated is not None or not _is_deferral(exc)
                if not exc.fall_back:
                    raise
                if self._clock() >= deadline:
                    break
        if failure is None and untranslatable is not None:
            raise untranslatable
        failure = failure or _refused_by_breaker(route.targets[0], attempts.key_id)
        if did_work and (attempts.count > 1 or _is_final(failure)):
            failure.should_retry = False  # the caller's retries would multiply ours, and the vendors' bills
        raise failure

    def _attempt(self, target: Target, attempts: Attempts, call: Callable[[Target], T]) -> T:
        """Makes one attempt, and records how it ended: with the target's breaker, and in `attempts`."""
        attempts.count += 1
        attempts.target = target
        try:
            answer = call(target)
        except BaseException as exc:
            attempts.record_failure(target, exc)
            if isinstance(exc, UpstreamError):
                self._record_failure(target, exc, attempts)
            else:  # a hang-up, the worker's end, a bug
                target.breaker.release_probe(attempts.key_id)
            raise
        target.breaker.record_success()
        return answer

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
        """Returns whether the target that just failed may be asked again; if so, after a pause."""
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

    def _record_failure(self, target: Target, failure: UpstreamError, attempts: Attempts) -> None:
        kind, breaker = failure.kind, target.breaker
        self._metrics.count_upstream_error(target.provider.name, kind)
        # A later attempt has only what earlier ones left of the call's time.
        if kind in _VENDOR_FAULTS or (kind == "timeout_total" and attempts.count == 1):
            breaker.record_failure(attempts.key_id)
        else:
            breaker.release_probe(attempts.key_id)
        if kind == "rate_limited" and failure.retry_after_s:
            breaker.hold_off(attempts.key_id, failure.retry_after_s)
        log.warning(
            "upstream_failed", target=target.name, kind=kind, status=failure.upstream_status, attempt=attempts.count
        )


def _without_key(route: Route) -> ProviderWithoutKey:
    provider = route.targets[0].provider.name
    return ProviderWithoutKey(f"The model is unavailable: {route.missing_key}.", provider=provider, kind="no_key")


def _draw_by_weight(targets: Sequence[Target]) -> Target:
    weights = [target.weight for target in targets]
    return random.choices(targets, weights if any(weights) else None)[0]


def _try_reserve(reserve_attempt: Callable[[], None], failure: UpstreamError | None) -> bool:
    """Returns whether the money could be reserved. Raises what `reserve_attempt` raises if there is no `failure`."""
    try:
        reserve_attempt()
    except GatewayError:
        if failure is None:
            raise
        return False
    return True


def _is_final(failure: UpstreamError) -> bool:
    """Returns whether the same target would only fail again, or make the caller wait as long again."""
    return not failure.retry_here or failure.kind in _NOT_REPEATED


def _is_deferral(failure: UpstreamError) -> bool:
    """Returns whether the vendor did no work and need not fear a retry.

    Either it said when to come back and is left alone until then, or it was not asked.
    """
    return failure.kind == "saturated" or (failure.kind == "rate_limited" and bool(failure.retry_after_s))


def _refused_by_breaker(target: Target, key_id: str) -> UpstreamUnavailable:
    wait_s = target.breaker.hold_off_s(key_id)
    if wait_s > 0:
        return UpstreamUnavailable(
            "The model is unavailable: its provider is limiting the gateway's calls.",
            provider=target.provider.name,
            kind="rate_limited",
            retry_after_s=wait_s,
        )
    return UpstreamUnavailable(
        "The model is unavailable: its provider keeps failing.",
        provider=target.provider.name,
        kind="breaker_open",
        retry_after_s=5,
    )
