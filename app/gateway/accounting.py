"""How a call ends: its tokens, its price, its ledger row, its figures and its log line, all from one place."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import structlog

from app.domain.charges import ChargedAttempt, totals
from app.domain.money import format_usd
from app.domain.tokens import BYTES_PER_TOKEN
from app.domain.usage import Usage
from app.errors import ClientGone, GatewayError
from app.gateway.admission import Admission, Admitted
from app.gateway.attempt_costs import AttemptCosts
from app.gateway.call import Report, RunningCall
from app.gateway.implied_usage import with_implied_usage
from app.gateway.limits import Amounts
from app.gateway.pricing import Pricing
from app.telemetry.metrics import Metrics

log = structlog.get_logger()


class Accounting:
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
        """Whatever ends the block early also ends the call in the ledger, exactly once.

        Unless the error is one for which it `stays_open`: a queued call that will be tried again.
        """
        return Settling(self, call, stays_open)

    def requeued(self) -> None:
        """The call does not run for now, and will be tried again."""
        self._metrics.add_active_calls(-1)

    def cover(self, call: RunningCall) -> None:
        """Reserves money for one more attempt, and notes for the reaper what those before it cost.

        Raises `BudgetExceeded`, `StoreUnavailable`.
        """
        ask = call.admitted.ask
        likely = ask.row["prompt_tokens"], ask.row["completion_tokens"]
        charged = [*self.charged(call), ChargedAttempt("", "", "lost", *likely, ask.if_lost.nanousd, True)]
        total = totals(charged)
        if_lost = Amounts(1, total.prompt_tokens + total.completion_tokens, total.cost_nanousd)
        row = {**ask.row, **total._asdict(), "charged_attempts": charged}
        attempts = call.attempts
        while attempts.reserved <= len(attempts.unanswered):  # more than one behind when workers died in between
            number = len(call.earlier) + attempts.reserved + 1
            self._admission.cover(call.admitted, number, if_lost=if_lost, row=row)
            attempts.reserved += 1

    def charged(self, call: RunningCall) -> list[ChargedAttempt]:
        """The attempts so far that gave no answer and may be billed all the same."""
        if not call.attempts.unanswered:
            return list(call.earlier)
        completion_tokens: int = call.row["completion_tokens"]
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
        """The call was answered in full. `keep` goes into the cache. Returns its cost in nano-dollars."""
        counted = usage or self.estimate(call, text_bytes, chunks)
        return self._settle(call, "ok", 200, counted, keep=keep, ttl_s=ttl_s)

    def completed_from_cache(self, call: RunningCall) -> int:
        """The call was answered from the cache: no tokens, no cost."""
        return self._settle(call, "ok", 200, Usage())

    def failed(
        self,
        call: RunningCall,
        status: str,
        http_status: int,
        error: GatewayError | None = None,
        *,
        usage: Usage | None = None,
    ) -> None:
        """The call failed or was hung up on. `usage` is what was streamed until then; attempts that never answered are
        charged besides: the provider has read the prompt, and may have written (docs/clients.md, bug 1)."""
        self._settle(call, status, http_status, usage or Usage(), error)

    def discarded(self, admitted: Admitted, charged: list[ChargedAttempt], status: str, http_status: int) -> None:
        """A queued call ended without an answer. `charged` is what it had cost by then."""
        row = admitted.ask.row
        total = totals(charged)
        row.update(**total._asdict(), status=status, http_status=http_status, estimated=bool(charged))
        if charged:
            row["charged_attempts"] = charged
        self._admission.settle(
            admitted, Amounts(1, total.prompt_tokens + total.completion_tokens, total.cost_nanousd), row
        )
        self._metrics.observe_call(
            (row["model"], "cache", status),
            Usage(total.prompt_tokens, total.completion_tokens),
            cost_nanousd=total.cost_nanousd,
            duration_s=0.0,
            ttft_s=None,
        )

    def report(self, call: RunningCall, cost_nanousd: int | None) -> Report:
        target = call.attempts.target
        return Report(
            call.route.alias,
            target.provider.name if target else "cache",
            call.cache,
            call.attempts.count,
            (self._clock() - call.started) * 1000,
            call.admitted.remaining,
            cost_nanousd,
            call.context.notes,
        )

    def estimate(self, call: RunningCall, text_bytes: int, chunks: int) -> Usage:
        """What an answer used whose provider did not say."""
        # Most providers send a token a chunk; those that send more are caught by the length of the text.
        return Usage(
            call.request.estimate_prompt_tokens_closely(), max(chunks, text_bytes // BYTES_PER_TOKEN), estimated=True
        )

    def _settle(
        self,
        call: RunningCall,
        status: str,
        http_status: int,
        usage: Usage,
        error: GatewayError | None = None,
        *,
        keep: bytes = b"",
        ttl_s: int = 0,
    ) -> int:
        if call.settled:
            return 0
        call.settled = True
        target = call.attempts.target
        provider, upstream_model = (target.provider.name, target.model) if target else ("cache", "")
        cost: int | None = 0
        if target and usage.total_tokens:
            usage = with_implied_usage(usage, call.request, upstream_model)
            cost = self._costs.answered(call.request, provider, upstream_model, usage)
        row = call.row
        row["unpriced"] = cost is None or not self._costs.knows(provider, upstream_model, usage)
        cost = cost or 0
        if call.attempts.unanswered or call.earlier:
            charged = self.charged(call)
            if usage.total_tokens:
                charged.append(ChargedAttempt(provider, upstream_model, status, *usage[:2], cost, usage.estimated))
            row["charged_attempts"] = charged
            row["unpriced"] = row["unpriced"] or any(attempt.unpriced for attempt in charged)
            prompt_tokens, completion_tokens, cost = totals(charged)
            usage = usage._replace(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, estimated=True)
        latency_s = self._clock() - call.started
        row.update(
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
            **usage.recorded(),
        )
        used = Amounts(1, usage.total_tokens, cost)
        self._admission.settle(call.admitted, used, row, answer=keep, ttl_s=ttl_s)
        self._tell(call, status, error, usage, cost, latency_s, provider)
        return cost

    def _tell(
        self,
        call: RunningCall,
        status: str,
        error: GatewayError | None,
        usage: Usage,
        cost: int,
        latency_s: float,
        provider: str,
    ) -> None:
        model = call.route.alias
        self._metrics.add_active_calls(-1)
        self._metrics.count_cache_result(call.cache)
        self._metrics.observe_call(
            (model, provider, status), usage, cost_nanousd=cost, duration_s=latency_s, ttft_s=call.ttft_s
        )
        tell, event = (log.info, "llm_request_completed") if status == "ok" else (log.warning, "llm_request_failed")
        if call.context.notes:
            tell = partial(tell, tags=call.context.tags)
        tell(
            event,
            request_id=call.context.request_id,
            model=model,
            provider=provider,
            status=status,
            key_id=call.caller.key_id,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cost_usd=format_usd(cost),
            latency_ms=call.row["latency_ms"],
            attempts=call.attempts.count,
            cache=call.cache,
            streamed=call.streamed,
            estimated=usage.estimated,
            code=error.code if error else None,
        )


class Settling:
    """The block in which a call runs. A class: a generator's context manager takes three times as long."""

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
