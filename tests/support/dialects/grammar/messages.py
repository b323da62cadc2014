"""Events of messages.

stream := message_start block* message_delta message_stop      ; ping may stand anywhere
block  := content_block_start content_block_delta* content_block_stop, with index 0, 1, 2 …
"""

from __future__ import annotations

import json
from typing import Any

_STOPS = {
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "pause_turn",
    "refusal",
    "model_context_window_exceeded",
}
_DELTAS = {
    "text": {"text_delta", "citations_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "redacted_thinking": set[str](),
    "tool_use": {"input_json_delta"},
}
_START = {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"}


class MessagesGrammar:
    def __init__(self) -> None:
        self.ended = False
        self._state = "message_start"
        self._index = -1
        self._kind = ""
        self._input: str | None = None
        self._signed = self._has_calls = False

    def feed(self, name: str, payload: bytes) -> None:
        event = json.loads(payload)
        kind = event.pop("type")
        assert name == kind, "the SDK goes by the event's name"
        if kind == "ping":
            assert event == {}
            return
        getattr(self, f"_{kind}")(**event)

    def _message_start(self, message: dict[str, Any]) -> None:
        assert self._state == "message_start"
        assert set(message) >= _START, message
        assert message["id"].startswith("msg_")
        assert (message["type"], message["role"], message["content"]) == ("message", "assistant", [])
        assert message["stop_reason"] is None
        assert message["stop_sequence"] is None
        assert message["model"]
        assert {"input_tokens", "output_tokens"} <= set(message["usage"])
        self._state = "block"

    def _content_block_start(self, index: int, content_block: dict[str, Any]) -> None:
        assert self._state == "block"
        self._index += 1
        assert index == self._index
        self._kind = content_block["type"]
        self._input, self._signed = None, False
        if self._kind == "text":
            assert content_block["text"] == ""
        elif self._kind == "thinking":
            assert content_block["thinking"] == ""
            assert content_block["signature"] == ""
        elif self._kind == "redacted_thinking":
            assert content_block["data"]
        else:
            assert self._kind == "tool_use"
            assert content_block["input"] == {}
            assert content_block["id"]
            assert content_block["name"]
            self._input, self._has_calls = "", True
        self._state = "open"

    def _content_block_delta(self, index: int, delta: dict[str, Any]) -> None:
        assert self._state == "open"
        assert index == self._index
        assert delta["type"] in _DELTAS[self._kind], delta
        assert not self._signed, "a signature comes once, last"
        self._signed = delta["type"] == "signature_delta"
        if self._input is not None:
            self._input += delta["partial_json"]

    def _content_block_stop(self, index: int) -> None:
        assert self._state == "open"
        assert index == self._index
        if self._input is not None:
            assert isinstance(json.loads(self._input or "{}"), dict)
        self._state = "block"

    def _message_delta(self, delta: dict[str, Any], usage: dict[str, Any]) -> None:
        assert self._state == "block"
        assert {"stop_reason", "stop_sequence"} <= set(delta)
        assert delta["stop_reason"] in _STOPS
        assert (delta["stop_reason"] == "tool_use") == self._has_calls or delta["stop_reason"] in (
            "max_tokens",
            "refusal",
        )
        assert isinstance(usage["output_tokens"], int)
        self._state = "message_stop"

    def _message_stop(self) -> None:
        assert self._state == "message_stop"
        self.ended = True
