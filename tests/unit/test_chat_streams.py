"""Chat completions' chunks, to and from events: what vendors send, however odd, and what clients get."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from app.domain.content import (
    BlockEnded,
    BlockStarted,
    Delta,
    Event,
    Opaque,
    Prompt,
    Signed,
    Started,
    Stopped,
    Text,
    Thinking,
    ToolCall,
)
from app.domain.usage import Usage
from app.providers.dialects import carrier
from app.providers.dialects.chat import DIALECT
from app.providers.dialects.dialect import Framing, StreamReported

STARTED = Started(id="c", model="v")


def chunk(delta: object, finish: object = None, **fields: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return msgspec.json.encode({"id": "c", "model": "v", "choices": [choice], **fields})


def call(index: object = 0, call_id: object = None, name: object = None, arguments: object = None) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}]}


def decode(*payloads: bytes) -> list[Event]:
    decoder = DIALECT.stream_decoder("p")
    events = [event for payload in (*payloads, b"[DONE]") for event in decoder.decode("", payload)]
    assert decoder.complete
    return events


def calls(events: Iterable[Event]) -> list[tuple[str, str, str]]:
    """Returns the id, name and arguments of each tool call, in the order of its block."""
    found: dict[int, list[str]] = {}
    for event in events:
        if isinstance(event, BlockStarted) and isinstance(event.block, ToolCall):
            found[event.index] = [event.block.id, event.block.name, event.block.arguments]
        elif isinstance(event, Delta) and event.index in found:
            found[event.index][2] += event.text
    return [(call_id, name, arguments) for call_id, name, arguments in found.values()]


def test_text_is_one_block_and_usage_comes_with_the_end() -> None:
    assert decode(
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}),
        chunk({}, "stop"),
        b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2},"service_tier":"flex"}',
    ) == [
        STARTED,
        BlockStarted(index=0, block=Text(text="")),
        Delta(index=0, text="Hel"),
        Delta(index=0, text="lo"),
        BlockEnded(index=0),
        Stopped(stop="end", native_stop="stop", usage=Usage(3, 2, service_tier="flex"), service_tier="flex"),
    ]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_thinking_that_goes_back_to_its_vendor_alone(field: str) -> None:
    assert decode(chunk({field: "hm"}), chunk({"content": "a"}, "stop"))[1:5] == [
        BlockStarted(index=0, block=Thinking()),
        Delta(index=0, text="hm"),
        Signed(index=0, signature=Opaque("p", field, "")),
        BlockEnded(index=0),
    ]


def test_signed_thinking_blocks_end_with_their_signature() -> None:
    events = decode(
        chunk({"reasoning_content": "one", "thinking_blocks": [{"type": "thinking", "thinking": "one"}]}),
        chunk({"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "S1"}]}),
        chunk({"thinking_blocks": [{"type": "redacted_thinking", "data": "R"}]}),
        chunk({"content": "a"}, "stop"),
    )
    assert events[1:7] == [
        BlockStarted(index=0, block=Thinking()),
        Delta(index=0, text="one"),
        Signed(index=0, signature=Opaque("p", "signature", "S1")),
        BlockEnded(index=0),
        BlockStarted(index=1, block=Thinking(signature=Opaque("p", "redacted_thinking", "R"))),
        BlockEnded(index=1),
    ]


def test_reasoning_details_are_kept_whole_for_their_vendor() -> None:
    details = [{"type": "reasoning.encrypted", "data": "E"}]
    events = decode(chunk({"reasoning": "hm"}), chunk({"content": "a"}), chunk({"reasoning_details": details}, "stop"))
    kept = [event.block.signature for event in events if isinstance(event, BlockStarted) and event.index == 2]  # type: ignore[union-attr]
    assert kept == [Opaque("p", "reasoning_details", msgspec.json.encode(details).decode())]


@pytest.mark.parametrize(
    "payloads",
    [
        [chunk(call(0, "a", "f", "")), chunk(call(0, None, None, '{"x"')), chunk(call(0, "", "", ":1}"))],
        [chunk(call(0, "a", "f", '{"x":1}'))],
        [chunk(call(None, "a", "f", '{"x"')), chunk(call(None, None, None, ":1}"))],
        [chunk(call(None, "a", "f", '{"x"')), chunk(call(None, "a", "f", ":1}"))],
        [chunk(call(0, "a", None, '{"x"')), chunk(call(0, None, "f", ":1}"))],
        [chunk(call(0, "a", "f", '{"x":')), chunk(call(0, "b", None, "1}"))],
        [chunk(call(0, "a", "f", {"x": 1}))],
        [b'{"choices":[{"message":{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{\\"x\\":1}"}}]}}]}'],
        [chunk(call(0, "a", "f", '{"x":1}')), chunk({"content": ""}), chunk({"content": None, "tool_calls": None})],
    ],
)
def test_a_tool_call_comes_whole_or_in_pieces_with_or_without_index_and_id(payloads: list[bytes]) -> None:
    events = decode(*payloads, chunk({}, "stop"))
    assert calls(events) == [("a", "f", '{"x":1}')]
    assert events[-1] == Stopped(stop="tool_calls", native_stop="stop")


@pytest.mark.parametrize(
    "payloads",
    [
        [chunk(call(0, "a", "f", "{}")), chunk(call(1, "b", "g", '{"y":2}'))],
        [chunk(call(0, "a", "f", "{}")), chunk(call(0, "b", "g", '{"y":2}'))],
        [chunk(call(None, "a", "f", "{}")), chunk(call(None, "b", "g", '{"y":2}'))],
        [
            chunk(call(0, "a", "f", "")),
            chunk(call(1, "b", "g", "")),
            chunk(call(1, None, None, '{"y"')),
            chunk(call(0, None, None, "{}")),
            chunk(call(1, None, None, ":2}")),
        ],
    ],
)
def test_parallel_calls_come_one_after_the_other_however_they_interleave(payloads: list[bytes]) -> None:
    events = decode(*payloads, chunk({}, "tool_calls"))
    assert calls(events) == [("a", "f", "{}"), ("b", "g", '{"y":2}')]
    order = [event.index for event in events if isinstance(event, BlockStarted | Delta | BlockEnded)]
    assert order == sorted(order)


def test_a_call_that_is_whole_does_not_keep_the_next_one_waiting() -> None:
    decoder = DIALECT.stream_decoder("p")
    list(decoder.decode("", chunk(call(0, "a", "f", '{"x":1}'))))
    assert list(decoder.decode("", chunk(call(1, "b", "g", ""))))[:2] == [
        BlockEnded(index=0),
        BlockStarted(index=1, block=ToolCall(id="b", name="g")),
    ]


def test_what_waits_behind_an_open_call_is_bounded() -> None:
    decoder = DIALECT.stream_decoder("p")
    list(decoder.decode("", chunk(call(0, "a", "f", ""))))
    piece = chunk(call(1, "b", "g", "x" * 1_000_000))
    for _ in range(8):
        assert list(decoder.decode("", piece)) == []
    with pytest.raises(ValueError, match="Too much waits"):
        list(decoder.decode("", piece))


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b'{"choices":null}',
        b'{"choices":[]}',
        b'{"choices":[null]}',
        b'{"choices":[{"delta":null,"finish_reason":null,"index":null}],"id":null,"model":null,"usage":null}',
        b'{"choices":[{"delta":{"content":null,"tool_calls":null,"role":null,"reasoning":null}}]}',
        b'{"choices":[{"delta":{"tool_calls":[null,{"function":null}]}}],"usage":"none"}',
    ],
)
def test_nulls_everywhere_are_no_error(payload: bytes) -> None:
    events = decode(payload, chunk({"content": "a"}, "stop"))
    assert Delta(index=0, text="a") in [event for event in events if isinstance(event, Delta)] or calls(events)
    assert isinstance(events[-1], Stopped)


@pytest.mark.parametrize("payload", [b"nonsense", b"[]", b"7", b'"x"', b"{", b"[" * 100_000])
def test_what_is_no_chunk_is_an_error(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        list(DIALECT.stream_decoder("p").decode("", payload))


@pytest.mark.parametrize(
    "payload", [b'{"error":{"message":"m","code":503}}', chunk({}, "error"), chunk({}, "insufficient_system_resource")]
)
def test_a_reported_failure_is_raised(payload: bytes) -> None:
    with pytest.raises(StreamReported):
        list(DIALECT.stream_decoder("p").decode("", payload))


def test_a_stream_without_done_is_cut() -> None:
    decoder = DIALECT.stream_decoder("p")
    list(decoder.decode("", chunk({"content": "a"}, "stop")))
    assert list(decoder.end()) == []
    assert not decoder.complete


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert decode(b'{"choices":[{"delta":{"content":"a\\ud83d"}}]}')[2] == Delta(index=0, text="a?")


def framing(*, include_usage: bool = False) -> Framing:
    prompt = Prompt(model="asked", messages=())
    return Framing(call_id="abc", created=7, prompt=prompt, fields={}, include_usage=include_usage)


def encode(*events: Event, include_usage: bool = False) -> list[dict[str, Any]]:
    encoder = DIALECT.stream_encoder(framing(include_usage=include_usage))
    sent = b"".join(encoder.encode(event) for event in (Started(id="x", model="v"), *events))
    assert encoder.ending() == b"data: [DONE]\n\n"
    return [msgspec.json.decode(event.removeprefix(b"data: ")) for event in sent.split(b"\n\n") if event]


def deltas(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [piece["choices"][0]["delta"] for piece in chunks]


def test_every_chunk_has_a_choice_with_its_index_and_the_first_one_a_role() -> None:
    chunks = encode(
        BlockStarted(index=0, block=Text(text="")),
        Delta(index=0, text="a"),
        BlockEnded(index=0),
        Stopped(stop="end", native_stop="end_turn", usage=Usage(1, 2)),
    )
    assert deltas(chunks) == [{"role": "assistant", "content": ""}, {"content": "a"}, {}]
    assert [piece["choices"][0]["index"] for piece in chunks] == [0, 0, 0]
    assert [piece["choices"][0]["finish_reason"] for piece in chunks] == [None, None, "stop"]
    assert all("usage" not in piece for piece in chunks)
    assert {(piece["id"], piece["created"], piece["model"]) for piece in chunks} == {("chatcmpl-abc", 7, "v")}
    assert chunks[-1]["choices"][0]["native_finish_reason"] == "end_turn"


def test_usage_comes_in_a_chunk_of_its_own_for_who_asked() -> None:
    chunks = encode(Stopped(stop="length", usage=Usage(3, 2, 1)), include_usage=True)
    assert [piece["usage"] for piece in chunks[:-1]] == [None, None]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_a_call_without_arguments_gets_an_empty_object() -> None:
    chunks = encode(
        BlockStarted(index=0, block=ToolCall(id="a", name="f")),
        BlockEnded(index=0),
        BlockStarted(index=1, block=ToolCall(id="b", name="g")),
        Delta(index=1, text='{"x":1}'),
        BlockEnded(index=1),
        Stopped(stop="tool_calls"),
    )
    assert [piece["tool_calls"][0] for piece in deltas(chunks)[1:-1]] == [
        {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": "{}"}},
        {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": ""}},
        {"index": 1, "function": {"arguments": '{"x":1}'}},
    ]


def test_a_signature_goes_out_as_a_carrier_with_its_whole_block() -> None:
    signature = Opaque("p", "signature", "S")
    chunks = encode(
        BlockStarted(index=0, block=Thinking()),
        Delta(index=0, text="a"),
        Delta(index=0, text="b"),
        Signed(index=0, signature=signature),
        BlockEnded(index=0),
    )
    assert deltas(chunks)[1:] == [
        {"reasoning_content": "a"},
        {"reasoning_content": "b"},
        {
            "thinking_blocks": [
                {"index": 0, "type": "thinking", "thinking": "ab", "signature": carrier.pack(signature)},
            ]
        },
    ]
