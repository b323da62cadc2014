"""Calls to models, and polls of queued ones: bytes in, parsed once, the pipeline's answer out.

The endpoints that must be fast are a WSGI application in front of Flask's: a request and an answer object of
Flask and werkzeug cost 0.2 ms, more than admission does. Everything else of a request goes on to Flask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from io import BytesIO
from typing import Any

import structlog
from flask import Blueprint

from app.api import completions, jobs, support
from app.api.body_budget import LARGE_BYTES, BodyBudget
from app.api.context import allow
from app.api.errors import error_answer, wrong_type
from app.api.hangup import watch
from app.api.headers import call_headers
from app.api.http import HttpRequest, HttpResponse
from app.api.paths import canonical
from app.api.request_body import received
from app.api.sse import stream_answer
from app.api.trusted_proxies import TrustedProxies
from app.domain.chat import ChatRequest, EmbedRequest
from app.domain.identity import Caller, Scope
from app.errors import GatewayError, InvalidRequest, RequestTooLarge
from app.gateway.call import Reply
from app.providers.base import CancelToken
from app.services import Services

PREFIXES = ("/v1", "/api/v1")
log = structlog.get_logger()
# For `flask routes`, and so that Flask says 405 to other methods; POSTs are answered before they come to it.
bp = Blueprint("chat", __name__)
bp.add_url_rule("/chat/completions", "chat_completions", methods=["POST"])
bp.add_url_rule("/completions", "completions", methods=["POST"])
bp.add_url_rule("/chat/smart", "chat_smart", methods=["POST"])
bp.add_url_rule("/embeddings", "embeddings", methods=["POST"])
bp.add_url_rule("/chat/async", "chat_async", methods=["POST"])
bp.add_url_rule("/requests/<job_id>", "requests", methods=["GET", "DELETE"])

_Application = Callable[[dict[str, Any], Any], Iterable[bytes]]
_OfAJob = Callable[[Services, Caller, HttpRequest, str], HttpResponse]


class FastPath:
    """WSGI: answers the model endpoints, and leaves the rest to `otherwise`."""

    def __init__(self, services: Services, peers: TrustedProxies, otherwise: _Application) -> None:
        self._services = services
        self._peers = peers
        self._otherwise = otherwise
        server = services.settings.config.server
        self._most_bytes, self._body_timeout_s = server.max_body_bytes, server.body_timeout_s
        self._budget = BodyBudget(max_bytes=server.body_budget, max_body_bytes=server.max_body_bytes)
        self._endpoints: dict[str, Callable[[HttpRequest], HttpResponse]] = {}
        self._of_a_job: dict[tuple[str, str], _OfAJob] = {}
        for prefix in PREFIXES:
            self._endpoints[f"{prefix}/chat/completions"] = self._chat
            self._endpoints[f"{prefix}/chat/smart"] = partial(self._chat, smart=True)
            self._endpoints[f"{prefix}/completions"] = self._complete
            self._endpoints[f"{prefix}/embeddings"] = self._embed
            self._endpoints[f"{prefix}/chat/async"] = self._submit
            self._of_a_job["GET", f"{prefix}/requests"] = jobs.show
            self._of_a_job["DELETE", f"{prefix}/requests"] = jobs.cancel
            self._endpoints[f"{prefix}/chat"] = self._converse

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        route = environ["PATH_INFO"].rstrip("/")
        method = environ["REQUEST_METHOD"]
        endpoint = self._endpoints.get(route) if method == "POST" else None
        if endpoint is None:
            parent, _, job_id = route.rpartition("/")
            of_a_job = self._of_a_job.get((method, parent))
            if of_a_job is None:
                path = canonical(environ["PATH_INFO"])
                if path == environ["PATH_INFO"]:
                    return self._otherwise(environ, start_response)
                environ["PATH_INFO"] = path
                return self(environ, start_response)
            route = f"{parent}/<job_id>"
            endpoint = partial(self._ask_job, of_a_job, job_id)
        http_request = HttpRequest(environ)
        http_request.began(route, self._peers)
        try:
            answer = endpoint(http_request)
        except GatewayError as exc:
            answer = error_answer(exc, http_request.request_id)
        except Exception as exc:  # the boundary for bugs: the caller learns nothing of them, the log everything
            log.error("unexpected_error", request_id=http_request.request_id, exc_info=exc)
            failure = GatewayError("The server had an error while processing your request.")
            answer = error_answer(failure, http_request.request_id)
        answer.headers.append(("X-Request-ID", http_request.request_id))
        http_request.ended(self._services.metrics, route, answer.status)
        if http_request.hold is not None:
            answer.when_sent(http_request.hold.release)
        return answer.send(start_response)

    def _chat(self, http_request: HttpRequest, smart: bool = False) -> HttpResponse:
        caller = self._caller(http_request, Scope.CHAT)
        body = self._body(http_request, caller)
        parsed = ChatRequest.parse(body)
        cancel = CancelToken()
        context = http_request.call_context(cancel)
        context.smart = smart
        stop_watching = watch(http_request.environ, cancel)
        if parsed.stream:
            try:
                stream = self._services.pipeline.stream(caller, parsed, context)
            except BaseException:
                stop_watching()
                raise
            return stream_answer(stream, stop_watching, http_request.request_id)
        try:
            return _json(self._services.pipeline.chat(caller, parsed, context))
        finally:
            stop_watching()

    def _complete(self, http_request: HttpRequest) -> HttpResponse:
        caller = self._caller(http_request, Scope.CHAT)
        return completions.complete(self._services.pipeline, caller, self._body(http_request, caller), http_request)

    def _embed(self, http_request: HttpRequest) -> HttpResponse:
        caller = self._caller(http_request, Scope.EMBED)
        parsed = EmbedRequest.parse(self._body(http_request, caller))
        cancel = CancelToken()
        stop_watching = watch(http_request.environ, cancel)
        try:
            return _json(self._services.pipeline.embed(caller, parsed, http_request.call_context(cancel)))
        finally:
            stop_watching()

    def _submit(self, http_request: HttpRequest) -> HttpResponse:
        caller = self._caller(http_request, Scope.CHAT)
        return jobs.submit(self._services, caller, http_request, self._body(http_request, caller))

    def _ask_job(self, what: _OfAJob, job_id: str, http_request: HttpRequest) -> HttpResponse:
        caller = self._services.callers.verify(http_request.key())
        allow(caller, Scope.CHAT)
        return what(self._services, caller, http_request, job_id)

    def _converse(self, http_request: HttpRequest) -> HttpResponse:
        caller = self._caller(http_request, Scope.CHAT)
        return support.converse(self._services.support, caller, self._body(http_request, caller), http_request)

    def _caller(self, http_request: HttpRequest, scope: Scope) -> Caller:
        """The caller, perhaps from memory: admission verifies the key in its own round trip."""
        caller = self._services.callers.lookup(http_request.key())
        allow(caller, scope)
        return caller

    def _body(self, http_request: HttpRequest, caller: Caller) -> bytes:
        """The request's body. Raises `UnsupportedMediaType`, `RequestTooLarge`, `InvalidRequest` (too slow, cut); for a
        large one also `InvalidApiKey` and `NotReady`."""
        environ = http_request.environ
        kind = environ.get("CONTENT_TYPE", "")
        if kind != "application/json" and kind.partition(";")[0].strip().lower() != "application/json":
            raise wrong_type("application/json", kind)
        source = environ["wsgi.input"]
        declared = environ.get("CONTENT_LENGTH") or ""
        if declared:
            size = int(declared)
        elif environ.get("wsgi.input_terminated"):
            size = self._most_bytes + 1  # does not say how long it is: chunked
        else:
            size = 0
        if declared and size > self._most_bytes:
            raise RequestTooLarge("The request body is too large.")
        if type(source) is BytesIO:
            body: bytes = source.read(size)
        elif size <= LARGE_BYTES:
            body = received(source, size, self._body_timeout_s)
        else:
            body = self._large_body(http_request, caller, source, size if declared else None)
        if len(body) > self._most_bytes:
            raise RequestTooLarge("The request body is too large.")
        if declared and len(body) < size:
            raise InvalidRequest("The request body ended early.")
        return body

    def _large_body(self, http_request: HttpRequest, caller: Caller, source: Any, size: int | None) -> bytes:
        """`size`: as declared; None for a chunked body, which then counts as it arrives."""
        # Admission would refuse a revoked key only when all of the body is here.
        self._services.callers.verify(http_request.key())
        hold = http_request.hold = self._budget.hold(caller.key_id)
        if size is not None:
            hold.take(size)
            return received(source, size, self._body_timeout_s)
        return received(source, self._most_bytes + 1, self._body_timeout_s, on_block=hold.take)


def _json(reply: Reply) -> HttpResponse:
    return HttpResponse(200, [("Content-Type", "application/json"), *call_headers(reply.report)], reply.body)
