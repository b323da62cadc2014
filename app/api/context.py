"""Request context of Flask's views: the `HttpRequest`, the caller, and the services."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from flask import Flask, Response, current_app, g, request

from app.api.http import HttpRequest
from app.api.paths import printable_path
from app.api.trusted_proxies import TrustedProxies
from app.domain.identity import Caller, Scope
from app.errors import Forbidden
from app.services import Services

_UNMATCHED = "unmatched"
P = ParamSpec("P")
R = TypeVar("R")


def services() -> Services:
    return cast(Services, current_app.extensions["penstock"])


def caller() -> Caller:
    """Returns the caller that `require` let in."""
    return cast(Caller, g.caller)


def request_id() -> str:
    return cast(HttpRequest, g.http_request).request_id


def require(scope: Scope) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Returns a decorator that lets only keys with `scope` into a view."""

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            verified = services().callers.verify(g.http_request.api_key())
            check_scope(verified, scope)
            g.caller = verified
            return view(*args, **kwargs)

        return guarded

    return decorate


def check_scope(caller: Caller, scope: Scope) -> None:
    """Raises `Forbidden` unless the caller's role has `scope`."""
    if not caller.has(scope):
        raise Forbidden(f"This API key lacks the scope `{scope}`.")


def register(app: Flask, proxies: TrustedProxies) -> None:
    """Has Flask make an `HttpRequest` of each request, and log and count it."""

    def start() -> None:
        http_request = g.http_request = HttpRequest(request.environ)
        http_request.log_started(_route(), proxies)

    app.before_request(start)
    app.after_request(_complete)


def _complete(response: Response) -> Response:
    http_request: HttpRequest = g.http_request
    response.headers["X-Request-ID"] = http_request.request_id
    route = _route()
    log_fields = {"path": printable_path(request.path)} if route == _UNMATCHED else {}
    http_request.record_completed(services().metrics, route, response.status_code, **log_fields)
    return response


def _route() -> str:
    return request.url_rule.rule if request.url_rule is not None else _UNMATCHED
