"""Answers of generateContent, one after the other: the last one, and no other, has a finish reason."""

from __future__ import annotations

import json
from typing import Any

_REASONS = {"STOP", "MAX_TOKENS", "SAFETY", "RECITATION", "OTHER"}
_DATA = {"text", "inlineData", "fileData", "functionCall", "executableCode", "codeExecutionResult"}
_PART = _DATA | {"thought", "thoughtSignature"}
_TOP = {"candidates", "usageMetadata", "modelVersion", "responseId", "createTime", "promptFeedback"}


class GeminiGrammar:
    def __init__(self) -> None:
        self.ended = False
        self._ids: tuple[Any, ...] = ()

    def feed(self, name: str, payload: bytes) -> None:
        assert name == ""
        assert payload != b"[DONE]", "clients cannot parse it"
        answer = json.loads(payload)
        assert set(answer) <= _TOP, answer
        ids = (answer["responseId"], answer["modelVersion"])
        assert all(ids)
        self._ids = self._ids or ids
        assert ids == self._ids
        (candidate,) = answer["candidates"]
        assert candidate.get("index", 0) == 0
        content = candidate.get("content") or {"role": "model", "parts": []}
        assert content["role"] == "model"
        for part in content["parts"]:
            assert set(part) <= _PART, part
            assert len(set(part) & _DATA) == 1, part
            call = part.get("functionCall")
            assert call is None or (call["name"] and isinstance(call.get("args", {}), dict))
        reason = candidate.get("finishReason")
        if reason is not None:
            assert reason in _REASONS
            assert "usageMetadata" in answer
            self.ended = True
