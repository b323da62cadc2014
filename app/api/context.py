"""What Flask's views know of a request: its `Inbound`, its caller, and the services."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from flask import Flask, Response, current_app, g, request

from app.api.paths import shown
from app.api.wire import Inbound
from app.domain.identity import Caller, Scope
from app.errors import Forbidden
from app.services import Services

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


def register(app: Flask) -> None:
    app.before_request(_begin)
    app.after_request(_finish)


def _begin() -> None:
    g.inbound = Inbound(request.environ)


def _finish(response: Response) -> Response:
    inbound: Inbound = g.inbound
    response.headers["X-Request-ID"] = inbound.request_id
    if request.url_rule is not None:
        inbound.ended(services().metrics, request.url_rule.rule, response.status_code)
    else:
        inbound.ended(services().metrics, "unmatched", response.status_code, path=shown(request.path))
    return response
