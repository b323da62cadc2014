"""What Flask's views know of a request: its `HttpRequest`, its caller, and the services."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from flask import Flask, Response, current_app, g, request

from app.api.http import HttpRequest
from app.api.paths import shown
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
    """The caller that `require` let in."""
    return cast(Caller, g.caller)


def request_id() -> str:
    return cast(HttpRequest, g.http_request).request_id


def require(scope: Scope) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lets only keys with `scope` into the view."""

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            found = services().callers.verify(g.http_request.key())
            allow(found, scope)
            g.caller = found
            return view(*args, **kwargs)

        return guarded

    return decorate


def allow(caller: Caller, scope: Scope) -> None:
    """Raises `Forbidden` unless the caller's role has `scope`."""
    if not caller.has(scope):
        raise Forbidden(f"This API key lacks the scope `{scope}`.")


def register(app: Flask, peers: TrustedProxies) -> None:
    def begin() -> None:
        http_request = g.http_request = HttpRequest(request.environ)
        http_request.began(_route(), peers)

    app.before_request(begin)
    app.after_request(_finish)


def _finish(response: Response) -> Response:
    http_request: HttpRequest = g.http_request
    response.headers["X-Request-ID"] = http_request.request_id
    route = _route()
    about = {"path": shown(request.path)} if route == _UNMATCHED else {}
    http_request.ended(services().metrics, route, response.status_code, **about)
    return response


def _route() -> str:
    return request.url_rule.rule if request.url_rule is not None else _UNMATCHED
