"""The life of a call, top to bottom: steer, admit, look in the cache, route, answer, settle."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from app.domain.chat import ChatRequest, EmbedRequest
from app.domain.config import GatewayConfig
from app.domain.identity import Caller
from app.domain.money import Usage
from app.errors import Forbidden, GatewayError, RateLimited
from app.gateway import replay
from app.gateway.admission import Admission, Admitted, Ask
from app.gateway.books import Books, CallContext, Report, Running, notes_of
from app.gateway.cache import Cache, marked
from app.gateway.held import Held
from app.gateway.limits import Amounts
from app.gateway.pricing import Pricing
from app.gateway.router import Attempts, Route, Router, Target
from app.gateway.steering import Steering
from app.gateway.stream import CachedStream, LiveStream
from app.providers.base import CancelToken, ChatCall, EmbedCall
from app.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer in OpenAI's wire format, and what to tell about it."""

    body: bytes
    report: Report


class Pipeline:
    def __init__(
        self,
        *,
        config: GatewayConfig,
        admission: Admission,
        router: Router,
        cache: Cache,
        pricing: Pricing,
        books: Books,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._admission = admission
        self._router = router
        self.steer = Steering(config=config, router=router).steer
        self._cache = cache
        self._pricing = pricing
        self._books = books
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic

    def chat(self, caller: Caller, request: ChatRequest, context: CallContext) -> Reply:
        """A chat completion. Raises what admission, routing and providers raise; the row is written all the same."""
        request, context = self.steer(caller, request, context)
        call = self._admit(caller, request, context, "chat.completions")
        with self._books.settling(call):
            return self._chat(call, request)

    def stream(self, caller: Caller, request: ChatRequest, context: CallContext) -> LiveStream | CachedStream:
        """A streamed chat completion, returned when its first chunk is there. Its `close` must be called."""
        request, context = self.steer(caller, request, context)
        call = self._admit(caller, request, context, "chat.completions", streamed=True)
        with self._books.settling(call):
            cached = self._cache.answer(call.admitted, call.deadline, context.cancel)
            if cached is not None:
                reply = self._from_cache(call, cached)
                return CachedStream(replay.as_stream(cached, include_usage=request.include_usage), reply.report)
            upstream = self._router.run(
                call.route, call.attempts, call.deadline, context.cancel,
                lambda target: target.provider.stream(_attempt(call, request, target)),
            )  # fmt: skip
            call.ttft_s = self._monotonic() - call.started
            return LiveStream(
                call=call, upstream=upstream, books=self._books, report=self._books.report(call, None),
                keep_ttl_s=self._cache.ttl_s, keep_bytes=self._cache.max_entry_bytes if self._keeps(call) else 0,
                not_kept=lambda: self._cache.not_kept(call.admitted),
            )  # fmt: skip

    def embed(self, caller: Caller, request: EmbedRequest, context: CallContext) -> Reply:
        """Embeddings. Never cached."""
        call = self._admit(caller, request, context, "embeddings")
        with self._books.settling(call):
            return self._embed(call, request)

    def hold(
        self,
        caller: Caller,
        request: ChatRequest | EmbedRequest,
        context: CallContext,
        *,
        for_s: float,
        reservations: str = "",
    ) -> Held:
        """Admits a call that another process runs within `for_s` seconds: `resume` or `drop` then ends it.

        `request` and `context` as `steer` gave them. Its reservation is this process's own, and lost with it, unless
        `reservations` names others to put it among.
        """
        route = self._router.route(request.model, caller)
        ask = self._ask(caller, request, context, route, endpoint_of(request), streamed=False)
        ask.row["job_id"] = context.call_id
        ask.deadline_s, ask.queued, ask.read_cache, ask.single_flight = for_s, True, False, False
        ask.reservations = reservations
        admitted = self._let_in(caller, ask)
        return Held.of(admitted, read_cache=context.read_cache, write_cache=context.write_cache)

    def resume(
        self,
        caller: Caller,
        request: ChatRequest | EmbedRequest,
        held: Held,
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
            route = self._router.route(request.model, caller)
            admitted.cached = self._cache.kept(held.cache_key) if reads else None
        except GatewayError as exc:
            if not stays_open(exc):
                self.drop(held, "error", exc.status)
            raise
        self._metrics.active(1)
        call = Running(
            context=context, caller=caller, request=request, route=route, endpoint=row["endpoint"], streamed=False,
            row=row, admitted=admitted, cache="miss" if reads else "bypass",
            started=started, deadline=started + self._config.timeouts.total_s, attempts=Attempts(key_id=caller.key_id),
        )  # fmt: skip
        with self._books.settling(call, stays_open):
            return self._chat(call, request) if isinstance(request, ChatRequest) else self._embed(call, request)

    def drop(self, held: Held, status: str, http_status: int) -> None:
        """Ends a held call that will not run."""
        self._books.dropped(held.admitted(Caller(held.row["key_id"], "")), status, http_status)

    def _chat(self, call: Running, request: ChatRequest) -> Reply:
        context = call.context
        cached = self._cache.answer(call.admitted, call.deadline, context.cancel)
        if cached is not None:
            return self._from_cache(call, cached)
        answer = self._router.run(
            call.route, call.attempts, call.deadline, context.cancel,
            lambda target: target.provider.chat(_attempt(call, request, target)),
        )  # fmt: skip
        keep = self._cache.keepable(call.admitted, answer.body) if self._keeps(call) else b""
        cost = self._books.answered(
            call, answer.usage, text_bytes=answer.text_bytes, keep=keep, ttl_s=self._cache.ttl_s
        )
        return Reply(answer.body, self._books.report(call, cost))

    def _embed(self, call: Running, request: EmbedRequest) -> Reply:
        context = call.context
        answer = self._router.run(
            call.route, call.attempts, call.deadline, context.cancel,
            lambda target: target.provider.embed(EmbedCall(
                request=request, model=target.model, request_id=context.request_id,
                deadline=call.deadline, cancel=context.cancel,
            )),
        )  # fmt: skip
        cost = self._books.answered(call, answer.usage)
        return Reply(answer.body, self._books.report(call, cost))

    def _from_cache(self, call: Running, cached: bytes) -> Reply:
        call.cache = "hit"
        cost = self._books.answered_from_cache(call)
        return Reply(marked(cached), self._books.report(call, cost))

    def _keeps(self, call: Running) -> bool:
        return bool(call.admitted.ask.cache_key) and call.context.write_cache

    def _admit(
        self,
        caller: Caller,
        request: ChatRequest | EmbedRequest,
        context: CallContext,
        endpoint: str,
        *,
        streamed: bool = False,
    ) -> Running:
        started = self._monotonic()
        route = self._router.route(request.model, caller)
        ask = self._ask(caller, request, context, route, endpoint, streamed=streamed)
        admitted = self._let_in(caller, ask)
        self._metrics.active(1)
        return Running(
            context=context, caller=admitted.caller, request=request, route=route, endpoint=endpoint, streamed=streamed,
            row=ask.row, admitted=admitted, cache="miss" if ask.read_cache else "bypass",
            started=started, deadline=started + self._config.timeouts.total_s, attempts=Attempts(key_id=caller.key_id),
        )  # fmt: skip

    def _ask(
        self,
        caller: Caller,
        request: ChatRequest | EmbedRequest,
        context: CallContext,
        route: Route,
        endpoint: str,
        *,
        streamed: bool,
    ) -> Ask:
        reserve, if_lost = self._reservation(caller, route, request)
        cache_key = self._cache.key(caller, request) if isinstance(request, ChatRequest) else ""
        return Ask(
            call_id=context.call_id, row=self._row(caller, request, context, endpoint, streamed, if_lost),
            reserve=reserve, if_lost=if_lost, deadline_s=self._config.timeouts.total_s + 5,
            cache_key=cache_key, read_cache=bool(cache_key) and context.read_cache,
            single_flight=bool(cache_key) and context.read_cache and context.write_cache,
        )  # fmt: skip

    def _let_in(self, caller: Caller, ask: Ask) -> Admitted:
        try:
            admitted = self._admission.admit(caller, ask)
        except RateLimited as exc:
            self._metrics.rate_limited(exc.limit)
            raise
        if any(row.unit == "nanousd" and row.left * 5 < row.most for row in admitted.remaining):
            self._metrics.budget_near(admitted.caller.plan)
        return admitted

    def _reservation(
        self, caller: Caller, route: Route, request: ChatRequest | EmbedRequest
    ) -> tuple[Amounts, Amounts]:
        """What to reserve: tokens as likely, money as the most that any target can charge; and what a lost call costs.

        Raises `Forbidden` when the plan has a budget and a target's price is unknown (CONVENTIONS, bug 6).
        """
        likely, most = 0, 0
        tier = ""
        if isinstance(request, ChatRequest):
            bound = request.max_output_tokens
            likely = (self._config.reserve.completion_tokens if bound is None else bound) * request.choices
            most = (route.max_output_tokens if bound is None else bound) * request.choices
            tier = request.service_tier or ""
        prompt = request.prompt_estimate()
        tokens = prompt + likely
        cards = [self._pricing.card(t.provider.name, t.model, tier) for t in route.all_targets]
        first = cards[0]
        lost = first.cost_nanousd(Usage(prompt, likely)) if first else 0
        ceiling = 0
        if self._admission.plan(caller).has_budget:
            known = [card for card in cards if card is not None]
            if len(known) < len(cards):
                raise Forbidden(
                    "The model has no known price, and your plan has a budget. Its price can be set in prices.yaml.",
                    param="model",
                )
            ceiling = max(card.ceiling_nanousd(request.prompt_ceiling(), most) for card in known)
        return Amounts(1, tokens, ceiling), Amounts(1, tokens, lost)

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
            "request_id": context.request_id, "call_id": context.call_id, "ts": self._clock(),
            "key_id": caller.key_id, "user": request.user or "", "tenant": caller.tenant,
            "model": request.model, "provider": "", "upstream_model": "", "endpoint": endpoint, "status": "lost",
            "http_status": 0, "prompt_tokens": request.prompt_estimate(),
            "completion_tokens": if_lost.tokens - request.prompt_estimate(), "cached_tokens": 0, "reasoning_tokens": 0,
            "cost_nanousd": if_lost.nanousd, "latency_ms": 0.0, "ttft_ms": None, "attempts": 0, "cache": "bypass",
            "streamed": streamed, "estimated": True, "unpriced": False, "job_id": None,
            "tags": context.tags if context.notes else "",
        }  # fmt: skip


def endpoint_of(request: ChatRequest | EmbedRequest) -> str:
    """The endpoint's name in the ledger."""
    return "chat.completions" if isinstance(request, ChatRequest) else "embeddings"


def _attempt(call: Running, request: ChatRequest, target: Target) -> ChatCall:
    context = call.context
    return ChatCall(
        request=request, model=target.model, request_id=context.request_id, deadline=call.deadline,
        cancel=context.cancel,
    )  # fmt: skip
