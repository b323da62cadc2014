"""HTTP request and response of an endpoint, the same under Flask and on the fast path."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec
import structlog

from app.api.attribution import stated_in_headers
from app.api.body_budget import BodyAllocation
from app.api.credentials import api_key
from app.api.trusted_proxies import TrustedProxies
from app.gateway.call import CallContext
from app.providers.base import CancelToken
from app.telemetry.metrics import Metrics

log = structlog.get_logger()
_VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
# Every few seconds, by health checks and Prometheus: logged at `debug`.
_PROBED_ROUTES = frozenset(
    {
        "/metrics",
        "/healthz",
        *(f"{prefix}{path}" for prefix in ("", "/v1", "/api/v1") for path in ("/health", "/ready")),
    }
)
_MAX_USER_AGENT_CHARS = 200
_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
_STATUS_LINES[529] = "529 Overloaded"  # Anthropic's
_STATUS_LINES[499] = "499 Client Closed Request"  # nginx's: nobody is left to read it


class HttpRequest:
    """An HTTP request: its id, its API key, its start time. Reads the WSGI environ, and nothing from the client."""

    __slots__ = ("body_allocation", "call_id", "environ", "request_id", "started")

    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ = environ
        self.body_allocation: BodyAllocation | None = None  # of a large body
        self.started = time.monotonic()
        # The time comes first: rows then go to the end of the ledger's index, which costs it a third less.
        self.call_id = f"req_{time.time_ns() // 1_000_000:012x}{os.urandom(6).hex()}"
        client_id = environ.get("HTTP_X_REQUEST_ID")
        self.request_id: str = client_id if client_id and _VALID_REQUEST_ID.fullmatch(client_id) else self.call_id

    def api_key(self) -> str:
        """Returns the API key. Raises `InvalidApiKey` when there is none."""
        return api_key(self.environ)

    def call_context(
        self, cancel: CancelToken, *, smart: bool = False, endpoint: str = "chat.completions", headers: bytes = b""
    ) -> CallContext:
        """Returns this request's part of a model call, `Cache-Control` included. See `CallContext`."""
        control = self.environ.get("HTTP_CACHE_CONTROL", "").lower()
        read = write = True
        if control:
            write = "no-store" not in control
            read = write and "no-cache" not in control
        return CallContext(
            self.request_id,
            self.call_id,
            cancel,
            read,
            write,
            smart=smart,
            endpoint=endpoint,
            headers=headers,
            attribution=stated_in_headers(self.environ),
        )

    def log_started(self, route: str, proxies: TrustedProxies) -> None:
        """Logs the request, once its head has arrived. `route` is a rule, never a path."""
        environ = self.environ
        write_log = log.debug if route in _PROBED_ROUTES else log.info
        write_log(
            "request_started",
            request_id=self.request_id,
            method=environ["REQUEST_METHOD"],
            route=route,
            client_ip=proxies.client_ip(environ),
            user_agent=environ.get("HTTP_USER_AGENT", "")[:_MAX_USER_AGENT_CHARS],
        )

    def record_completed(self, metrics: Metrics, route: str, status: int, **log_fields: str) -> None:
        """Counts and logs the response, when its head is about to be sent. `route` is a rule, never a path;
        `log_fields` are added to the log line."""
        elapsed_s = time.monotonic() - self.started
        method = self.environ["REQUEST_METHOD"]
        metrics.observe_http(route, method, status, elapsed_s)
        write_log = log.debug if route in _PROBED_ROUTES and status < 400 else log.info
        write_log(
            "request_completed",
            request_id=self.request_id,
            method=method,
            route=route,
            status=status,
            latency_ms=round(elapsed_s * 1000, 3),
            **log_fields,
        )

    def release_body(self) -> None:
        """Gives the body's part of the budget back; a second time changes nothing."""
        if self.body_allocation is not None:
            self.body_allocation.release()


class HttpResponse(msgspec.Struct, frozen=True):
    """An HTTP response. A body that is no `bytes` is sent in blocks, and its `close` is called whatever happens."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | Iterable[bytes]

    def send(self, start_response: Any) -> Iterable[bytes]:
        """Returns the body as a WSGI application does, after `start_response` has been given the head."""
        headers, body = self.headers, self.body
        if isinstance(body, bytes):
            headers.append(("Content-Length", str(len(body))))
            start_response(_STATUS_LINES[self.status], headers)
            return (body,)
        start_response(_STATUS_LINES[self.status], headers)
        return body


def json_response(body: bytes, headers: Iterable[tuple[str, str]] = (), *, status: int = 200) -> HttpResponse:
    """Returns a response of type `application/json`."""
    return HttpResponse(status, [("Content-Type", "application/json"), *headers], body)
