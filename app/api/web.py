"""The OpenAPI document and the reference page that is made from it: no script, nothing from elsewhere."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from flask import Blueprint, Response, redirect, render_template, request, send_file
from werkzeug.wrappers import Response as AnyResponse

from app.settings import VERSION

bp = Blueprint("web", __name__)
_WEB = Path(__file__).parents[1] / "web"
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


@bp.get("/")
def index() -> AnyResponse:
    return redirect("/docs")


@bp.get("/openapi.json")
def openapi() -> dict[str, Any]:
    return document()


@bp.get("/docs")
def docs() -> Response:
    found = document()
    codes = found["components"]["schemas"]["Error"]["properties"]["code"]["enum"]
    page = render_template("docs.html", document=found, operations=_operations(found, request.host_url), codes=codes)
    return Response(page, headers=_PAGE_HEADERS)


@bp.get("/assets/docs.css")
def stylesheet() -> Response:
    return send_file(_WEB / "docs.css", mimetype="text/css", max_age=3600)


@cache
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document, with this version's number."""
    found: dict[str, Any] = yaml.safe_load((_WEB / "openapi.yaml").read_text(encoding="utf-8"))
    found["info"]["version"] = VERSION
    return found


def _operations(found: dict[str, Any], host_url: str) -> list[dict[str, Any]]:
    """Each operation as the page shows it: with its path, its body's fields and a command to copy."""
    rows = []
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            schema = body.get("schema", {})
            if "$ref" in schema:
                schema = found["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
            curl = f"curl {'-X DELETE ' if method == 'delete' else ''}{host_url.rstrip('/')}{path}"
            if operation.get("security") != []:
                curl += ' \\\n  -H "Authorization: Bearer $PENSTOCK_KEY"'
            if "example" in body:
                curl += f" \\\n  -H 'Content-Type: application/json' -d '{json.dumps(body['example'])}'"
            rows.append(
                {**operation, "path": path, "method": method, "curl": curl, "fields": schema.get("properties", {})}
            )
    return rows
