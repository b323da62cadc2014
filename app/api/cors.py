"""Browsers' calls from other origins: allowed for those in `server.cors_origins`, for nobody else.

A WSGI application around the whole one, there only when origins are configured. Keys are sent in a header, never in a
cookie, so that credentials are not allowed. Rules: the Fetch standard, "CORS protocol".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

_Application = Callable[[dict[str, Any], Any], Iterable[bytes]]
_PREFLIGHT = [
    ("Access-Control-Allow-Methods", "GET, POST, DELETE"),
    ("Access-Control-Allow-Headers", "Authorization, Content-Type, Cache-Control, X-Request-ID, Idempotency-Key"),
    ("Access-Control-Max-Age", "600"),
]


class Cors:
    """`origins` as browsers send them: scheme, host and port, or "*" for every one."""

    def __init__(self, application: _Application, origins: tuple[str, ...]) -> None:
        self._application = application
        self._origins = frozenset(origin.rstrip("/") for origin in origins)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        origin = environ.get("HTTP_ORIGIN")
        if origin is None:
            return self._application(environ, start_response)
        allowed: list[tuple[str, str]] = []
        if "*" in self._origins or origin in self._origins:
            allowed = [("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", "*")]
        if allowed and environ["REQUEST_METHOD"] == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ:
            start_response("204 No Content", [*allowed, *_PREFLIGHT, ("Vary", "Origin")])
            return ()

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [*headers, *allowed, ("Vary", "Origin")], exc_info)

        return self._application(environ, start)
