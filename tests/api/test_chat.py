"""The cache as a caller sees it: the answers it keeps, the keys that share them, and the shape they come back in."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import AppClient
from tests.support.response import AppResponse

CONFIG = """
providers:
  demo: {kind: demo, script: {chunk_delay_s: 0}}
  wordy: {kind: demo, script: {chunk_delay_s: 0, reply: "%s"}}
  broken: {kind: demo, script: {chunk_delay_s: 0, cut_after_chunks: 3}}
  silent: {kind: demo, script: {chunk_delay_s: 0, omit_usage: true}}
models:
  m: {targets: [{provider: demo}]}
  alias: {targets: [{provider: demo, model: m}]}
  wordy: {targets: [{provider: wordy}]}
  broken: {targets: [{provider: broken}]}
  silent: {targets: [{provider: silent}]}
cache: {ttl_s: 60, max_entry_bytes: 8192, shared: %s}
retry: {max_attempts: 1}
"""
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


@pytest.fixture
def cached(client_with: Callable[[str], AppClient]) -> AppClient:
    return client_with(CONFIG % ("word " * 2000, "false"))


def events(response: AppResponse) -> list[dict[str, Any]]:
    """The stream's events; it must have ended with `[DONE]`."""
    *data, done = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert done == "[DONE]"
    return [json.loads(line) for line in data]


def text(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def from_cache(response: AppResponse) -> str:
    assert response.status_code == 200, response.text
    return response.headers["x-penstock-cache"]


def test_the_same_question_is_answered_once_and_then_for_nothing(cached: AppClient) -> None:
    first, second = cached.chat(temperature=0), cached.chat(temperature=0)
    assert (from_cache(first), from_cache(second)) == ("miss", "hit")
    own = {"id": second.json["id"], "created": second.json["created"], "cached": True}
    assert second.json == {**first.json, **own}
    assert cached.asked == ["demo"]
    assert float(first.headers["x-penstock-cost-usd"]) > 0
    told = {name: second.headers[f"x-penstock-{name}"] for name in ("cost-usd", "provider", "attempts", "model")}
    assert told == {"cost-usd": "0", "provider": "cache", "attempts": "0", "model": "m"}
    paid, free = cached.rows()
    assert (paid["cache"], paid["status"], paid["cost_nanousd"] > 0) == ("miss", "ok", True)
    assert (free["cache"], free["status"], free["cost_nanousd"]) == ("hit", "ok", 0)
    assert (free["prompt_tokens"], free["completion_tokens"], free["attempts"]) == (0, 0, 0)


def test_every_answer_from_the_cache_has_an_id_of_its_own(cached: AppClient) -> None:
    first, *whole = (cached.chat(temperature=0, headers={"X-Request-ID": "mine"}).json["id"] for _ in range(3))
    streamed = [{chunk["id"] for chunk in events(cached.chat(temperature=0, stream=True))} for _ in range(2)]
    assert [len(ids) for ids in streamed] == [1, 1], "the same in all chunks"
    ids = {first, *whole, *streamed[0], *streamed[1]}
    assert len(ids) == 5
    rows = cached.rows()[1:]
    assert {f"chatcmpl-{row['call_id']}" for row in rows} == ids - {first}, "found again in the ledger"


@pytest.mark.parametrize("question", [{}, {"n": 2}, {"tools": [TOOL], "tool_choice": "required"}])
def test_an_answer_that_was_kept_comes_back_as_a_stream(cached: AppClient, question: dict[str, Any]) -> None:
    whole = cached.chat(temperature=0, **question).json
    response = cached.chat(temperature=0, stream=True, **question)
    assert from_cache(response) == "hit"
    chunks = events(response)
    assert all(chunk["cached"] is True and chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert all("usage" not in chunk for chunk in chunks), "nobody asked for usage"
    for choice in whole["choices"]:
        parts = [part for chunk in chunks for part in chunk["choices"] if part["index"] == choice["index"]]
        assert parts[0]["delta"]["role"] == "assistant"
        assert parts[0]["delta"].get("content") == choice["message"]["content"]
        assert [part["finish_reason"] for part in parts if part["finish_reason"]] == [choice["finish_reason"]]
        calls = parts[0]["delta"].get("tool_calls")
        assert ([{**call, "index": 0} for call in choice["message"].get("tool_calls") or ()] or None) == calls


def test_a_replayed_stream_ends_with_usage_for_those_who_ask(cached: AppClient) -> None:
    whole = cached.chat(temperature=0).json
    *chunks, last = events(cached.chat(temperature=0, stream=True, stream_options={"include_usage": True}))
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert {chunk["usage"] for chunk in chunks} == {None}


@pytest.mark.parametrize("question", [{}, {"n": 2}, {"tools": [TOOL], "tool_choice": "required"}])
def test_a_stream_that_was_kept_comes_back_as_an_answer(cached: AppClient, question: dict[str, Any]) -> None:
    streamed = cached.chat(temperature=0, stream=True, **question)
    assert from_cache(streamed) == "miss"
    again = cached.chat(temperature=0, **question)
    fresh = cached.chat(temperature=0, headers={"Cache-Control": "no-store"}, **question).json
    assert from_cache(again) == "hit"
    assert again.json["object"] == "chat.completion"
    for kept, made in zip(again.json["choices"], fresh["choices"], strict=True):
        assert kept["message"]["content"] == made["message"]["content"]
        assert kept["finish_reason"] == made["finish_reason"]
        for call in kept["message"].get("tool_calls") or ():
            assert (call["type"], call["function"]) == ("function", {"name": "get_weather", "arguments": "{}"})
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert again.json["usage"][name] == fresh["usage"][name]


def test_a_kept_stream_is_streamed_again(cached: AppClient) -> None:
    first, second = cached.chat(temperature=0, stream=True), cached.chat(temperature=0, stream=True)
    assert (from_cache(first), from_cache(second)) == ("miss", "hit")
    assert text(events(first)) == text(events(second)) != ""


def test_no_cache_fetches_anew_and_keeps(cached: AppClient) -> None:
    cached.chat(temperature=0)
    assert from_cache(cached.chat(temperature=0, headers={"Cache-Control": "no-cache"})) == "bypass"
    assert cached.asked == ["demo", "demo"]
    assert from_cache(cached.chat(temperature=0)) == "hit"

    assert from_cache(cached.chat(temperature=0, seed=1, headers={"Cache-Control": "no-cache"})) == "bypass"
    assert from_cache(cached.chat(temperature=0, seed=1)) == "hit", "what was fetched anew is kept"


def test_no_store_neither_reads_nor_keeps(cached: AppClient) -> None:
    for stream in (False, True):
        assert from_cache(cached.chat(temperature=0, stream=stream, headers={"Cache-Control": "No-Store"})) == "bypass"
    assert from_cache(cached.chat(temperature=0)) == "miss", "nothing was kept"
    assert from_cache(cached.chat(temperature=0, headers={"Cache-Control": "no-store"})) == "bypass"


@pytest.mark.parametrize(
    ("question", "expected"),
    [({"temperature": 0}, "hit"), ({"temperature": 0.3}, "hit"), ({"temperature": 0.31}, "bypass"), ({}, "bypass")],
)
def test_only_cool_calls_are_kept(cached: AppClient, question: dict[str, Any], expected: str) -> None:
    cached.chat(**question)
    assert from_cache(cached.chat(**question)) == expected
    assert bool(cached.keys("penstock:cache:*")) == (expected == "hit")


def test_another_question_gets_its_own_answer(cached: AppClient) -> None:
    cached.chat(temperature=0)
    assert from_cache(cached.chat(temperature=0, max_tokens=1)) == "miss"
    assert from_cache(cached.chat(temperature=0, unknown_field=True)) == "miss"
    assert from_cache(cached.chat("alias", temperature=0)) == "miss"
    same = '{"temperature": 0, "messages": [{"role":"user","content":"Hi"}], "model": "m"}'
    other_order = '{"model":"m", "messages": [{"role":"user","content":"Hi"}], "temperature": 0}'
    assert from_cache(cached.post(same)) == "miss"
    assert from_cache(cached.post(other_order)) == "hit"


def test_bug_07_one_keys_answers_are_not_anothers(cached: AppClient) -> None:
    mine, _ = cached.services.keys.create("mine")
    other, _ = cached.services.keys.create("other")
    assert from_cache(cached.chat(temperature=0, key=mine)) == "miss"
    assert from_cache(cached.chat(temperature=0, key=other)) == "miss"
    assert from_cache(cached.chat(temperature=0)) == "miss"
    assert from_cache(cached.chat(temperature=0, key=mine)) == "hit"


def test_keys_share_answers_only_where_the_configuration_says_so(client_with: Callable[[str], AppClient]) -> None:
    shared = client_with(CONFIG % ("x", "true"))
    other, _ = shared.services.keys.create("other")
    shared.chat(temperature=0)
    assert from_cache(shared.chat(temperature=0, key=other)) == "hit"


@pytest.mark.parametrize("stream", [False, True])
def test_long_answers_are_not_kept(cached: AppClient, stream: bool) -> None:
    assert from_cache(cached.chat("wordy", temperature=0, stream=stream)) == "miss"
    assert cached.keys("penstock:cache:*") == []
    assert len(cached.keys("penstock:unkept:*")) == 1, "and identical calls do not wait for one"


def test_identical_calls_do_not_wait_for_a_stream_whose_usage_nobody_tells(cached: AppClient) -> None:
    assert from_cache(cached.chat("silent", temperature=0, stream=True)) == "miss"
    assert cached.keys("penstock:cache:*") == []
    assert len(cached.keys("penstock:unkept:*")) == 1


def test_a_stream_that_broke_off_is_not_kept(cached: AppClient) -> None:
    broken = cached.chat("broken", temperature=0, stream=True)
    assert "[DONE]" not in broken.text
    assert json.loads(broken.text.strip().splitlines()[-1].removeprefix("data: "))["code"] == "MODEL_ERROR"
    assert cached.keys("penstock:cache:*") == []
    assert cached.keys("penstock:flight:*") == [], "and nobody waits for it"
    assert cached.keys("penstock:unkept:*") == [], "the next answer may be whole"
    assert cached.rows()[0]["status"] == "error"


def test_answers_are_kept_as_long_as_configured_and_no_longer(cached: AppClient) -> None:
    cached.chat(temperature=0)
    [key] = cached.keys("penstock:cache:*")
    assert 50_000 < cached.services.redis.execute("PTTL", key) <= 60_000
    cached.services.redis.execute("DEL", key)  # as its expiry would
    assert from_cache(cached.chat(temperature=0)) == "miss"
