"""CORS: calls of browsers from other origins, allowed for the origins in `server.cors_origins` and no others.

A WSGI middleware, there only when origins are configured. Keys are sent in a header, never in a
cookie, so that credentials are not allowed, and `*` exposes every header. Rules: the Fetch standard, "CORS protocol".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

_Application = Callable[[dict[str, Any], Any], Iterable[bytes]]
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_MAX_HEADER_NAMES = 64  # OpenAI's SDK asks for a dozen
_MAX_AGE_S = "600"


class Cors:
    """WSGI middleware. `origins`: as browsers send them (scheme, host, port), or "*". `methods`: those of any route."""

    def __init__(self, application: _Application, origins: tuple[str, ...], *, methods: Iterable[str]) -> None:
        self._application = application
        self._origins = frozenset(origin.rstrip("/") for origin in origins)
        self._methods = ", ".join(sorted(methods))

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        origin = environ.get("HTTP_ORIGIN")
        if origin is None:
            return self._application(environ, start_response)
        allowed: list[tuple[str, str]] = []
        if "*" in self._origins or origin in self._origins:
            allowed = [("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", "*")]
        if allowed and environ["REQUEST_METHOD"] == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ:
            start_response("204 No Content", [*allowed, *self._preflight(environ)])
            return ()

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [*headers, *allowed, ("Vary", "Origin")], exc_info)

        return self._application(environ, start)

    def _preflight(self, environ: dict[str, Any]) -> list[tuple[str, str]]:
        """Allows every header that is asked for: SDKs add their own (`x-stainless-*`), with every version more."""
        requested = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "").split(",", _MAX_HEADER_NAMES)[
            :_MAX_HEADER_NAMES
        ]
        names = [name for name in map(str.strip, requested) if _HEADER_NAME.fullmatch(name)]
        headers = [
            ("Access-Control-Allow-Methods", self._methods),
            ("Access-Control-Max-Age", _MAX_AGE_S),
            ("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
        ]
        return [*headers, ("Access-Control-Allow-Headers", ", ".join(names))] if names else headers
