"""Accounting: the price, ledger row, metrics and log line of every call that ends, however it ends."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import structlog
from msgspec.structs import replace

from app.domain.charges import ChargedAttempt, totals
from app.domain.limits import Amounts
from app.domain.media import MediaRequest
from app.domain.money import format_usd
from app.domain.tokens import BYTES_PER_TOKEN
from app.domain.usage import Status, Usage, UsageRow
from app.errors import ClientGone, GatewayError
from app.gateway.admission import Admission
from app.gateway.attempt_costs import AnswerCost, AttemptCosts
from app.gateway.call import Report, RunningCall
from app.gateway.pricing import Pricing
from app.store.reservations import Reservation
from app.telemetry.metrics import Metrics

log = structlog.get_logger()
_MAX_LISTED_PATHS, _MAX_LISTED_CHARS = 50, 1000


class Accounting:
    """Settles calls, each exactly once."""

    def __init__(
        self,
        *,
        admission: Admission,
        pricing: Pricing,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admission = admission
        self._costs = AttemptCosts(pricing)
        self._metrics = metrics
        self._clock = clock

    def settling(self, call: RunningCall, stays_open: Callable[[GatewayError], bool] = lambda _: False) -> Settling:
        """Returns a context manager that settles the call when an error ends its block.

        Unless the error is one for which it `stays_open`: a queued call that will be tried again.
        """
        return Settling(self, call, stays_open)

    def requeued(self) -> None:
        """Counts a call as no longer running, that will be tried again."""
        self._metrics.add_active_calls(-1)

    def cover(self, call: RunningCall) -> None:
        """Reserves money for one more attempt, and records for the reaper the cost of those before it.

        Raises `BudgetExceeded`, `StoreUnavailable`.
        """
        reservation, attempts = call.reservation, call.attempts
        likely = reservation.row
        charged = self.charged(call)
        charged.append(
            ChargedAttempt(
                "", "", "lost", likely.prompt_tokens, likely.completion_tokens, reservation.if_lost.nanousd, True
            )
        )
        total = totals(charged)
        extended = replace(
            reservation,
            if_lost=Amounts(1, total.total_tokens, total.cost_nanousd),
            row=replace(likely, **total._asdict(), charged_attempts=charged),
        )
        while attempts.reserved <= len(attempts.unanswered):  # more than one behind when workers died in between
            self._admission.cover(extended, len(call.earlier) + attempts.reserved + 1)
            attempts.reserved += 1

    def charged(self, call: RunningCall) -> list[ChargedAttempt]:
        """Returns the attempts so far that gave no answer and may be billed all the same."""
        if not call.attempts.unanswered:
            return list(call.earlier)
        completion_tokens = call.reservation.row.completion_tokens
        attempts = call.attempts.unanswered
        new = self._costs.unanswered(call.request, attempts, completion_tokens, ceiling=call.has_budget)
        return [*call.earlier, *new]

    def completed(
        self,
        call: RunningCall,
        usage: Usage | None,
        *,
        text_bytes: int = 0,
        chunks: int = 0,
        keep: bytes = b"",
        ttl_s: int = 0,
    ) -> int:
        """Settles a call that was answered in full. `keep` goes into the cache. Returns its cost in nano-dollars."""
        counted = usage or self.estimate(call, text_bytes, chunks)
        return self._settle(call, "ok", 200, counted, keep=keep, ttl_s=ttl_s)

    def completed_from_cache(self, call: RunningCall) -> int:
        """Settles a call that was answered from the cache: no tokens, no cost."""
        return self._settle(call, "ok", 200, Usage())

    def failed(
        self,
        call: RunningCall,
        status: Status,
        http_status: int,
        error: GatewayError | None = None,
        *,
        usage: Usage | None = None,
    ) -> None:
        """Settles a call that failed or was hung up on. `usage` is of what was streamed until then; attempts that never
        answered are charged besides: the provider has read the prompt, and may have written (docs/clients.md, bug 1).
        """
        self._settle(call, status, http_status, usage or Usage(), error)

    def discarded(
        self, reservation: Reservation, charged: list[ChargedAttempt], status: Status, http_status: int
    ) -> None:
        """Settles a queued call that ended without an answer. `charged` is what it had cost by then."""
        total = totals(charged)
        row = replace(
            reservation.row,
            **total._asdict(),
            status=status,
            http_status=http_status,
            estimated=bool(charged),
            charged_attempts=charged,
        )
        self._admission.settle(reservation, Amounts(1, total.total_tokens, total.cost_nanousd), row)
        self._metrics.observe_call(
            (row.model, "cache", status),
            Usage(total.prompt_tokens, total.completion_tokens),
            cost_nanousd=total.cost_nanousd,
            duration_s=0.0,
            ttft_s=None,
        )

    def report(self, call: RunningCall, cost_nanousd: int | None) -> Report:
        """Returns what the caller is told. `cost_nanousd` is None while a stream still runs."""
        target = call.attempts.target
        return Report(
            call.route.alias,
            target.provider.name if target else "cache",
            call.cache,
            call.attempts.count,
            (self._clock() - call.started) * 1000,
            call.admitted.remaining,
            cost_nanousd,
            (*call.context.notes, ("dropped", _listed(call.dropped))) if call.dropped else call.context.notes,
        )

    def estimate(self, call: RunningCall, text_bytes: int, chunks: int) -> Usage:
        """Returns the likely usage of an answer whose provider did not report it."""
        if isinstance(call.request, MediaRequest):
            return call.request.estimate_usage()
        # Most providers send a token a chunk; those that send more are caught by the length of the text.
        return Usage(
            call.request.estimate_prompt_tokens_closely(), max(chunks, text_bytes // BYTES_PER_TOKEN), estimated=True
        )

    def _settle(
        self,
        call: RunningCall,
        status: Status,
        http_status: int,
        usage: Usage,
        error: GatewayError | None = None,
        *,
        keep: bytes = b"",
        ttl_s: int = 0,
    ) -> int:
        """Settles the call unless that has happened. Returns its cost in nano-dollars, 0 the second time."""
        if call.settled:
            return 0
        call.settled = True
        target = call.attempts.target
        provider, upstream_model = (target.provider.name, target.model) if target else ("cache", "")
        bill = self._bill(call, provider, upstream_model, status, usage)
        usage, cost = bill.usage, bill.cost_nanousd
        latency_s = self._clock() - call.started
        row = replace(
            call.reservation.row,
            provider=provider,
            upstream_model=upstream_model,
            status=status,
            http_status=http_status,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cost_nanousd=cost,
            latency_ms=round(latency_s * 1000, 3),
            ttft_ms=None if call.ttft_s is None else round(call.ttft_s * 1000, 3),
            attempts=call.attempts.count,
            cache=call.cache,
            estimated=usage.estimated,
            unpriced=bill.unpriced,
            charged_attempts=bill.charged,
            price_version=bill.price_version,
            computed_cost_nanousd=bill.computed_nanousd,
            **usage.recorded(),
        )
        used = Amounts(1, usage.total_tokens, cost)
        self._admission.settle(call.reservation, used, row, answer=keep, ttl_s=ttl_s)
        self._metrics.add_active_calls(-1)
        self._metrics.count_cache_result(call.cache)
        labels = call.route.alias, provider, status
        self._metrics.observe_call(labels, usage, cost_nanousd=cost, duration_s=latency_s, ttft_s=call.ttft_s)
        _log(call, row, error)
        return cost

    def _bill(self, call: RunningCall, provider: str, upstream_model: str, status: Status, usage: Usage) -> _Bill:
        """Prices `usage`, and with it the attempts that gave no answer."""
        answer = AnswerCost(usage)
        billed = usage.total_tokens or usage.details is not None or usage.reported_cost_nanousd is not None
        if call.attempts.target and billed:
            answer = self._costs.of_answer(call.request, provider, upstream_model, usage)
            usage = answer.usage
        _, cost, unpriced, version, computed = answer
        if not (call.attempts.unanswered or call.earlier):
            return _Bill(usage, cost, unpriced, [], version, computed)
        charged = self.charged(call)
        if usage.total_tokens:
            charged.append(ChargedAttempt(provider, upstream_model, status, *usage[:2], cost, usage.estimated))
        total = totals(charged)
        return _Bill(
            usage._replace(
                prompt_tokens=total.prompt_tokens, completion_tokens=total.completion_tokens, estimated=True
            ),
            total.cost_nanousd,
            unpriced or any(attempt.unpriced for attempt in charged),
            charged,
            version,
            computed,
        )


class _Bill(NamedTuple):
    """The price of a call: `charged` are its attempts, where there were more than the one that answered."""

    usage: Usage
    cost_nanousd: int
    unpriced: bool
    charged: list[ChargedAttempt]
    price_version: str
    computed_nanousd: int | None


def _listed(paths: tuple[str, ...]) -> str:
    """Returns paths of a request as a header says them. The caller wrote them: only their plain characters are kept."""
    return re.sub(r"[^\w.,\[\]-]", "", ",".join(paths[:_MAX_LISTED_PATHS]), flags=re.ASCII)[:_MAX_LISTED_CHARS]


def _log(call: RunningCall, row: UsageRow, error: GatewayError | None) -> None:
    write, event = (log.info, "llm_request_completed") if row.status == "ok" else (log.warning, "llm_request_failed")
    if row.tags:
        write = partial(write, tags=row.tags)
    write(
        event,
        request_id=row.request_id,
        model=call.route.alias,
        provider=row.provider,
        status=row.status,
        key_id=row.key_id,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        cost_usd=format_usd(row.cost_nanousd),
        latency_ms=row.latency_ms,
        attempts=row.attempts,
        cache=row.cache,
        streamed=row.streamed,
        estimated=row.estimated,
        code=error.code if error else None,
    )


class Settling:
    """Context manager of the block in which a call runs. A generator's context manager takes three times as long."""

    __slots__ = ("_accounting", "_call", "_stays_open")

    def __init__(self, accounting: Accounting, call: RunningCall, stays_open: Callable[[GatewayError], bool]) -> None:
        self._accounting = accounting
        self._call = call
        self._stays_open = stays_open

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if exc is None:
            return
        if not isinstance(exc, GatewayError):  # a bug or the worker's end: the row must be written all the same
            self._accounting.failed(self._call, "error", 500)
        elif self._stays_open(exc):
            self._accounting.requeued()
        elif isinstance(exc, ClientGone):
            self._accounting.failed(self._call, "aborted", ClientGone.status)
        else:
            self._accounting.failed(self._call, "error", exc.status, exc)
