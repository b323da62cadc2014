"""HTTP request and response of an endpoint, the same under Flask and on the fast path."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any

import msgspec
import structlog

from app.api.body_budget import Hold
from app.api.credentials import key_of
from app.api.trusted_proxies import TrustedProxies
from app.gateway.call import CallContext
from app.providers.base import CancelToken
from app.telemetry.metrics import Metrics

log = structlog.get_logger()
_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
# Every few seconds, by health checks and Prometheus.
_ASKED_BY_MACHINES = frozenset(
    {
        "/metrics",
        "/healthz",
        *(f"{prefix}{path}" for prefix in ("", "/v1", "/api/v1") for path in ("/health", "/ready")),
    }
)
_LONGEST_AGENT = 200
_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
_STATUS_LINES[499] = "499 Client Closed Request"  # nginx's: nobody is left to read it


class HttpRequest:
    """What every request carries: its id, its key, its clock. Reads the WSGI environ, and nothing from the client."""

    __slots__ = ("call_id", "environ", "hold", "request_id", "started")

    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ = environ
        self.hold: Hold | None = None  # its part of the budget for large bodies
        self.started = time.monotonic()
        # The time comes first: rows then go to the end of the ledger's index, which costs it a third less.
        self.call_id = f"req_{time.time_ns() // 1_000_000:012x}{os.urandom(6).hex()}"
        given = environ.get("HTTP_X_REQUEST_ID")
        # The client's own id if it is sane.
        self.request_id: str = given if given and _SANE_ID.fullmatch(given) else self.call_id

    def key(self) -> str:
        """The API key. Raises `InvalidApiKey` when there is none."""
        return key_of(self.environ)

    def call_context(self, cancel: CancelToken) -> CallContext:
        """This request's part of a model call, `Cache-Control` included."""
        control = self.environ.get("HTTP_CACHE_CONTROL", "").lower()
        read = write = True
        if control:
            write = "no-store" not in control
            read = write and "no-cache" not in control
        return CallContext(self.request_id, self.call_id, cancel, read, write)

    def began(self, route: str, peers: TrustedProxies) -> None:
        """The request's head is here. `route` is a rule, never a path."""
        environ = self.environ
        tell = log.debug if route in _ASKED_BY_MACHINES else log.info
        tell(
            "request_started",
            request_id=self.request_id,
            method=environ["REQUEST_METHOD"],
            route=route,
            client_ip=peers.client_ip(environ),
            user_agent=environ.get("HTTP_USER_AGENT", "")[:_LONGEST_AGENT],
        )

    def ended(self, metrics: Metrics, route: str, status: int, **of_no_route: str) -> None:
        """The answer's head is about to go out: its figures and its log line. `route` is a rule, never a path; what the
        line should tell besides, where there is none, is `of_no_route`."""
        elapsed_s = time.monotonic() - self.started
        method = self.environ["REQUEST_METHOD"]
        metrics.observe_http(route, method, status, elapsed_s)
        tell = log.debug if route in _ASKED_BY_MACHINES and status < 400 else log.info
        tell(
            "request_completed",
            request_id=self.request_id,
            method=method,
            route=route,
            status=status,
            latency_ms=round(elapsed_s * 1000, 3),
            **of_no_route,
        )


class HttpResponse(msgspec.Struct):
    """An answer: whole (bytes), or blocks whose `close`, if it has one, is called whatever happens."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | Iterable[bytes]

    def when_sent(self, then: Callable[[], None]) -> None:
        """Has `then` called once the answer needs its request no more: now, or when its blocks are closed."""
        if isinstance(self.body, bytes):
            then()
        else:
            self.body = _Closing(self.body, then)

    def send(self, start_response: Any) -> Iterable[bytes]:
        """The answer as a WSGI application gives it."""
        headers, body = self.headers, self.body
        if isinstance(body, bytes):
            headers.append(("Content-Length", str(len(body))))
            start_response(_STATUS_LINES[self.status], headers)
            return (body,)
        start_response(_STATUS_LINES[self.status], headers)
        return body


class _Closing:
    """Blocks, and what to do when they are closed."""

    def __init__(self, blocks: Iterable[bytes], then: Callable[[], None]) -> None:
        self._blocks = blocks
        self._then = then

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._blocks)

    def close(self) -> None:
        try:
            close = getattr(self._blocks, "close", None)
            if close is not None:
                close()
        finally:
            self._then()
