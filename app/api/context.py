"""What every request carries: its id, its key, its clock. No I/O, but for the look-up of a key not seen before."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

import structlog
from flask import Flask, Response, current_app, g, request

from app.domain.identity import Caller, Scope
from app.errors import Forbidden, InvalidApiKey
from app.gateway.books import CallContext
from app.providers.base import CancelToken
from app.services import Services

log = structlog.get_logger()
P = ParamSpec("P")
R = TypeVar("R")
_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def services() -> Services:
    return cast(Services, current_app.extensions["penstock"])


def request_id() -> str:
    """The client's own `X-Request-ID` if it is sane, else a new one."""
    return cast(str, g.request_id)


def caller() -> Caller:
    """The caller that `require` let in."""
    return cast(Caller, g.caller)


def call_context(cancel: CancelToken) -> CallContext:
    """This request's part of a model call, `Cache-Control` included."""
    control = request.headers.get("Cache-Control", "").lower()
    return CallContext(
        request_id=g.request_id, call_id=g.call_id, cancel=cancel,
        read_cache="no-cache" not in control and "no-store" not in control, write_cache="no-store" not in control,
    )  # fmt: skip


def require(scope: Scope, *, admitted: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lets only keys with `scope` into the view.

    `admitted` views go through admission, which verifies the key in its own round trip; for the others the key
    is verified here.
    """

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            callers = services().callers
            key = _bearer()
            found = callers.remembered(key) if admitted else callers.verified(key)
            if not found.has(scope):
                raise Forbidden(f"This API key lacks the scope `{scope}`.")
            g.caller = found
            return view(*args, **kwargs)

        return guarded

    return decorate


def _bearer() -> str:
    header: str | None = request.environ.get("HTTP_AUTHORIZATION")
    if header is None:
        raise InvalidApiKey("No API key provided. Send it as `Authorization: Bearer <key>`.")
    scheme, _, key = header.partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key or len(key) > 512:
        raise InvalidApiKey("Malformed Authorization header. Expected `Authorization: Bearer <key>`.")
    return key


def register(app: Flask) -> None:
    app.before_request(_begin)
    app.after_request(_finish)


def _begin() -> None:
    g.started = time.monotonic()
    g.call_id = f"req_{secrets.token_hex(12)}"
    given = request.environ.get("HTTP_X_REQUEST_ID")
    g.request_id = given if given and _SANE_ID.fullmatch(given) else g.call_id


def _finish(response: Response) -> Response:
    elapsed_s = time.monotonic() - g.started
    response.headers["X-Request-ID"] = g.request_id
    route = request.url_rule.rule if request.url_rule is not None else "unmatched"
    services().metrics.observe_http(route, request.method, response.status_code, elapsed_s)
    log.info(
        "request_completed", request_id=g.request_id, method=request.method, route=route,
        status=response.status_code, latency_ms=round(elapsed_s * 1000, 3),
    )  # fmt: skip
    return response
