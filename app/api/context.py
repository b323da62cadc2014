"""What Flask's views know of a request: its `Inbound`, its caller, and the services."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from flask import Flask, Response, current_app, g, request

from app.api.paths import shown
from app.api.peers import Peers
from app.api.wire import Inbound
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
    return cast(Inbound, g.inbound).request_id


def require(scope: Scope) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lets only keys with `scope` into the view."""

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            found = services().callers.verified(g.inbound.key())
            allow(found, scope)
            g.caller = found
            return view(*args, **kwargs)

        return guarded

    return decorate


def allow(caller: Caller, scope: Scope) -> None:
    """Raises `Forbidden` unless the caller's role has `scope`."""
    if not caller.has(scope):
        raise Forbidden(f"This API key lacks the scope `{scope}`.")


def register(app: Flask, peers: Peers) -> None:
    def begin() -> None:
        inbound = g.inbound = Inbound(request.environ)
        inbound.began(_route(), peers)

    app.before_request(begin)
    app.after_request(_finish)


def _finish(response: Response) -> Response:
    inbound: Inbound = g.inbound
    response.headers["X-Request-ID"] = inbound.request_id
    route = _route()
    about = {"path": shown(request.path)} if route == _UNMATCHED else {}
    inbound.ended(services().metrics, route, response.status_code, **about)
    return response


def _route() -> str:
    return request.url_rule.rule if request.url_rule is not None else _UNMATCHED
