"""The OpenAPI document, and the reference page made from it: no script, nothing from other hosts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from flask import Response, redirect, render_template, request, send_file
from markupsafe import escape
from werkzeug.wrappers import Response as AnyResponse

from app.api.reference import inline, markdown, operations
from app.settings import VERSION

_WEB = Path(__file__).parents[1] / "web"
_HOST_PLACEHOLDER = "https://this-gateway.invalid"
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


def index() -> AnyResponse:
    # Claude Code sends a HEAD before its first call, to see that somebody is there.
    return Response() if request.method == "HEAD" else redirect("/docs")


def openapi() -> dict[str, Any]:
    return document()


def docs() -> Response:
    return Response(
        _page().replace(_HOST_PLACEHOLDER, str(escape(request.host_url.rstrip("/")))), headers=_PAGE_HEADERS
    )


def stylesheet() -> Response:
    return send_file(_WEB / "docs.css", mimetype="text/css", max_age=3600)


@cache
def document() -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document, with this version's number."""
    loaded: dict[str, Any] = yaml.safe_load((_WEB / "openapi.yaml").read_text(encoding="utf-8"))
    loaded["info"]["version"] = VERSION
    return loaded


@cache
def _page() -> str:
    """Returns the reference page, with `_HOST_PLACEHOLDER` for the gateway's address: it takes 0.05 s to make."""
    openapi_document = document()
    codes = openapi_document["components"]["schemas"]["Error"]["properties"]["code"]["x-enumDescriptions"]
    return render_template(
        "docs.html",
        document=openapi_document,
        introduction=markdown(openapi_document["info"]["description"]),
        operations=operations(openapi_document, _HOST_PLACEHOLDER),
        codes=[(code, inline(text)) for code, text in codes.items()],
    )
