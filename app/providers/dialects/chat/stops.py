"""Finish reasons, to and from the neutral form."""

from __future__ import annotations

from app.domain.content import Stop

_STOPS: dict[str, Stop] = {
    "stop": "end",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    # Words of other vendors' own.
    "model_length": "length",  # Mistral
    "max_tokens": "length",
    "eos": "end",
    "eos_token": "end",
    "end_turn": "end",
    "tool_use": "tool_calls",
    "tool_call": "tool_calls",
    "stop_sequence": "stop_sequence",
    "refusal": "refusal",
    "safety": "content_filter",
    "SAFETY": "content_filter",
    "MAX_TOKENS": "length",
    "STOP": "end",
}
# Clients know no other words than these. An answer to go on with is not whole, and nothing else says so.
_REASONS: dict[Stop, str] = {
    "end": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "context_window": "length",
    "pause": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}
# Not an end of the answer, but its failure (OpenRouter, DeepSeek).
FAILURES = frozenset({"error", "insufficient_system_resource"})


def decode_stop(reason: object, *, has_calls: bool, has_refusal: bool) -> tuple[Stop, str]:
    """Returns why the answer ended, and the vendor's word. `stop` stands beside refusals, and often beside calls."""
    native = reason if isinstance(reason, str) else ""
    stop = _STOPS.get(native, "end")
    if stop == "end":
        stop = "refusal" if has_refusal else "tool_calls" if has_calls else "end"
    return stop, native


def encode_stop(stop: Stop, *, has_refusal: bool) -> str:
    """Returns the finish reason. A refusal in words of its own ends as any answer does."""
    return "stop" if stop == "refusal" and has_refusal else _REASONS[stop]
