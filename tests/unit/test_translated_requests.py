"""Requests that are too much to translate are refused as such: nothing else in the worker runs meanwhile."""

from __future__ import annotations

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.config.providers import ProviderConfig, Timeouts
from app.domain.chat import ChatRequest
from app.domain.content import Opaque
from app.domain.gemini import GeminiRequest
from app.errors import InvalidRequest, UpstreamUnavailable
from app.providers.dialects import decode_request
from app.providers.dialects.carrier import pack
from app.providers.reasoning import ReasoningMemory
from app.providers.upstream_errors import log_stumble
from app.providers.wire_provider import WireProvider
from tests.support.providers import chat_call, scripted_server

ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


def nested(depth: int) -> str:
    return '{"type":"object","properties":{"a":' * depth + '{"type":"object"}' + "}}" * depth


def test_more_messages_than_can_be_translated_in_time_are_refused() -> None:
    messages = [{"role": "user", "content": "a"}] * 10_001
    with pytest.raises(InvalidRequest, match="10000 messages"):
        decode_request(ChatRequest.parse(json.dumps({"model": "m", "messages": messages}).encode()))


@pytest.mark.parametrize("depth", [10, 200, 450, 5000])
def test_a_schema_that_is_nested_too_deeply_is_the_callers_mistake(depth: int) -> None:
    tools = f'[{{"type":"function","function":{{"name":"f","parameters":{nested(depth)}}}}}]'
    provider = WireProvider(
        name="google",
        config=ProviderConfig(kind="gemini", base_url="http://127.0.0.1:1", api_key="k"),
        timeouts=Timeouts(connect_s=0.5),
        heartbeat_s=15,
        secrets=frozenset(),
    )
    # Nobody serves port 1: a schema that can be sent is told from one that cannot.
    with pytest.raises(UpstreamUnavailable if depth == 10 else (InvalidRequest, UpstreamUnavailable)):
        provider.chat(chat_call(raw=b'{"model":"m","messages":[{"role":"user"}],"tools":%b}' % tools.encode()))


def test_reasoning_is_not_put_back_under_a_budget() -> None:
    """Admission has not seen it, and has reserved no money for it."""
    asked: list[str] = []

    def recall(key_id: str, call_ids: Any) -> dict[str, bytes]:
        asked.extend(call_ids)
        return {}

    body = json.dumps(ANSWER).encode()

    def serve(sock: Any) -> None:
        sock.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )

    turn = {
        "role": "assistant",
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    messages = [{"role": "user", "content": "Hi"}, turn, {"role": "tool", "tool_call_id": "a", "content": "7"}]
    raw = json.dumps({"model": "m", "messages": messages}).encode()
    with scripted_server(serve) as url:
        provider = WireProvider(
            name="claude",
            config=ProviderConfig(kind="anthropic", base_url=url, api_key="k"),
            timeouts=Timeouts(),
            heartbeat_s=15,
            secrets=frozenset(),
            memory=ReasoningMemory(recall, lambda key_id, entries: None),
        )
        provider.chat(chat_call(raw=raw, bound=100))
        assert asked == []
        provider.chat(chat_call(raw=raw))
        assert asked == ["a"]


def test_a_count_is_asked_without_another_vendors_data() -> None:
    carrier = pack(Opaque("claude", "signature", "c2ln"))
    parts = [{"functionCall": {"name": "f", "args": {}}, "thoughtSignature": carrier}]
    raw = json.dumps(
        {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": parts}]}
    ).encode()
    requests: list[bytes] = []

    def serve(sock: Any) -> None:
        sock.sendall(
            b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{"totalTokens":7}'
        )

    with scripted_server(serve, requests) as url:
        provider = WireProvider(
            name="google",
            config=ProviderConfig(kind="gemini", base_url=url.replace("/v1", "/v1beta"), api_key="k"),
            timeouts=Timeouts(),
            heartbeat_s=15,
            secrets=frozenset(),
        )
        call = chat_call()
        gemini = GeminiRequest.parse(raw, "m", stream=False)
        counted = provider.count_tokens(
            type(call)(request=gemini, model="m", request_id="r", deadline=call.deadline, wires=("gemini",))
        )
    assert counted is not None
    assert counted.tokens == 7
    assert b"pstk1." not in requests[0]
    assert carrier.encode() not in requests[0]


def test_a_stumbling_decoder_is_told_by_its_place_and_not_by_the_answer() -> None:
    def stumble() -> None:
        raise TypeError("secret words of an answer")

    with capture_logs() as logs:
        for fails in (stumble, lambda: json.loads("secret")):
            try:
                fails()
            except (TypeError, ValueError) as exc:
                log_stumble("up", exc)
    [line] = logs
    assert (line["event"], line["provider"], line["error"]) == ("answer_undecodable", "up", "TypeError")
    assert line["at"].startswith("test_translated_requests.py:")
    assert "secret" not in str(line)
