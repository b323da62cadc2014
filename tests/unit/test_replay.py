"""An answer that was streamed can be given whole, and one that was given whole can be streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.domain.money import Usage
from app.gateway.replay import as_completion, as_stream


def events(*chunks: dict[str, Any]) -> list[bytes]:
    return [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]


def chunk(delta: dict[str, Any], index: int = 0, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish}], **more,
    }  # fmt: skip


def test_text_of_several_choices_is_put_together() -> None:
    blocks = events(
        chunk({"role": "assistant", "content": "Hel"}), chunk({"content": "A"}, 1), chunk({"content": "lo"}),
        chunk({}, 0, "stop"), chunk({}, 1, "length"),
    )  # fmt: skip
    whole = json.loads(as_completion(blocks, Usage(3, 2, 1)) or b"")
    assert [choice["message"]["content"] for choice in whole["choices"]] == ["Hello", "A"]
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["stop", "length"]
    assert (whole["object"], whole["usage"]["total_tokens"]) == ("chat.completion", 5)


def test_tool_calls_are_put_together() -> None:
    def call(**function: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, "id": "call_1", "function": function}]}

    blocks = events(chunk(call(name="f", arguments='{"a"')), chunk(call(arguments=":1}")), chunk({}, 0, "tool_calls"))
    (choice,) = json.loads(as_completion(blocks, Usage()) or b"")["choices"]
    (made,) = choice["message"]["tool_calls"]
    assert (made["id"], made["function"]) == ("call_1", {"name": "f", "arguments": '{"a":1}'})


def test_logprobs_are_put_together() -> None:
    first, second = chunk({"content": "a"}), chunk({"content": "b"}, 0, "stop")
    for one, token in ((first, "a"), (second, "b")):
        one["choices"][0]["logprobs"] = {"content": [{"token": token}], "refusal": None}
    (choice,) = json.loads(as_completion(events(first, second), Usage()) or b"")["choices"]
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["a", "b"]


@pytest.mark.parametrize("blocks", [[], events(chunk({"content": "x"})), [b": nothing but a comment\n\n"]])
def test_what_is_not_finished_is_no_answer(blocks: list[bytes]) -> None:
    assert as_completion(blocks, Usage()) is None


@pytest.mark.parametrize("include_usage", [False, True])
def test_there_and_back_says_the_same(include_usage: bool) -> None:
    tool = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    whole = {
        "id": "c1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"},
            {"index": 1, "message": {"role": "assistant", "content": None, "tool_calls": [tool]},
             "finish_reason": "tool_calls"},
        ],
    }  # fmt: skip
    streamed = as_stream(json.dumps(whole).encode(), include_usage=include_usage)
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in streamed]
    assert all(one["cached"] is True for one in chunks)
    assert [one["usage"] for one in chunks if one.get("usage")] == ([usage] if include_usage else [])
    back = json.loads(as_completion(streamed, Usage(3, 2)) or b"")
    for choice, again in zip(whole["choices"], back["choices"], strict=True):
        assert again["message"]["content"] == choice["message"]["content"]
        assert again["message"].get("tool_calls", [{}])[0].get("function") == choice["message"].get("tool_calls", [{}])[
            0
        ].get("function")
        assert again["finish_reason"] == choice["finish_reason"]
