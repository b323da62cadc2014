"""Stop reasons of this dialect and those of the neutral form."""

from __future__ import annotations

from typing import Any

from app.domain.content import Block, Refusal, Stop, ToolCall

_READ: dict[str, Stop] = {
    "end_turn": "end",
    "max_tokens": "length",
    "stop_sequence": "stop_sequence",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "compaction": "pause",
    "refusal": "refusal",
    "model_context_window_exceeded": "context_window",
}
_WRITTEN: dict[Stop, str] = {
    "end": "end_turn",
    "length": "max_tokens",
    "stop_sequence": "stop_sequence",
    "tool_calls": "tool_use",
    "pause": "pause_turn",
    "refusal": "refusal",
    "content_filter": "refusal",
    "context_window": "model_context_window_exceeded",
}


def read_stop(reason: object) -> Stop:
    """Returns why the answer ended. A reason that is not known is taken for the ordinary end."""
    return _READ.get(reason, "end") if isinstance(reason, str) else "end"


def read_explanation(details: object) -> str:
    """Returns the model's words for its refusal in `stop_details`, "" without any."""
    explanation = details.get("explanation") if isinstance(details, dict) else None
    return explanation if isinstance(explanation, str) else ""


def write_stop(stop: Stop, *, calls: bool, refusal: str | None) -> str:
    """Returns the stop reason. `calls`: the answer calls tools, which some vendors do not say in their reason."""
    if refusal is not None:
        return "refusal"
    return "tool_use" if calls and stop == "end" else _WRITTEN[stop]


def write_details(reason: str, refusal: str | None) -> dict[str, Any] | None:
    """Returns `stop_details`: None but for refusals."""
    return {"type": "refusal", "category": None, "explanation": refusal or None} if reason == "refusal" else None


def refusal_in(blocks: tuple[Block, ...]) -> str | None:
    """Returns the words of the refusal among the blocks, None without one."""
    texts = [block.text for block in blocks if isinstance(block, Refusal)]
    return "".join(texts) if texts else None


def calls_in(blocks: tuple[Block, ...]) -> bool:
    """Returns whether tools are called."""
    return any(isinstance(block, ToolCall) for block in blocks)
