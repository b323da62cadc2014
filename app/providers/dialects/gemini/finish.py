"""Finish reasons of Gemini: read as the neutral reason of an answer's end, and written from it.

Source: the google-genai package, its enumerations of finish reasons and of reasons to block a prompt.
"""

from __future__ import annotations

from app.domain.content import Stop

_FILTERED = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "IMAGE_OTHER",
        "ESCALATION",
        "PUP_LIMITED_DISABLED",
        "MODEL_ARMOR",
    }
)
# The model wrote what is no answer: nobody filtered it, and there is nothing to go on with.
_FAILED = frozenset(
    {
        "MALFORMED_FUNCTION_CALL",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MISSING_THOUGHT_SIGNATURE",
        "MALFORMED_RESPONSE",
    }
)
_WRITTEN: dict[Stop, str] = {
    "end": "STOP",
    "stop_sequence": "STOP",
    "tool_calls": "STOP",
    "pause": "MAX_TOKENS",
    "length": "MAX_TOKENS",
    "context_window": "MAX_TOKENS",
    "content_filter": "SAFETY",
    "refusal": "SAFETY",
}


def failed(reason: str) -> bool:
    """Tells if `reason` says that there is no answer."""
    return reason in _FAILED


def read_reason(reason: str, has_calls: bool) -> Stop:
    """Returns the neutral reason. One that nobody knows is an ordinary end; the vendor's own word stands beside it."""
    if reason == "MAX_TOKENS":
        return "length"
    if reason in _FILTERED:
        return "content_filter"
    if reason == "CONTINUATION":
        return "pause"
    return "tool_calls" if has_calls else "end"


def write_reason(stop: Stop) -> str:
    """Returns Gemini's word: one that every client knows."""
    return _WRITTEN[stop]
