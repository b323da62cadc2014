"""The life of a call, top to bottom: preprocess, admit, look in the cache, route, answer, settle."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

from app.config.gateway import GatewayConfig
from app.domain.chat import ChatRequest, EmbedRequest
from app.domain.identity import Caller
from app.errors import GatewayError, RateLimited
from app.gateway import chunks
from app.gateway.accounting import Accounting
from app.gateway.admission import Admission, AdmissionRequest, Admitted
from app.gateway.cache import Cache, as_cache_hit
from app.gateway.call import CallContext, Reply, RunningCall, notes_of
from app.gateway.deferred import DeferredCall
from app.gateway.estimates import Estimator, output_tokens_bound
from app.gateway.heartbeat import QUEUE, reservations_of
from app.gateway.limits import Amounts
from app.gateway.preprocess import Preprocessor
from app.gateway.pricing import Pricing
from app.gateway.router import Attempts, Router
from app.gateway.routes import Route, Target
from app.gateway.stream import CachedStream, LiveStream
from app.providers.base import CancelToken, ChatCall, EmbedCall
from app.telemetry.metrics import Metrics

T = TypeVar("T")


class Pipeline:
    def __init__(
        self,
        *,
        config: GatewayConfig,
        admission: Admission,
        router: Router,
        cache: Cache,
        pricing: Pricing,
        accounting: Accounting,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._admission = admission
        self._router = router
        self._preprocessor = Preprocessor(config=config, router=router)
        self._cache = cache
        self._estimator = Estimator(pricing=pricing, completion_tokens=config.reserve.completion_tokens)
        self._accounting = accounting
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic

    def preprocess(self, caller: Caller, request: ChatRequest, context: CallContext) -> tuple[ChatRequest, CallContext]:
        """Turns what the caller wrote into the call that is made, and notes in its context what was changed."""
        return self._preprocessor.preprocess(caller, request, context)

    def chat(self, caller: Caller, request: ChatRequest, context: CallContext) -> Reply:
        """A chat completion. Raises what admission, routing and providers raise; the row is written all the same."""
        request, context = self.preprocess(caller, request, context)
        call = self._admit(caller, request, context, context.endpoint)
        with self._accounting.settling(call):
            return self._chat(call)

    def stream(self, caller: Caller, request: ChatRequest, context: CallContext) -> LiveStream | CachedStream:
        """A streamed chat completion, returned when its first chunk is there. Its `close` must be called."""
        request, context = self.preprocess(caller, request, context)
        call = self._admit(caller, request, context, context.endpoint, streamed=True)
        with self._accounting.settling(call):
            cached = self._cache.lookup(call.admitted, call.deadline, context.cancel)
            if cached is not None:
                reply = self._from_cache(call, cached)
                return CachedStream(
                    chunks.from_completion(reply.body, include_usage=request.include_usage), reply.report
                )
            upstream = self._run(call, lambda target: target.provider.stream(_attempt(call, target)))
            call.ttft_s = self._monotonic() - call.started
            return LiveStream(
                call=call,
                upstream=upstream,
                accounting=self._accounting,
                report=self._accounting.report(call, None),
                keep_ttl_s=self._cache.ttl_s,
                keep_bytes=self._cache.max_entry_bytes if self._keeps(call) else 0,
                not_kept=lambda: self._cache.mark_uncacheable(call.admitted),
            )

    def embed(self, caller: Caller, request: EmbedRequest, context: CallContext) -> Reply:
        """Embeddings. Never cached."""
        call = self._admit(caller, request, context, "embeddings")
        with self._accounting.settling(call):
            return self._embed(call)

    def defer(
        self,
        caller: Caller,
        request: ChatRequest | EmbedRequest,
        context: CallContext,
        *,
        for_s: float,
        reservations: str = "",
    ) -> DeferredCall:
        """Admits a call that another process runs within `for_s` seconds: `resume` or `abandon` then ends it.

        `request` and `context` are as `preprocess` returned them. The reservation is this process's own, and lost with
        it, unless `reservations` names others to put it among.
        """
        route = self._router.route(request.model, caller)
        request = self._understood(caller, request)
        ask = self._ask(caller, request, context, route, endpoint_of(request), streamed=False)
        ask.row["job_id"] = context.call_id
        ask.deadline_s, ask.queued, ask.read_cache, ask.single_flight = for_s, True, False, False
        ask.reservations = reservations
        admitted = self._let_in(caller, ask)
        return DeferredCall.of(admitted, read_cache=context.read_cache, write_cache=context.write_cache)

    def resume(
        self,
        caller: Caller,
        request: ChatRequest | EmbedRequest,
        held: DeferredCall,
        cancel: CancelToken,
        *,
        stays_open: Callable[[GatewayError], bool],
    ) -> Reply:
        """Runs a held call, once more if need be: an error for which it `stays_open` leaves it to be resumed again."""
        started = self._monotonic()
        admitted = held.admitted(caller)
        row = held.row
        context = CallContext(
            row["request_id"], row["call_id"], cancel, held.read_cache, held.write_cache, notes=notes_of(row["tags"])
        )
        reads = bool(held.cache_key) and held.read_cache
        try:
            request = self._understood(caller, request)
            route = self._router.route(request.model, caller)
            admitted.cached = self._cache.get(held.cache_key) if reads else None
        except GatewayError as exc:
            if not stays_open(exc):
                self.abandon(held, "error", exc.status)
            raise
        self._metrics.add_active_calls(1)
        call = RunningCall(
            context=context,
            caller=caller,
            request=request,
            route=route,
            endpoint=row["endpoint"],
            streamed=False,
            row=row,
            admitted=admitted,
            cache="miss" if reads else "bypass",
            started=started,
            deadline=started + self._config.timeouts.total_s,
            earlier=tuple(held.charged),
            attempts=Attempts(reserved=held.covered - len(held.charged), key_id=caller.key_id),
        )
        try:
            with self._accounting.settling(call, stays_open):
                return self._chat(call) if isinstance(request, ChatRequest) else self._embed(call)
        finally:
            if not call.settled:
                held.charged = self._accounting.charged(call)
                held.covered = len(call.earlier) + call.attempts.reserved

    def abandon(self, held: DeferredCall, status: str, http_status: int) -> None:
        """Ends a held call that will not run, or not once more."""
        self._accounting.discarded(held.admitted(Caller(held.row["key_id"], "")), held.charged, status, http_status)

    def cancel(self, held: DeferredCall) -> None:
        """Ends a held call that was never to be: its caller was told so. It leaves no row."""
        self._admission.cancel(held.admitted(Caller(held.row["key_id"], "")), reservations_of(QUEUE))

    def _run(self, call: RunningCall, attempt: Callable[[Target], T]) -> T:
        return self._router.run(
            call.route,
            call.attempts,
            call.deadline,
            call.context.cancel,
            attempt,
            reserve_attempt=partial(self._accounting.cover, call),
        )

    def _chat(self, call: RunningCall) -> Reply:
        context = call.context
        cached = self._cache.lookup(call.admitted, call.deadline, context.cancel)
        if cached is not None:
            return self._from_cache(call, cached)
        answer = self._run(call, lambda target: target.provider.chat(_attempt(call, target)))
        keep = self._cache.cacheable(call.admitted, answer.body) if self._keeps(call) else b""
        cost = self._accounting.completed(
            call, answer.usage, text_bytes=answer.text_bytes, keep=keep, ttl_s=self._cache.ttl_s
        )
        return Reply(answer.body, self._accounting.report(call, cost))

    def _embed(self, call: RunningCall) -> Reply:
        answer = self._run(call, lambda target: target.provider.embed(_embedding(call, target)))
        cost = self._accounting.completed(call, answer.usage)
        return Reply(answer.body, self._accounting.report(call, cost))

    def _from_cache(self, call: RunningCall, cached: bytes) -> Reply:
        call.cache = "hit"
        cost = self._accounting.completed_from_cache(call)
        body = as_cache_hit(cached, call_id=call.context.call_id, created=int(self._clock()))
        return Reply(body, self._accounting.report(call, cost))

    def _keeps(self, call: RunningCall) -> bool:
        return bool(call.admitted.ask.cache_key) and call.context.write_cache

    def _admit(
        self,
        caller: Caller,
        request: ChatRequest | EmbedRequest,
        context: CallContext,
        endpoint: str,
        *,
        streamed: bool = False,
    ) -> RunningCall:
        started = self._monotonic()
        route = self._router.route(request.model, caller)
        request = self._understood(caller, request)
        ask = self._ask(caller, request, context, route, endpoint, streamed=streamed)
        admitted = self._let_in(caller, ask)
        self._metrics.add_active_calls(1)
        return RunningCall(
            context=context,
            caller=admitted.caller,
            request=request,
            route=route,
            endpoint=endpoint,
            streamed=streamed,
            row=ask.row,
            admitted=admitted,
            cache="miss" if ask.read_cache else "bypass",
            started=started,
            deadline=started + self._config.timeouts.total_s,
            attempts=Attempts(key_id=caller.key_id),
        )

    def _ask(
        self,
        caller: Caller,
        request: ChatRequest | EmbedRequest,
        context: CallContext,
        route: Route,
        endpoint: str,
        *,
        streamed: bool,
    ) -> AdmissionRequest:
        has_budget = self._admission.plan(caller).has_budget
        reserve, if_lost = self._estimator.estimate(route, request, has_budget=has_budget)
        cache_key = self._cache.key(caller, request) if isinstance(request, ChatRequest) else ""
        return AdmissionRequest(
            call_id=context.call_id,
            row=self._row(caller, request, context, endpoint, streamed, if_lost),
            reserve=reserve,
            if_lost=if_lost,
            deadline_s=self._config.timeouts.total_s + 5,
            cache_key=cache_key,
            read_cache=bool(cache_key) and context.read_cache,
            single_flight=bool(cache_key) and context.read_cache and context.write_cache,
        )

    def _understood(self, caller: Caller, request: ChatRequest | EmbedRequest) -> ChatRequest | EmbedRequest:
        """The request as it may be made: where money is limited, with nothing in it whose cost nobody knows."""
        if isinstance(request, ChatRequest) and self._admission.plan(caller).has_budget:
            return request.canonical()
        return request

    def _let_in(self, caller: Caller, ask: AdmissionRequest) -> Admitted:
        try:
            admitted = self._admission.admit(caller, ask)
        except RateLimited as exc:
            self._metrics.count_rate_limited(exc.limit)
            raise
        if any(row.unit == "nanousd" and row.left * 5 < row.most for row in admitted.remaining):
            self._metrics.count_budget_near(admitted.caller.plan)
        return admitted

    def _row(
        self,
        caller: Caller,
        request: ChatRequest | EmbedRequest,
        context: CallContext,
        endpoint: str,
        streamed: bool,
        if_lost: Amounts,
    ) -> dict[str, object]:
        """The ledger row as the reaper would write it if this worker died now."""
        return {
            "request_id": context.request_id,
            "call_id": context.call_id,
            "ts": self._clock(),
            "key_id": caller.key_id,
            "user": request.user or "",
            "tenant": caller.tenant,
            "model": request.model,
            "provider": "",
            "upstream_model": "",
            "endpoint": endpoint,
            "status": "lost",
            "http_status": 0,
            "prompt_tokens": request.estimate_prompt_tokens(),
            "completion_tokens": if_lost.tokens - request.estimate_prompt_tokens(),
            "cached_tokens": 0,
            "reasoning_tokens": 0,
            "cost_nanousd": if_lost.nanousd,
            "latency_ms": 0.0,
            "ttft_ms": None,
            "attempts": 0,
            "cache": "bypass",
            "streamed": streamed,
            "estimated": True,
            "unpriced": False,
            "job_id": None,
            "tags": context.tags if context.notes else "",
        }


def endpoint_of(request: ChatRequest | EmbedRequest) -> str:
    """The endpoint's name in the ledger."""
    return "chat.completions" if isinstance(request, ChatRequest) else "embeddings"


def _attempt(call: RunningCall, target: Target) -> ChatCall:
    context, request = call.context, cast(ChatRequest, call.request)
    return ChatCall(
        request=request,
        model=target.model,
        request_id=context.request_id,
        deadline=call.deadline,
        cancel=context.cancel,
        max_output_tokens=output_tokens_bound(call.route, request) if call.has_budget else None,
    )


def _embedding(call: RunningCall, target: Target) -> EmbedCall:
    context = call.context
    return EmbedCall(
        request=cast(EmbedRequest, call.request),
        model=target.model,
        request_id=context.request_id,
        deadline=call.deadline,
        cancel=context.cancel,
    )
