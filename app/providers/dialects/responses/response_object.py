"""The response object: what it repeats from the request, and how an answer's end stands in it."""

from __future__ import annotations

from typing import Any

import msgspec

from app.domain.content import Block, Refusal, Stop, ToolCall
from app.domain.usage import Usage
from app.providers.dialects.dialect import Framing
from app.providers.dialects.responses.usage import usage_object

# What a response says of a request that did not say it, in the order in which the API lists them.
_REPEATED: dict[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "store": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
    "metadata": {},
}
# Stops after which the answer is not whole, and the reason that clients know for it.
_INCOMPLETE: dict[Stop, str] = {
    "length": "max_output_tokens",
    "context_window": "max_output_tokens",
    "pause": "max_output_tokens",
    "content_filter": "content_filter",
}


def response_id(framing: Framing, given: str) -> str:
    """Returns the id of the answer: the vendor's if it is one of this dialect's, otherwise one of ours."""
    return given if given.startswith("resp_") else f"resp_{framing.call_id}"


def response_object(framing: Framing, *, answer_id: str, model: str, created: int, tier: str) -> dict[str, Any]:
    """Returns the response as it is when it has just begun."""
    repeated = {name: framing.fields.get(name) for name in _REPEATED}
    return {
        "id": response_id(framing, answer_id),
        "object": "response",
        "created_at": created or framing.created,
        "status": "in_progress",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": model or framing.prompt.model,
        "output": [],
        "usage": None,
        "service_tier": tier or framing.fields.get("service_tier") or "default",
        **{name: _REPEATED[name] if _absent(value) else value for name, value in repeated.items()},
    }


def _absent(value: msgspec.Raw | None) -> bool:
    return value is None or bytes(value) == b"null"


def ended(
    response: dict[str, Any], output: list[dict[str, Any]], stop: Stop, usage: Usage | None, *, refused: bool
) -> dict[str, Any]:
    """Returns the response as it is when the model has stopped. `refused`: a part of the output is a refusal."""
    reason = _INCOMPLETE.get(stop) or ("content_filter" if stop == "refusal" and not refused else None)
    return {
        **response,
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "output": output,
        "usage": usage_object(usage) if usage is not None else None,
    }


def read_stop(response: dict[str, Any], blocks: list[Block]) -> tuple[Stop, str]:
    """Returns why a response ended, and the vendor's own word for it. Raises `ValueError` if it has not."""
    status = response.get("status")
    if status == "incomplete":
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        return ("content_filter" if reason == "content_filter" else "length"), str(reason or "incomplete")
    if status not in ("completed", None):
        raise ValueError(f"the response is {status}, not completed")
    if any(isinstance(block, ToolCall) for block in blocks):
        return "tool_calls", "completed"
    return ("refusal" if any(isinstance(block, Refusal) for block in blocks) else "end"), "completed"
