"""Reference page: the OpenAPI document's operations with their fields, responses and headers, and a command to copy.

Markdown becomes HTML here, with everything else escaped. No Flask, no request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import mistune
from markupsafe import Markup

_PARAGRAPHS = mistune.create_markdown(escape=True)
_MAX_DEPTH = 2  # of fields inside fields


class Field(NamedTuple):
    """A row of a table of fields; `name` with its path, as in `messages[].role`."""

    name: str
    type: str
    required: bool
    text: Markup


class Response(NamedTuple):
    """A response: its status and content types, fields and headers."""

    status: str
    text: Markup
    content_types: tuple[str, ...]
    fields: tuple[Field, ...]
    headers: tuple[Field, ...]


class Operation(NamedTuple):
    """An operation: a method of a path."""

    id: str
    tags: tuple[str, ...]
    method: str
    path: str
    summary: str
    text: Markup
    parameters: tuple[Field, ...]
    body_types: tuple[str, ...]
    body: tuple[Field, ...]
    responses: tuple[Response, ...]
    errors: tuple[Response, ...]  # all of the one shape, so without fields
    curl: str


def markdown(text: str) -> Markup:
    """Returns the HTML of paragraphs."""
    return Markup(_PARAGRAPHS(text))  # noqa: S704 - made from our own document, and escaped


def inline(text: str) -> Markup:
    """Returns the HTML of a sentence or two, for a table's cell."""
    html = str(_PARAGRAPHS(text)).strip()
    return Markup(html.removeprefix("<p>").removesuffix("</p>"))  # noqa: S704 - as above


def operations(document: dict[str, Any], host_url: str) -> list[Operation]:
    """Returns the operations of `document`, in its order. `host_url`: of the commands, without a slash at its end."""
    return [
        _operation(document, path, method, operation, host_url)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def _operation(document: dict[str, Any], path: str, method: str, operation: dict[str, Any], host: str) -> Operation:
    content = _resolved(document, operation.get("requestBody", {})).get("content", {})
    schema = next(iter(content.values()))["schema"] if content else {}
    shown = [_response(document, status, response) for status, response in operation["responses"].items()]
    errors = tuple(response for response in shown if _is_error(response.status) and not response.fields)
    return Operation(
        id=operation["operationId"],
        tags=tuple(operation["tags"]),
        method=method,
        path=path,
        summary=operation["summary"],
        text=markdown(operation.get("description", "")),
        parameters=tuple(_parameter(document, parameter) for parameter in operation.get("parameters", ())),
        body_types=tuple(content),
        body=tuple(_fields(document, schema)),
        responses=tuple(response for response in shown if response not in errors),
        errors=errors,
        curl=_curl(operation, path, method, host, content),
    )


def _is_error(status: str) -> bool:
    return status == "default" or status >= "400"


def _response(document: dict[str, Any], status: str, response: dict[str, Any]) -> Response:
    response = _resolved(document, response)
    content = response.get("content", {})
    fields: tuple[Field, ...] = ()
    for media in content.values():
        if media["schema"] != {"$ref": "#/components/schemas/Error"}:
            fields = fields or tuple(_fields(document, media["schema"]))
    headers = tuple(
        Field(name, _type(document, header["schema"]), False, inline(header.get("description", "")))
        for name, header in response.get("headers", {}).items()
    )
    return Response(status, inline(response["description"]), tuple(content), fields, headers)


def _parameter(document: dict[str, Any], parameter: dict[str, Any]) -> Field:
    found = _resolved(document, parameter)
    schema = found["schema"]
    text = found.get("description", schema.get("description", ""))
    name = f"{found['name']} ({found['in']})"
    return Field(name, _type(document, schema), found.get("required", False), inline(_with_bounds(text, schema)))


def _fields(document: dict[str, Any], schema: dict[str, Any], path: str = "", depth: int = 0) -> Iterator[Field]:
    schema = _resolved(document, schema)
    required = schema.get("required", ())
    for name, given in schema.get("properties", {}).items():
        field = _resolved(document, given)
        text = _with_bounds(field.get("description", ""), field)
        yield Field(path + name, _type(document, given), name in required, inline(text))
        if depth < _MAX_DEPTH:
            items = field.get("items")
            inside, mark = (field, ".") if items is None else (items, "[].")
            yield from _fields(document, inside, f"{path}{name}{mark}", depth + 1)


def _type(document: dict[str, Any], schema: dict[str, Any]) -> str:
    schema = _resolved(document, schema)
    if "enum" in schema or "const" in schema:
        return " | ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    if "oneOf" in schema:
        return " | ".join(_type(document, option) for option in schema["oneOf"])
    given = schema.get("type", "any")
    return " | ".join(given) if isinstance(given, list) else str(given)


def _with_bounds(text: str, schema: dict[str, Any]) -> str:
    """Returns `text`, and the schema's bounds in words."""
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None:
        text += f" From {least:,} to {most:,}." if most is not None else f" From {least:,} on."
    if "default" in schema:
        text += f" Unset: `{schema['default']}`."
    return text.strip()


def _resolved(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        found: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def _curl(operation: dict[str, Any], path: str, method: str, host: str, content: dict[str, Any]) -> str:
    verb = f"-X {method.upper()} " if method not in ("get", "post") or (method == "post" and not content) else ""
    lines = [f"curl {verb}{host}{path}"]
    if operation.get("security") != []:
        lines.append('-H "Authorization: Bearer $PENSTOCK_KEY"')
    body = content.get("application/json", {})
    if "example" in body:
        lines.append(f"-H 'Content-Type: application/json' -d '{json.dumps(body['example'], ensure_ascii=False)}'")
    if "multipart/form-data" in content:
        lines.append("-F purpose=batch -F file=@requests.jsonl")
    return " \\\n  ".join(lines)
