"""The words of what vendors send, odd things included."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.features.answer_text import streamed_text, text_and_usage


def completion(**message: Any) -> bytes:
    return json.dumps({"choices": [{"message": message}], "usage": {"total_tokens": 3}}).encode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (completion(content="Hello"), "Hello"),
        (completion(content=None, refusal="No."), "No."),
        (completion(content="", tool_calls=[{}]), ""),
        (
            completion(content=[{"type": "thinking"}, {"type": "text", "text": "A"}, {"text": "B"}, {"text": 5}, 7]),
            "AB",
        ),
        (completion(content="half \ud800 a pair"), "half ? a pair"),
        (completion(content=5), ""),
    ],
)
def test_a_completions_words_and_usage(body: bytes, words: str) -> None:
    assert text_and_usage(body) == (words, {"total_tokens": 3})


@pytest.mark.parametrize("body", [b'{"choices":[]}', b'{"choices":[{}],"usage":7}', b"{}", b"[]", b"[" * 10_000, b"{"])
def test_what_says_nothing_is_silence(body: bytes) -> None:
    assert text_and_usage(body) == ("", None)


def test_the_words_of_a_block_of_events() -> None:
    chunks: list[Any] = [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"content": "Hel"}}]},
        {"choices": [{"delta": {"content": "lo \ud83d"}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"total_tokens": 3}},
        ["odd"],
    ]
    block = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    assert streamed_text(block) == "Hello ?"
    assert streamed_text(b"") == ""
