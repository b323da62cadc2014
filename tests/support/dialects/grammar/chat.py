"""Chunks of chat completions, as strict clients want them.

stream := role chunk* finish usage? [DONE]
"""

from __future__ import annotations

import json
from typing import Any

_REASONS = {"stop", "length", "tool_calls", "content_filter"}
_DELTA = {"role", "content", "refusal", "reasoning_content", "thinking_blocks", "tool_calls", "annotations", "images"}
_TOP = {"id", "object", "created", "model", "choices", "usage", "service_tier"}


class ChatGrammar:
    def __init__(self) -> None:
        self.ended = False
        self._head: tuple[Any, ...] = ()
        self._finished = self._has_usage = False
        self._calls: list[str] = []
        self._items: dict[str, int] = {}

    def feed(self, name: str, payload: bytes) -> None:
        assert name == ""
        if payload == b"[DONE]":
            assert self._finished
            for arguments in self._calls:
                assert isinstance(json.loads(arguments), dict)
            self.ended = True
            return
        chunk = json.loads(payload)
        assert set(chunk) <= _TOP, chunk
        head = (chunk["id"], chunk["object"], chunk["created"], chunk["model"])
        assert all(head)
        assert head[1] == "chat.completion.chunk"
        first, self._head = not self._head, self._head or head
        assert head == self._head
        assert not self._has_usage
        if chunk["choices"] == []:
            assert self._finished
            assert {"prompt_tokens", "completion_tokens", "total_tokens"} <= set(chunk["usage"])
            self._has_usage = True
            return
        assert chunk.get("usage") is None
        self._choice(chunk["choices"], first=first)

    def _choice(self, choices: list[dict[str, Any]], *, first: bool) -> None:
        (choice,) = choices
        assert choice["index"] == 0
        delta, reason = choice["delta"], choice["finish_reason"]
        assert not self._finished
        assert set(delta) <= _DELTA, delta
        assert ("role" in delta) == first
        assert delta.get("role", "assistant") == "assistant"
        for field in ("content", "refusal", "reasoning_content"):
            assert isinstance(delta.get(field, ""), str), delta
        for call in delta.get("tool_calls", ()):
            self._call(call)
        for field in ("thinking_blocks", "annotations", "images"):
            for item in delta.get(field, ()):
                assert item["index"] == self._items.get(field, 0), "SDKs put the items together by their index"
                self._items[field] = item["index"] + 1
        if reason is not None:
            assert reason in _REASONS
            assert (reason == "tool_calls") == bool(self._calls) or reason in ("length", "content_filter")
            self._finished = True

    def _call(self, call: dict[str, Any]) -> None:
        index, function = call["index"], call["function"]
        if index == len(self._calls):
            assert call["id"]
            assert call["type"] == "function"
            assert function["name"]
            self._calls.append("")
        else:
            assert index == len(self._calls) - 1, "calls follow each other"
            assert set(call) <= {"index", "function", "extra_content"}
            assert "name" not in function
        self._calls[index] += function["arguments"]
