"""From a route to an answer: which of its targets, in which order, and what to do when one fails.

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
from app.errors import ClientGone, GatewayError, ProviderWithoutKey, UpstreamError, UpstreamUnavailable
from app.gateway.attempt_costs import Unanswered, unanswered
from app.gateway.outage import OutageDetector
from app.gateway.routes import Route, Routes, Target
from app.providers.base import CancelToken, Provider
from app.telemetry.metrics import Metrics

log = structlog.get_logger()
T = TypeVar("T")
# What says that the vendor is not well. Not a 429 or our own limits, and no refusal: a vendor that answers 401, 403 or
# 404 costs nobody time, a closed breaker would hide why, and the caller can be the reason (a file that does not exist,
# words that the vendor does not serve).
_VENDORS_FAULTS = frozenset(
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
# A second try on the same target would end alike; for a place at a saturated one the call has waited already.
_NOT_REPEATED = frozenset({"auth", "not_found", "tls", "bad_body", "saturated"})


class Attempts(msgspec.Struct):
    """How a call went so far: filled in by the router, read for headers, the row and the logs.

    `reserved`: for how many attempts that may cost something money is reserved.
    """

    count: int = 0
    target: Target | None = None
    unanswered: list[Unanswered] = msgspec.field(default_factory=list)
    reserved: int = 1
    key_id: str = ""  # whose call it is

    def record_failure(self, target: Target, exc: BaseException) -> None:
        billed = unanswered(target.provider.name, target.model, exc)
        if billed is not None:
            self.unanswered.append(billed)


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
        routes = Routes(config=config, providers=providers, clock=clock)
        self.route, self.routes, self.states = routes.resolve, routes.by_alias, routes.states
        self.outage = OutageDetector(config, routes.targets)

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

        `reserve_attempt` reserves money for one more attempt, after one that the provider may bill. What it raises when
        there is none left is raised only if there is no failure to tell of.
        """
        if route.missing_key:
            attempts.target = route.targets[0]
            raise _without_key(route)
        self.outage.record_caller(attempts.key_id)
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
            if len(attempts.unanswered) >= attempts.reserved and not _reserved(reserve_attempt, failure):
                break
            if not target.breaker.allows(attempts.key_id):
                failure = failure or _not_asked(target, attempts.key_id)
                continue
            attempts.count += 1
            attempts.target = target
            try:
                answer = call(target)
            except BaseException as exc:
                attempts.record_failure(target, exc)
                if not isinstance(exc, UpstreamError):  # a hang-up, the worker's end, a bug
                    target.breaker.release_probe(attempts.key_id)
                    raise
                failure = exc
                spent = spent or repeated is not None or not _put_off(exc)
                self._note(target, exc, attempts)
                if not exc.fall_back:
                    raise
                if self._clock() >= deadline:
                    break
            else:
                target.breaker.record_success()
                return answer
        failure = failure or _not_asked(route.targets[0], attempts.key_id)
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


def _by_weight(targets: Sequence[Target]) -> Target:
    weights = [target.weight for target in targets]
    return random.choices(targets, weights if any(weights) else None)[0]


def _reserved(reserve_attempt: Callable[[], None], failure: UpstreamError | None) -> bool:
    """Whether `reserve_attempt` found the money. Raises what it raises if there is no failure to tell of instead."""
    try:
        reserve_attempt()
    except GatewayError:
        if failure is None:
            raise
        return False
    return True


def _is_final(failure: UpstreamError) -> bool:
    """Whether the same target would only fail again, or make the caller wait as long again."""
    return not failure.retry_here or failure.kind in _NOT_REPEATED


def _put_off(failure: UpstreamError) -> bool:
    """Whether the vendor did no work and need not fear a retry: it said when to come back and is left alone until then,
    or it was not asked."""
    return failure.kind == "saturated" or (failure.kind == "rate_limited" and bool(failure.retry_after_s))


def _not_asked(target: Target, key_id: str) -> UpstreamUnavailable:
    """The error of a call that `target`'s breaker does not allow."""
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
