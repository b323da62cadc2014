"""Hooks that shape generated requests. Loaded by schemathesis."""

from __future__ import annotations

import re
from typing import Any

import schemathesis
from schemathesis.generation import GenerationMode

from app.api.web import document

_PARAMETERS = document()["paths"]["/v1/admin/usage"]["get"]["parameters"]
_MOMENT = re.compile(next(row["schema"]["pattern"] for row in _PARAMETERS if row["name"] == "since"))


@schemathesis.hook
def before_call(_: schemathesis.HookContext, case: schemathesis.Case[Any], __: dict[str, Any]) -> None:
    """84.0 is the integer 84 to JSON Schema, which knows no spellings; OpenAI takes the second one only, as we do."""
    if isinstance(case.body, dict | list):
        case.body = _whole(case.body)
    if case.path == "/v1/messages" and isinstance(case.body, dict):
        _end_with_a_user(case.body)
    is_valid = case.meta is None or case.meta.generation.mode is GenerationMode.POSITIVE
    if is_valid and case.path.startswith("/v1beta/models/") and isinstance(case.body, dict):
        _say_something(case.body)
    if case.path == "/v1/admin/usage" and isinstance(case.query, dict):
        _in_order(case.query)


def _end_with_a_user(body: dict[str, Any]) -> None:
    """The demo's model begins an answer of its own: it does not go on with one."""
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if isinstance(messages, list) and isinstance(last, dict) and last.get("role") == "assistant":
        messages.append({"role": "user", "content": "Hello"})


def _say_something(body: dict[str, Any]) -> None:
    """Empty parts are taken where another has text: a schema cannot say so of a whole conversation."""
    contents = body.get("contents")
    if isinstance(contents, list) and contents:
        contents.append({"role": "user", "parts": [{"text": "Hello"}]})


def _in_order(query: dict[str, Any]) -> None:
    """Moments of the right shape that also exist, and follow each other: a schema cannot say so."""
    for name, moment in (("since", "30d"), ("until", "1d")):
        if isinstance(query.get(name), str) and _MOMENT.fullmatch(query[name]):
            query[name] = moment


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
