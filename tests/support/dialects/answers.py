"""Features of answers: a turn that each played vendor says in its own dialect, and what a client is to have of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tests.support.dialects.calls import NAMES, WIRES, judge
from tests.support.dialects.prompts import HI, TOOLS
from tests.support.vendors.play import Asked, Call, Offered, Turn

_WEATHER = Offered("weather", {"type": "object", "properties": {"city": {"type": "string"}}})
_NOW = Offered("now", {"type": "object"})


@dataclass(frozen=True)
class Said:
    """`stops`: by dialect, as the SDKs name them."""

    turn: Turn
    stops: dict[str, str]


def _turn(**fields: Any) -> Turn:
    return Turn(id="000001", model="plain", **fields)


def _stops(chat: str, messages: str, responses: str, gemini: str) -> dict[str, str]:
    return {"chat": chat, "messages": messages, "responses": responses, "gemini": gemini}


_END = _stops("stop", "end_turn", "completed", "STOP")
_TOOLS = _stops("tool_calls", "tool_use", "completed", "STOP")
_WORDS = ("Hello ", "there", ", ", "Ü𝄞", ".")

TURNS: dict[str, Said] = {
    "text": Said(_turn(words=_WORDS), _END),
    "thinking and text": Said(_turn(thinking="Let me think about it.", words=_WORDS, reasoning=3), _END),
    "a tool call": Said(_turn(calls=(Call("", _WEATHER, {"city": "Ulm"}),), stop="tool_calls"), _TOOLS),
    "a tool call without arguments": Said(_turn(calls=(Call("", _NOW, {}),), stop="tool_calls"), _TOOLS),
    "thinking, text and tool calls": Said(
        _turn(
            thinking="Let me think about it.",
            words=_WORDS,
            calls=(Call("", _WEATHER, {"city": "Ulm"}), Call("", _WEATHER, {"city": "Bonn"}), Call("", _NOW, {})),
            stop="tool_calls",
        ),
        _TOOLS,
    ),
    "arguments only at the end": Said(
        _turn(
            calls=(Call("", _WEATHER, {"city": "Ulm"}), Call("", _WEATHER, {"city": "Bonn"})),
            stop="tool_calls",
            done_only=True,
        ),
        _TOOLS,
    ),
    "length": Said(
        _turn(words=_WORDS, stop="length"), _stops("length", "max_tokens", "incomplete max_output_tokens", "MAX_TOKENS")
    ),
    "usage with cache and reasoning": Said(
        _turn(words=("a",), prompt_tokens=1000, completion_tokens=200, cached=300, reasoning=50, written=100), _END
    ),
}

_SAYS_STOP = _stops("stop", "end_turn", "completed", "STOP")
_FILTERED = _stops("content_filter", "refusal", "incomplete content_filter", "SAFETY")
# Of how a turn ends at a vendor: the end as the SDK of each caller's dialect names it.
ENDS: dict[tuple[str, str], dict[str, str]] = {
    ("stop_sequence", "chat"): _SAYS_STOP,
    ("stop_sequence", "responses"): _SAYS_STOP,
    ("stop_sequence", "gemini"): _SAYS_STOP,
    ("stop_sequence", "messages"): {**_SAYS_STOP, "messages": "stop_sequence"},
    ("pause", "messages"): _stops("length", "pause_turn", "incomplete max_output_tokens", "MAX_TOKENS"),
    ("refusal", "chat"): _stops("stop", "refusal", "completed", "SAFETY"),
    ("refusal", "responses"): _stops("stop", "refusal", "completed", "SAFETY"),
    **{("refusal", vendor): _FILTERED for vendor in ("messages", "gemini")},
    **{("filter", vendor): _FILTERED for vendor in NAMES},
}


def ending(kind: str) -> Turn:
    """Returns a turn that ends so."""
    return _turn(words=("I ", "cannot."), stop=kind)


def asked(vendor: str, *, stream: bool = False) -> Asked:
    """Returns a request to the vendor, which offers the tools that the turns call."""
    body = {**HI[vendor], **TOOLS[vendor]}
    if vendor != "gemini":
        body["model"] = "plain"
        if stream:
            body["stream"] = True
    if vendor == "responses":
        body["include"] = ["reasoning.encrypted_content"]
    if vendor == "chat" and stream:
        body["stream_options"] = {"include_usage": True}
    return replace(judge(vendor, body, stream=stream), shows=True)


def whole(vendor: str, turn: Turn) -> dict[str, Any]:
    """Returns the turn as the vendor's whole answer."""
    return WIRES[vendor].whole(turn, asked(vendor))


def stream(vendor: str, turn: Turn) -> bytes:
    """Returns the turn as the vendor's stream."""
    pieces = WIRES[vendor].pieces(turn, asked(vendor, stream=True))
    return b"".join([*pieces.opening, *pieces.content, *pieces.ending])
