"""Pagination of lists: the query's `limit`, `after` and `offset`, and a page in OpenAI's shape."""

from __future__ import annotations

from typing import Any

from flask import request

from app.errors import InvalidRequest

_MAX_OFFSET = 10_000_000


def limit(default: int, most: int) -> int:
    """Returns the query's `limit`, from 1 to `most`. Raises `InvalidRequest`."""
    return _number("limit", default, 1, most)


def offset() -> int:
    """Returns the query's `offset`, 0 if there is none. Raises `InvalidRequest`."""
    return _number("offset", 0, 0, _MAX_OFFSET)


def after() -> str | None:
    """Returns the query's `after`, the id of the last item of the page before. Raises `InvalidRequest`."""
    item_id = request.args.get("after")
    if item_id and "\x00" in item_id:  # PostgreSQL refuses to compare it
        raise InvalidRequest("Expected an id: `after`.", param="after")
    return item_id


def page(data: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """Returns a page of a list, as OpenAI's clients expect it."""
    ids = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"object": "list", "data": data, **ids, "has_more": has_more}


def _number(name: str, default: int, least: int, most: int) -> int:
    text = request.args.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not least <= int(text) <= most:
        raise InvalidRequest(f"Expected a number from {least} to {most}: `{name}`.", param=name)
    return int(text)
