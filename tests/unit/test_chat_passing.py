"""Chat completions that pass untouched: what is set in a request, and what is read of an answer and of a stream."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from app.domain.chat import ChatRequest
from app.domain.content import Opaque
from app.providers.dialects import carrier
from app.providers.dialects.chat import DIALECT
from app.providers.dialects.dialect import Outgoing, StreamReported


def request(**fields: object) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return ChatRequest.parse(msgspec.json.encode(body))


def chunk(**delta: object) -> bytes:
    return msgspec.json.encode({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


@pytest.mark.parametrize(
    ("delta", "started"),
    [
        ({"role": "assistant"}, False),
        ({"role": "assistant", "content": "", "refusal": None, "tool_calls": []}, False),
        ({"role": "assistant", "content": "a"}, True),
        ({"reasoning_content": "hm"}, True),
        ({"reasoning": "hm"}, True),
        ({"audio": {"data": "AAAA"}}, True),
        ({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}, True),
    ],
)
def test_a_stream_has_started_with_its_first_content(delta: dict[str, object], started: bool) -> None:
    watch = DIALECT.watch(request(stream=True))
    assert watch.see("", chunk(**delta))
    assert watch.started is started


def test_a_stream_without_content_has_started_with_its_finish_reason() -> None:
    watch = DIALECT.watch(request(stream=True))
    assert watch.see("", b'{"choices":[]}')
    assert not watch.started
    assert watch.see("", b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}')
    assert watch.started


@pytest.mark.parametrize(("options", "shown"), [({}, False), ({"stream_options": {"include_usage": True}}, True)])
def test_a_chunk_of_usage_goes_only_to_who_asked_for_it(options: dict[str, object], shown: bool) -> None:
    watch = DIALECT.watch(request(stream=True, **options))
    usage = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2},"service_tier":"flex"}'
    assert watch.see("", usage) is shown
    assert watch.usage is not None
    assert watch.usage[:2] == (3, 2)
    assert watch.usage.service_tier == "flex"


def test_a_stream_is_complete_with_done_and_only_then() -> None:
    watch = DIALECT.watch(request(stream=True))
    watch.see("", chunk(content="a"))
    watch.end()
    assert not watch.complete
    assert not watch.see("", b"[DONE]")
    assert watch.complete
    assert watch.ending == b"data: [DONE]\n\n"


def test_counts_text_of_all_kinds_and_reasoning_once() -> None:
    watch = DIALECT.watch(request(stream=True))
    watch.see("", chunk(content="ä"))
    watch.see("", chunk(reasoning="abc", reasoning_content="abc"))
    watch.see("", chunk(refusal="no"))
    watch.see("", chunk(tool_calls=[{"function": {"arguments": "{}"}}, {"custom": {"input": "x"}}]))
    assert (watch.chunks, watch.text_bytes) == (4, 2 + 3 + 2 + 3)


@pytest.mark.parametrize(
    ("payload", "status", "message"),
    [
        (b'{"error":{"message":"too many","code":429}}', 429, "too many"),
        (b'{"error":{"message":"too many","code":"429"}}', 429, "too many"),
        (b'{"error":{"message":"slow down","type":"rate_limit_error","code":null}}', 429, "slow down"),
        (b'{"error":{"message":null,"code":7}}', 500, ""),
        (b'{"error":"broken"}', 500, "broken"),
        (b'{"choices":7,"error":{"message":"odd"}}', 500, "odd"),
    ],
)
def test_an_error_chunk_is_raised_with_its_status(payload: bytes, status: int, message: str) -> None:
    with pytest.raises(StreamReported) as reported:
        DIALECT.watch(request(stream=True)).see("", payload)
    assert (reported.value.status, reported.value.message, reported.value.payload) == (status, message, payload)


def test_json_of_another_shape_passes_and_what_is_no_json_does_not() -> None:
    watch = DIALECT.watch(request(stream=True))
    assert watch.see("", b'{"choices":"?"}')
    assert watch.chunks == 1
    for payload in (b"nonsense", b"[1]", b"{"):
        with pytest.raises(ValueError, match="no JSON object"):
            watch.see("", payload)


def test_a_request_keeps_its_bytes_but_for_model_bound_and_usage() -> None:
    raw = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"x":  1.0,"max_tokens":9}'
    outgoing = Outgoing(origin="p", model="m", stream=True)
    assert DIALECT.pass_request(ChatRequest.parse(raw), outgoing) == (
        b'{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"x":1.0,"max_tokens":9,'
        b'"stream_options":{"include_usage":true}}'
    )
    outgoing = Outgoing(
        origin="p", model="n", stream=False, max_output_tokens=5, max_tokens_field="max_completion_tokens"
    )
    sent = msgspec.json.decode(DIALECT.pass_request(ChatRequest.parse(raw), outgoing))
    assert sent["model"] == "n"
    assert sent["max_completion_tokens"] == 5
    assert "max_tokens" not in sent
    assert "stream_options" not in sent


@pytest.mark.parametrize(
    ("signature", "fields"),
    [
        (Opaque("p", "reasoning_content", ""), {"reasoning_content": "hm"}),
        (
            Opaque("p", "signature", "S"),
            {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "S"}]},
        ),
        (Opaque("other", "signature", "S"), {}),
    ],
)
def test_carriers_in_the_history_are_opened_for_their_vendor_alone(signature: Opaque, fields: dict[str, Any]) -> None:
    block = {"type": "thinking", "thinking": "hm", "signature": carrier.pack(signature)}
    said = {"role": "assistant", "content": "a", "reasoning_content": "hm", "thinking_blocks": [block]}
    asked = {"role": "user", "content": "hi"}
    body = {"model": "m", "messages": [asked, said, asked]}
    sent = DIALECT.pass_request(
        ChatRequest.parse(msgspec.json.encode(body)), Outgoing(origin="p", model="m", stream=False)
    )
    expected = {"role": "assistant", "content": "a", **fields}
    assert msgspec.json.decode(sent) == {"model": "m", "messages": [asked, expected, asked]}


def test_a_carried_thought_signature_is_googles_again_at_google_alone() -> None:
    signature = carrier.pack(Opaque("google", "thought_signature", "T"))
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    carried = {**call, "extra_content": {"google": {"thought_signature": signature}}}
    asked = request(messages=[{"role": "assistant", "content": None, "tool_calls": [carried]}])
    for origin, sent in (("google", {**call, "extra_content": {"google": {"thought_signature": "T"}}}), ("p", call)):
        body = msgspec.json.decode(DIALECT.pass_request(asked, Outgoing(origin=origin, model="m", stream=False)))
        assert body["messages"][0]["tool_calls"] == [sent]


def test_an_answer_says_its_usage_or_the_length_of_its_text() -> None:
    said = DIALECT.read_answer(b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}')
    assert said.usage is not None
    assert said.usage[:2] == (3, 2)
    silent = DIALECT.read_answer(b'{"choices":[{"message":{"content":"abc","reasoning":"de"}}],"usage":"?"}')
    assert (silent.usage, silent.text_bytes) == (None, 5)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data":[]}', b"<html>", b'{"choices":' + b"[" * 5000])
def test_what_is_no_completion_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        DIALECT.read_answer(body)
