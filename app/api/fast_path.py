"""Fast path: a WSGI application in front of Flask's, for model calls and for polls of queued ones.

A request and a response object of Flask and werkzeug cost 0.2 ms, more than admission does. The routes that must be
fast are dispatched here, by one look-up; every other request goes on to Flask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

import structlog

from app.api.body_budget import LARGE_BYTES, BodyAllocation, BodyBudget
from app.api.content_encoding import decode_content
from app.api.context import check_scope
from app.api.errors import error_response, unexpected_error, unsupported_media_type
from app.api.http import HttpRequest, HttpResponse
from app.api.paths import ClientPaths
from app.api.request_body import read_body
from app.api.routes import MODEL_PREFIXES, PREFIXES, BodyRoute, JobRoute, ModelRoute, Routes
from app.api.trusted_proxies import TrustedProxies
from app.domain.identity import Caller
from app.domain.media import is_form
from app.errors import GatewayError, InvalidRequest, RequestTooLarge, UpgradeRefused
from app.services import Services

log = structlog.get_logger()
_WEBSOCKET = "websocket"  # in logs and metrics, in place of a route
_FastRoute = BodyRoute | ModelRoute | JobRoute
_Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class FastPath:
    """WSGI application: serves the body and job routes, and leaves the rest to `flask`."""

    def __init__(
        self, services: Services, routes: Routes, paths: ClientPaths, proxies: TrustedProxies, *, flask: _Application
    ) -> None:
        self._services = services
        self._proxies = proxies
        self._canonical = paths.canonical
        self._flask = flask
        server = services.settings.config.server
        self._max_body_bytes, self._body_timeout_s = server.max_body_bytes, server.body_timeout_s
        self._budget = BodyBudget(max_bytes=server.body_budget, max_body_bytes=server.max_body_bytes)
        # A longer one would wait for room that a key is never given.
        self._max_form_bytes = min(server.max_media_body_bytes, self._budget.max_bytes_per_key)
        self._body_routes: dict[str, BodyRoute] = {}  # by path; all are POST
        self._job_routes: dict[tuple[str, str], JobRoute] = {}  # by method, and path without the job's id
        self._model_routes: dict[tuple[str, str], ModelRoute] = {}  # by prefix and verb; all are POST
        for prefix in MODEL_PREFIXES:
            self._model_routes |= {(prefix, route.verb): route for route in routes if isinstance(route, ModelRoute)}
        for prefix in PREFIXES:
            for route in routes:
                if isinstance(route, BodyRoute):
                    self._body_routes[prefix + route.path] = route
                elif isinstance(route, JobRoute):
                    self._job_routes[route.method, prefix + route.parent] = route

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"].rstrip("/")
        method = environ["REQUEST_METHOD"]
        body_route = self._body_routes.get(path) if method == "POST" else None
        if body_route is not None:
            return self._respond(environ, start_response, path, body_route, "")
        prefix, _, rest = path.partition("/models/")
        if rest and method == "POST":
            model, _, verb = rest.rpartition(":")
            model_route = self._model_routes.get((prefix, verb))
            if model_route is not None and model:
                return self._respond(environ, start_response, f"{prefix}/models/<model>:{verb}", model_route, model)
        parent, _, job_id = path.rpartition("/")
        job_route = self._job_routes.get((method, parent))
        if job_route is not None:
            return self._respond(environ, start_response, f"{parent}/<job_id>", job_route, job_id)
        if environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            return self._refuse_websocket(environ, start_response)
        path = self._canonical(environ["PATH_INFO"])
        if path == environ["PATH_INFO"]:
            return self._flask(environ, start_response)
        environ["PATH_INFO"] = path
        return self(environ, start_response)

    def _refuse_websocket(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Flask knows no route for one, and would answer 405, after which Codex tries five times more."""
        http_request = HttpRequest(environ)
        http_request.log_started(_WEBSOCKET, self._proxies)
        error = UpgradeRefused("WebSockets are not served here: send the same request with POST.")
        response = error_response(error, http_request.request_id)
        response.headers.append(("X-Request-ID", http_request.request_id))
        http_request.record_completed(self._services.metrics, _WEBSOCKET, response.status)
        return response.send(start_response)

    def _respond(
        self, environ: dict[str, Any], start_response: Any, rule: str, route: _FastRoute, name: str
    ) -> Iterable[bytes]:
        """`name` is what the path ends in or names: a job's id, a model, or nothing."""
        dialect = route.dialect if not isinstance(route, JobRoute) else "chat"
        http_request = HttpRequest(environ)
        http_request.log_started(rule, self._proxies)
        try:
            response = self._handle(http_request, route, name)
        except GatewayError as exc:
            response = error_response(exc, http_request.request_id, dialect)
        except Exception as exc:  # noqa: BLE001 - the boundary for bugs: `unexpected_error` logs it
            error = unexpected_error(exc, http_request.request_id)
            response = error_response(error, http_request.request_id, dialect)
        response.headers.append(("X-Request-ID", http_request.request_id))
        http_request.record_completed(self._services.metrics, rule, response.status)
        if http_request.body_allocation is not None and isinstance(response.body, bytes):
            http_request.release_body()  # a stream keeps its body until it is closed
        return response.send(start_response)

    def _handle(self, http_request: HttpRequest, route: _FastRoute, name: str) -> HttpResponse:
        services = self._services
        key = http_request.api_key()
        if isinstance(route, JobRoute):
            caller = services.callers.verify(key)
            check_scope(caller, route.scope)
            return route.handler(services, caller, http_request, name)
        # The caller is perhaps one from memory: admission verifies the key in its own round trip.
        caller = services.callers.lookup(key)
        check_scope(caller, route.scope)
        body = self._body(http_request, caller, route.types)
        if isinstance(route, ModelRoute):
            return route.handler(services, caller, http_request, body, name)
        return route.handler(services, caller, http_request, body)

    def _body(self, http_request: HttpRequest, caller: Caller, types: tuple[str, ...]) -> bytes:
        """Returns the request's body. Raises `UnsupportedMediaType`, `RequestTooLarge`, `InvalidRequest` (too slow,
        cut); for a large one also `InvalidApiKey` and `NotReady`."""
        environ = http_request.environ
        content_type = environ.get("CONTENT_TYPE", "")
        if content_type not in types and content_type.partition(";")[0].strip().lower() not in types:
            raise unsupported_media_type(" or ".join(types), content_type)
        longest = self._max_form_bytes if is_form(content_type) else self._max_body_bytes
        source = environ["wsgi.input"]
        declared = environ.get("CONTENT_LENGTH") or ""
        if declared:
            size = int(declared)
        elif environ.get("wsgi.input_terminated"):
            size = longest + 1  # chunked: its length is not known
        else:
            size = 0
        if declared and size > longest:
            raise RequestTooLarge("The request body is too large.")
        if type(source) is BytesIO:
            body: bytes = source.read(size)
        elif size <= LARGE_BYTES:
            body = read_body(source, size, self._body_timeout_s)
        else:
            body = self._large_body(http_request, caller, source, size, is_declared=bool(declared))
        if len(body) > longest:
            raise RequestTooLarge("The request body is too large.")
        if declared and len(body) < size:
            raise InvalidRequest("The request body ended early.")
        encoding = environ.get("HTTP_CONTENT_ENCODING")
        return self._decoded(http_request, caller, body, encoding, longest) if encoding else body

    def _decoded(self, http_request: HttpRequest, caller: Caller, body: bytes, encoding: str, longest: int) -> bytes:
        """Returns the body without its encoding. Raises as `_body` does."""
        decoded = 0

        def take(size: int) -> None:
            nonlocal decoded
            decoded += size
            allocation = http_request.body_allocation
            if allocation is not None:
                allocation.grow(size)
            elif decoded > LARGE_BYTES:
                self._allocate(http_request, caller).grow(decoded)

        return decode_content(body, encoding, longest, take)

    def _large_body(
        self, http_request: HttpRequest, caller: Caller, source: Any, size: int, *, is_declared: bool
    ) -> bytes:
        """`size`: as declared; of a chunked body, which then counts as it arrives, the most."""
        allocation = self._allocate(http_request, caller)
        if is_declared:
            allocation.grow(size)
            return read_body(source, size, self._body_timeout_s)
        return read_body(source, size, self._body_timeout_s, on_block=allocation.grow)

    def _allocate(self, http_request: HttpRequest, caller: Caller) -> BodyAllocation:
        """Returns the allocation of a large body. Raises `InvalidApiKey`."""
        # Admission would refuse a revoked key only after the whole body has arrived.
        self._services.callers.verify(http_request.api_key())
        allocation = http_request.body_allocation = BodyAllocation(self._budget, caller.key_id)
        return allocation
