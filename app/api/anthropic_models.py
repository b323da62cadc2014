"""The list of models as Anthropic's API has it, for its clients: they send `anthropic-version`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask import request

from app.errors import InvalidRequest

_MAX_LIMIT = 1000


def is_asked() -> bool:
    """Returns whether the client speaks Anthropic's dialect."""
    return "anthropic-version" in request.headers


def page_of(models: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns a page of `models`: all of them, unless the query has `limit`, `after_id` or `before_id`."""
    limit = _limit()
    found = list(map(model_of, models))
    after_id, before_id = request.args.get("after_id"), request.args.get("before_id")
    ids = [model["id"] for model in found]
    if after_id in ids:
        found = found[ids.index(after_id) + 1 :]
    elif before_id in ids:
        found = found[: ids.index(before_id)]
        return _page(found[-limit:], has_more=len(found) > limit)
    return _page(found[:limit], has_more=len(found) > limit)


def model_of(model: dict[str, Any]) -> dict[str, Any]:
    """Returns a model, given as OpenAI's list has it, as Anthropic's has it."""
    return {
        "type": "model",
        "id": model["id"],
        "display_name": model["name"],
        "created_at": datetime.fromtimestamp(model["created"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": model.get("context_window"),
        "max_tokens": model.get("max_tokens"),
    }


def _page(models: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    return {
        "data": models,
        "has_more": has_more,
        "first_id": models[0]["id"] if models else None,
        "last_id": models[-1]["id"] if models else None,
    }


def _limit() -> int:
    given = request.args.get("limit")
    if given is None:
        return _MAX_LIMIT
    if not (given.isascii() and given.isdecimal() and len(given) < 5 and 1 <= int(given) <= _MAX_LIMIT):
        raise InvalidRequest(f"Expected a number from 1 to {_MAX_LIMIT}: `limit`.", param="limit")
    return int(given)
