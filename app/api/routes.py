"""Table of routes: method, path, handler and scope of every endpoint.

The fast path and Flask are both built from it. A path stands without its prefix: each is served under `/v1` and
`/api/v1`, unless its row names other prefixes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from flask import Flask, Response, g
from werkzeug.routing import PathConverter

from app.api import (
    admin,
    batches,
    chat_completions,
    completions,
    debug,
    embeddings,
    files,
    gemini,
    jobs,
    media,
    messages,
    models,
    ops,
    responses,
    support,
    web,
)
from app.api.context import caller, require, services
from app.api.http import HttpRequest, HttpResponse
from app.domain.generation import DialectName
from app.domain.identity import Caller, Scope
from app.domain.media import RULES, MediaEndpoint
from app.services import Services

PREFIXES = ("/v1", "/api/v1")
# Google's clients put their own version before a model's path.
_GOOGLE = ("/v1beta",)
MODEL_PREFIXES = (*_GOOGLE, *PREFIXES)
_ROOT = ("",)
_EVERYWHERE = (*PREFIXES, "")


class BodyRoute(NamedTuple):
    """A POST with a body, on the fast path. The handler's caller may be one from memory: it must call a model.

    Its errors are told in `dialect`. `types` are the content types that the body may have.
    """

    path: str
    scope: Scope
    handler: Callable[[Services, Caller, HttpRequest, bytes], HttpResponse]
    dialect: DialectName = "chat"
    types: tuple[str, ...] = ("application/json",)


class ModelRoute(NamedTuple):
    """A POST about a model that its path names: `/models/<model>:<verb>`. Otherwise as a `BodyRoute`."""

    verb: str
    scope: Scope
    handler: Callable[[Services, Caller, HttpRequest, bytes, str], HttpResponse]
    dialect: DialectName = "gemini"
    types: tuple[str, ...] = ("application/json",)


class JobRoute(NamedTuple):
    """A request about one job, whose id ends the path, on the fast path. The handler's caller is verified."""

    method: str
    path: str
    scope: Scope
    handler: Callable[[Services, Caller, HttpRequest, str], HttpResponse]

    @property
    def parent(self) -> str:
        """The path without the job's id."""
        return self.path.removesuffix("/<job_id>")


class FlaskRoute(NamedTuple):
    """A Flask view. A `scope` of None lets everybody in."""

    method: str
    path: str
    scope: Scope | None
    view: Callable[..., Any]
    prefixes: tuple[str, ...] = PREFIXES


def _media_route(endpoint: MediaEndpoint) -> BodyRoute:
    handler = partial(media.create, endpoint=endpoint)
    return BodyRoute(f"/{endpoint.replace('.', '/')}", Scope.CHAT, handler, types=media.accepted_types(endpoint))


Routes = tuple[BodyRoute | ModelRoute | JobRoute | FlaskRoute, ...]

ROUTES: Routes = (
    BodyRoute("/chat/completions", Scope.CHAT, chat_completions.create),
    BodyRoute("/chat/smart", Scope.CHAT, partial(chat_completions.create, smart=True)),
    BodyRoute("/completions", Scope.CHAT, completions.create),
    BodyRoute("/messages", Scope.CHAT, messages.create, "messages"),
    BodyRoute("/messages/count_tokens", Scope.CHAT, messages.count_tokens, "messages"),
    BodyRoute("/embeddings", Scope.EMBED, embeddings.create),
    BodyRoute("/responses", Scope.CHAT, responses.create, "responses"),
    BodyRoute("/responses/input_tokens", Scope.CHAT, responses.count_tokens, "responses"),
    # Longer than `input_tokens`, which is no id.
    FlaskRoute("GET", "/responses/<string(minlength=13):response_id>", Scope.CHAT, responses.retrieve),
    FlaskRoute("DELETE", "/responses/<string(minlength=13):response_id>", Scope.CHAT, responses.delete),
    FlaskRoute("GET", "/responses/<response_id>/input_items", Scope.CHAT, responses.input_items),
    ModelRoute("generateContent", Scope.CHAT, gemini.generate),
    ModelRoute("streamGenerateContent", Scope.CHAT, gemini.stream),
    ModelRoute("countTokens", Scope.CHAT, gemini.count_tokens),
    ModelRoute("embedContent", Scope.EMBED, gemini.embed),
    ModelRoute("batchEmbedContents", Scope.EMBED, gemini.embed_batch),
    *(_media_route(endpoint) for endpoint in RULES),
    BodyRoute("/chat/async", Scope.CHAT, jobs.submit),
    JobRoute("GET", "/requests/<job_id>", Scope.CHAT, jobs.show),
    JobRoute("DELETE", "/requests/<job_id>", Scope.CHAT, jobs.cancel),
    BodyRoute("/chat", Scope.CHAT, support.converse),
    # A path, so that a slash is refused as what it is, a wrong user id, and not as an unknown URL.
    FlaskRoute("GET", "/chat/history/<path:user_id>", Scope.CHAT, support.history),
    FlaskRoute("DELETE", "/chat/history/<path:user_id>", Scope.CHAT, support.forget),
    FlaskRoute("GET", "/models", Scope.CHAT, models.list_models),
    FlaskRoute("GET", "/models/<path:model_id>", Scope.CHAT, models.get_model),
    FlaskRoute("GET", "/models", Scope.CHAT, gemini.list_models, _GOOGLE),
    FlaskRoute("GET", "/models/<google_model:model_id>", Scope.CHAT, gemini.get_model, _GOOGLE),
    FlaskRoute("POST", "/files", Scope.CHAT, files.create_file),
    FlaskRoute("GET", "/files", Scope.CHAT, files.list_files),
    FlaskRoute("GET", "/files/<file_id>", Scope.CHAT, files.retrieve_file),
    FlaskRoute("GET", "/files/<file_id>/content", Scope.CHAT, files.file_content),
    FlaskRoute("DELETE", "/files/<file_id>", Scope.CHAT, files.delete_file),
    FlaskRoute("POST", "/batches", Scope.CHAT, batches.create_batch),
    FlaskRoute("GET", "/batches", Scope.CHAT, batches.list_batches),
    FlaskRoute("GET", "/batches/<batch_id>", Scope.CHAT, batches.retrieve_batch),
    FlaskRoute("POST", "/batches/<batch_id>/cancel", Scope.CHAT, batches.cancel_batch),
    FlaskRoute("GET", "/admin/usage", Scope.ADMIN, admin.usage),
    FlaskRoute("GET", "/queue/metrics", Scope.ADMIN, ops.queue_metrics),
    FlaskRoute("GET", "/debug", Scope.ADMIN, debug.debug, _EVERYWHERE),
    FlaskRoute("GET", "/health/detailed", Scope.ADMIN, ops.health_detailed, _EVERYWHERE),
    FlaskRoute("GET", "/health", None, ops.health, _EVERYWHERE),
    FlaskRoute("GET", "/healthz", None, ops.health, _ROOT),
    FlaskRoute("GET", "/ready", None, ops.ready, _EVERYWHERE),
    FlaskRoute("GET", "/metrics", None, ops.metrics, _ROOT),
    FlaskRoute("GET", "/", None, web.index, _ROOT),
    FlaskRoute("GET", "/docs", None, web.docs, _ROOT),
    FlaskRoute("GET", "/openapi.json", None, web.openapi, _ROOT),
    FlaskRoute("GET", "/assets/docs.css", None, web.stylesheet, _ROOT),
)


class _GoogleModel(PathConverter):
    """A model's name, slashes and colons included, that no method of a `ModelRoute` follows: that is another URL."""

    regex = rf"(?!.*:(?:{'|'.join(route.verb for route in ROUTES if isinstance(route, ModelRoute))})$)[^/].*?"


def client_families(routes: Routes) -> frozenset[str]:
    """Returns the first segments of the paths that callers' clients use; operators' paths are not among them."""
    return frozenset(
        route.path.split("/")[1]
        for route in routes
        if not isinstance(route, ModelRoute) and route.scope in (Scope.CHAT, Scope.EMBED)
    )


def register(app: Flask, routes: Routes) -> None:
    """Gives Flask a rule for each route. It answers 405 to other methods, and HEAD for GET; the fast path's own methods
    do not come to it."""
    app.url_map.converters["google_model"] = _GoogleModel
    for route in routes:
        if isinstance(route, FlaskRoute):
            view = route.view if route.scope is None else require(route.scope)(route.view)
            _add_rules(app, route.method, route.path, route.prefixes, view)
        elif isinstance(route, JobRoute):
            _add_rules(app, route.method, route.path, PREFIXES, require(route.scope)(partial(_job_view, route)))
        elif isinstance(route, ModelRoute):
            _add_rules(app, "POST", f"/models/<path:model>:{route.verb}", MODEL_PREFIXES, None)
        else:
            _add_rules(app, "POST", route.path, PREFIXES, None)


def _add_rules(app: Flask, method: str, path: str, prefixes: tuple[str, ...], view: Callable[..., Any] | None) -> None:
    for prefix in prefixes:
        app.add_url_rule(prefix + path, f"{method} {prefix}{path}", view, methods=[method])


def _job_view(route: JobRoute, job_id: str) -> Response:
    response = route.handler(services(), caller(), g.http_request, job_id)
    return Response(response.body, response.status, response.headers)
