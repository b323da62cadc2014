"""Pipeline: the life of a call, top to bottom: preprocess, admit, look in the cache, route, answer, settle."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from app.config.gateway import GatewayConfig
from app.domain.attribution import attributed
from app.domain.chat import EmbedRequest
from app.domain.content import Prompt
from app.domain.generation import GenerationRequest
from app.domain.identity import Caller
from app.domain.media import MediaRequest
from app.domain.requests import CallRequest
from app.domain.usage import Status, UsageRow
from app.errors import GatewayError, RateLimited
from app.gateway import chunks
from app.gateway.accounting import Accounting
from app.gateway.admission import Admission, Admitted
from app.gateway.cache import Cache, as_cache_hit
from app.gateway.call import CallContext, Reply, RunningCall, notes_of
from app.gateway.context_check import ContextCheck
from app.gateway.deferred import DeferredCall
from app.gateway.estimates import Estimator
from app.gateway.preprocess import Preprocessor
from app.gateway.pricing import Pricing
from app.gateway.router import Attempts, Router
from app.gateway.routes import Route, Target
from app.gateway.stream import CachedStream, LiveStream, MediaReply
from app.providers.base import CancelToken
from app.store.reservations import Reservation
from app.telemetry.metrics import Metrics

T = TypeVar("T")


class Pipeline:
    """Makes generations, embeddings and media calls, at once, as a stream, or deferred to a worker of the queue."""

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
        decode: Callable[[GenerationRequest], Prompt],
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
        self._context_check = ContextCheck(config=config, pricing=pricing, decode=decode)
        self._clock = clock
        self._monotonic = monotonic

    def preprocess(
        self, caller: Caller, request: GenerationRequest, context: CallContext
    ) -> tuple[GenerationRequest, CallContext]:
        """Turns what the caller wrote into the call that is made, and notes in its context what was changed."""
        return self._preprocessor.preprocess(caller, request, context)

    def chat(self, caller: Caller, request: GenerationRequest, context: CallContext) -> Reply:
        """Makes a chat completion. Raises what admission, routing and providers raise; the row is then written, too."""
        request, context = self.preprocess(caller, request, context)
        call = self._admit(caller, request, context)
        with self._accounting.settling(call):
            return self._chat(call)

    def stream(self, caller: Caller, request: GenerationRequest, context: CallContext) -> LiveStream | CachedStream:
        """Begins a streamed chat completion; returns when its first chunk is there. Its `close` must be called."""
        request, context = self.preprocess(caller, request, context)
        call = self._admit(caller, request, context, streamed=True)
        with self._accounting.settling(call):
            cached = self._cache.lookup(call.admitted, call.deadline, context.cancel)
            if cached is not None:
                reply = self._from_cache(call, cached)
                return CachedStream(
                    chunks.from_completion(reply.body, include_usage=request.include_usage), reply.report
                )
            upstream = self._run(call, lambda target: target.provider.stream(call.chat_call(target)))
            call.dropped = upstream.dropped
            call.ttft_s = self._monotonic() - call.started
            return LiveStream(
                call=call,
                upstream=upstream,
                accounting=self._accounting,
                cache=self._cache if call.is_cacheable else None,
            )

    def embed(self, caller: Caller, request: EmbedRequest, context: CallContext) -> Reply:
        """Makes embeddings. They are never cached."""
        call = self._admit(caller, request, context)
        with self._accounting.settling(call):
            return self._embed(call)

    def media(self, caller: Caller, request: MediaRequest, context: CallContext) -> MediaReply:
        """Makes a media call: a moderation, speech, a transcription or pictures. They are never cached."""
        if self._admission.plan(caller).has_budget:
            request = request.bounded()
        request = self._preprocessor.preprocess_media(caller, request)
        call = self._admit(caller, request, context, streamed=request.streamed)
        with self._accounting.settling(call):
            answer = self._run(call, lambda target: target.provider.media(call.media_call(target)))
            if isinstance(answer.body, bytes):
                cost = self._accounting.completed(call, answer.usage)
                return MediaReply(answer.content_type, answer.body, self._accounting.report(call, cost))
            call.ttft_s = self._monotonic() - call.started
            stream = LiveStream(call=call, upstream=answer.body, accounting=self._accounting)
            return MediaReply(answer.content_type, stream, stream.report)

    def defer(
        self,
        caller: Caller,
        request: GenerationRequest | EmbedRequest,
        context: CallContext,
        *,
        for_s: float,
        owner: str = "",
    ) -> DeferredCall:
        """Admits a call that another process runs within `for_s` seconds: `resume` or `abandon` then ends it.

        `request` and `context` are as `preprocess` returned them. The reservation is this process's own, and lost with
        it, unless another one is named as `owner`.
        """
        route = self._router.route(request.model, caller)
        request = self._without_unpriced_parts(caller, request)
        wanted = self._reservation(caller, request, context, route)
        wanted = replace(
            wanted,
            row=replace(wanted.row, job_id=context.call_id),
            deadline_s=for_s,
            queued=True,
            read_cache=False,
            single_flight=False,
            owner=owner,
        )
        admitted = self._let_in(caller, wanted)
        return DeferredCall.of(admitted.reservation, read_cache=context.read_cache, write_cache=context.write_cache)

    def resume(
        self,
        caller: Caller,
        request: GenerationRequest | EmbedRequest,
        deferred: DeferredCall,
        cancel: CancelToken,
        *,
        stays_open: Callable[[GatewayError], bool],
    ) -> Reply:
        """Runs a deferred call, perhaps once more. An error for which it `stays_open` leaves it deferred."""
        started = self._monotonic()
        row = deferred.row
        context = CallContext(
            row.request_id, row.call_id, cancel, deferred.read_cache, deferred.write_cache, notes=notes_of(row.tags)
        )
        reads = bool(deferred.cache_key) and deferred.read_cache
        try:
            request = self._without_unpriced_parts(caller, request)
            route = self._router.route(request.model, caller)
            cached = self._cache.get(deferred.cache_key) if reads else None
        except GatewayError as exc:
            if not stays_open(exc):
                self.abandon(deferred, "error", exc.status)
            raise
        self._metrics.add_active_calls(1)
        call = RunningCall(
            context=context,
            request=request,
            route=route,
            admitted=Admitted(caller, deferred.reservation(), cached, follows=False, remaining=()),
            cache="miss" if reads else "bypass",
            started=started,
            deadline=started + self._config.timeouts.total_s,
            earlier=tuple(deferred.charged),
            attempts=Attempts(reserved=deferred.covered - len(deferred.charged), key_id=caller.key_id),
        )
        try:
            with self._accounting.settling(call, stays_open):
                return self._chat(call) if isinstance(request, GenerationRequest) else self._embed(call)
        finally:
            if not call.settled:
                deferred.charged = self._accounting.charged(call)
                deferred.covered = len(call.earlier) + call.attempts.reserved

    def abandon(self, deferred: DeferredCall, status: Status, http_status: int) -> None:
        """Ends a deferred call that will not run, or not once more."""
        self._accounting.discarded(deferred.reservation(), deferred.charged, status, http_status)

    def cancel(self, deferred: DeferredCall) -> None:
        """Ends a deferred call whose caller was told that it was refused. It leaves no row."""
        self._admission.cancel(deferred.reservation())

    def _run(self, call: RunningCall, attempt: Callable[[Target], T]) -> T:
        self._context_check.check(call.request, call.route.all_targets, call.context.headers)
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
        answer = self._run(call, lambda target: target.provider.chat(call.chat_call(target)))
        call.dropped = answer.dropped
        keep = self._cache.cacheable(call.admitted, answer.body) if call.is_cacheable else b""
        cost = self._accounting.completed(
            call, answer.usage, text_bytes=answer.text_bytes, keep=keep, ttl_s=self._cache.ttl_s
        )
        return Reply(answer.body, self._accounting.report(call, cost))

    def _embed(self, call: RunningCall) -> Reply:
        answer = self._run(call, lambda target: target.provider.embed(call.embed_call(target)))
        cost = self._accounting.completed(call, answer.usage)
        return Reply(answer.body, self._accounting.report(call, cost))

    def _from_cache(self, call: RunningCall, cached: bytes) -> Reply:
        call.cache = "hit"
        cost = self._accounting.completed_from_cache(call)
        body = as_cache_hit(cached, call_id=call.context.call_id, created=int(self._clock()))
        return Reply(body, self._accounting.report(call, cost))

    def _admit(
        self, caller: Caller, request: CallRequest, context: CallContext, *, streamed: bool = False
    ) -> RunningCall:
        started = self._monotonic()
        route = self._router.route(request.model, caller)
        if not isinstance(request, MediaRequest):
            request = self._without_unpriced_parts(caller, request)
        wanted = self._reservation(caller, request, context, route, streamed=streamed)
        admitted = self._let_in(caller, wanted)
        self._metrics.add_active_calls(1)
        return RunningCall(
            context=context,
            request=request,
            route=route,
            admitted=admitted,
            cache="miss" if wanted.read_cache else "bypass",
            started=started,
            deadline=started + self._config.timeouts.total_s,
            attempts=Attempts(key_id=caller.key_id),
        )

    def _reservation(
        self,
        caller: Caller,
        request: CallRequest,
        context: CallContext,
        route: Route,
        *,
        streamed: bool = False,
    ) -> Reservation:
        """Returns what the call wants to reserve. Its row is what the reaper writes if this worker dies."""
        has_budget = self._admission.plan(caller).has_budget
        reserve, if_lost = self._estimator.estimate(route, request, has_budget=has_budget)
        cache_key = self._cache.key(caller, request) if isinstance(request, GenerationRequest) else ""
        prompt_tokens = request.estimate_prompt_tokens()
        session, agent, user = attributed(request, context.attribution)
        row = UsageRow(
            request_id=context.request_id,
            call_id=context.call_id,
            ts=self._clock(),
            key_id=caller.key_id,
            user=user,
            tenant=caller.tenant,
            model=request.model,
            endpoint=context.endpoint if isinstance(request, GenerationRequest) else endpoint_of(request),
            status="lost",
            prompt_tokens=prompt_tokens,
            completion_tokens=if_lost.tokens - prompt_tokens,
            cost_nanousd=if_lost.nanousd,
            streamed=streamed,
            estimated=True,
            tags=context.tags if context.notes else "",
            session=session,
            agent=agent,
        )
        return Reservation(
            row=row,
            reserve=reserve,
            if_lost=if_lost,
            deadline_s=self._config.timeouts.total_s + 5,
            cache_key=cache_key,
            read_cache=bool(cache_key) and context.read_cache,
            single_flight=bool(cache_key) and context.read_cache and context.write_cache,
        )

    def _without_unpriced_parts(
        self, caller: Caller, request: GenerationRequest | EmbedRequest
    ) -> GenerationRequest | EmbedRequest:
        """Returns the request as it may be made: where money is limited, without parts of unknown price."""
        if isinstance(request, GenerationRequest) and self._admission.plan(caller).has_budget:
            return request.canonical()
        return request

    def _let_in(self, caller: Caller, wanted: Reservation) -> Admitted:
        try:
            admitted = self._admission.admit(caller, wanted)
        except RateLimited as exc:
            self._metrics.count_rate_limited(exc.limit)
            raise
        if any(row.unit == "nanousd" and row.left * 5 < row.most for row in admitted.remaining):
            self._metrics.count_budget_near(admitted.caller.plan)
        return admitted


def endpoint_of(request: CallRequest) -> str:
    """Returns the endpoint's name in the ledger."""
    if isinstance(request, MediaRequest):
        return request.endpoint
    return "chat.completions" if isinstance(request, GenerationRequest) else "embeddings"
