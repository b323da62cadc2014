"""Answers and streams of Anthropic's dialect: read from vendors, written for callers, and passed untouched."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event

from app.domain.content import (
    Answer,
    Audio,
    Block,
    BlockEnded,
    BlockStarted,
    Cited,
    Delta,
    Event,
    Image,
    Opaque,
    Prompt,
    Refusal,
    ServerTool,
    Signed,
    Source,
    Started,
    Stopped,
    Text,
    Thinking,
    ToolCall,
)
from app.domain.messages import MessagesRequest
from app.domain.usage import Details, Usage
from app.errors import GatewayError, InvalidRequest, RateLimited, UpstreamUnavailable
from app.providers.dialects import carrier
from app.providers.dialects.dialect import Framing, Outgoing, StreamReported
from app.providers.dialects.messages import DIALECT

CITATION = {"type": "char_location", "cited_text": "x"}
SEARCH = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
SIGNED = Opaque("up", "signature", "sig")
OTHERS = Opaque("other", "encrypted_content", "blob", "rs_1")
USAGE = Usage(100, 20, 10, 5, details=Details(cache_write_tokens=30, cache_write_1h_tokens=10))
FRAMING = Framing(call_id="req_1", created=1, prompt=Prompt(model="m", messages=()), fields={})
REQUEST = MessagesRequest.parse(b'{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"Hi"}]}')


def sse(*events: dict[str, Any]) -> list[tuple[str, bytes]]:
    return [(event["type"], json.dumps(event).encode()) for event in events]


def start(**usage: Any) -> dict[str, Any]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [], "usage": usage}
    return {"type": "message_start", "message": message}


def block(index: int, content: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": content},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def end(stop_reason: str = "end_turn", delta: dict[str, Any] | None = None, **usage: Any) -> list[dict[str, Any]]:
    fields = {"stop_reason": stop_reason, "stop_sequence": None, **(delta or {})}
    return [{"type": "message_delta", "delta": fields, "usage": usage}, {"type": "message_stop"}]


def decode(*events: dict[str, Any]) -> list[Event]:
    decoder = DIALECT.stream_decoder("up")
    found = [event for name, payload in sse(*events) for event in decoder.decode(name, payload)]
    assert decoder.complete == (events[-1]["type"] == "message_stop")
    assert list(decoder.end()) == []
    return found


def encode(events: Iterable[Event], framing: Framing = FRAMING) -> list[dict[str, Any]]:
    """The events written, each of which names its type in its `event:` line."""
    encoder = DIALECT.stream_encoder(framing)
    written = b"".join(encoder.encode(event) for event in events) + encoder.ending()
    found = []
    for part in written.decode().removesuffix("\n\n").split("\n\n"):
        name, data = part.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def accumulated(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that Anthropic's own library makes of the events."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in events:
        if event["type"] == "message_stop":
            break
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)  # type: ignore[arg-type]
    found: dict[str, Any] = snapshot.to_dict()
    return found


def stream_of(*blocks: Block, stop: Any = "end", usage: Usage | None = USAGE) -> list[Event]:
    events: list[Event] = [Started(id="msg_1", model="claude")]
    for i, each in enumerate(blocks):
        pieces: list[Event] = []
        begun = each
        if isinstance(each, Text | Thinking | Refusal):
            begun = type(each)(text="")
            pieces = [Delta(index=i, text=char) for char in each.text]
        elif isinstance(each, ToolCall):
            begun = ToolCall(id=each.id, name=each.name, signature=each.signature, custom=each.custom)
            pieces = [Delta(index=i, text=char) for char in each.arguments]
        if isinstance(each, Thinking) and each.signature is not None:
            pieces.append(Signed(index=i, signature=each.signature))
        if isinstance(each, Text):
            pieces += [Cited(index=i, citation=citation) for citation in each.citations]
        events += [BlockStarted(index=i, block=begun), *pieces, BlockEnded(index=i)]
    return [*events, Stopped(stop=stop, usage=usage)]


# Reading a vendor's stream


def test_a_stream_with_everything_is_read() -> None:
    events = decode(
        start(input_tokens=60, cache_read_input_tokens=10, cache_creation_input_tokens=30, output_tokens=1),
        {"type": "ping"},
        *block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "hm"},
            {"type": "signature_delta", "signature": "sig"},
        ),
        *block(1, {"type": "redacted_thinking", "data": "red"}),
        *block(
            2,
            {"type": "text", "text": ""},
            {"type": "text_delta", "text": "a"},
            {"type": "citations_delta", "citation": CITATION},
        ),
        {"type": "never_heard_of", "index": 7},
        *block(
            3,
            {"type": "tool_use", "id": "t", "name": "f", "input": {}},
            {"type": "input_json_delta", "partial_json": ""},
            {"type": "input_json_delta", "partial_json": '{"a":'},
            {"type": "input_json_delta", "partial_json": "1}"},
        ),
        *block(4, SEARCH, {"type": "input_json_delta", "partial_json": '{"query": "x"}'}),
        *end("tool_use", output_tokens=20),
    )
    prompt_usage = Usage(100, 1, 10, details=Details(cache_write_tokens=30))
    assert events == [
        Started(id="msg_1", model="claude", usage=prompt_usage),
        BlockStarted(index=0, block=Thinking()),
        Delta(index=0, text="hm"),
        Signed(index=0, signature=SIGNED),
        BlockEnded(index=0),
        BlockStarted(index=1, block=Thinking(signature=Opaque("up", "redacted_thinking", "red"))),
        BlockEnded(index=1),
        BlockStarted(index=2, block=Text(text="")),
        Delta(index=2, text="a"),
        Cited(index=2, citation=CITATION),
        BlockEnded(index=2),
        BlockStarted(index=3, block=ToolCall(id="t", name="f")),
        Delta(index=3, text='{"a":'),
        Delta(index=3, text="1}"),
        BlockEnded(index=3),
        BlockStarted(index=4, block=ServerTool(dialect="messages", value={**SEARCH, "input": {"query": "x"}})),
        BlockEnded(index=4),
        Stopped(stop="tool_calls", native_stop="tool_use", usage=prompt_usage._replace(completion_tokens=20)),
    ]


def test_a_cut_stream_is_not_complete_and_gets_no_end() -> None:
    events = decode(start(), *block(0, {"type": "text", "text": ""})[:1], end()[0])
    assert not any(isinstance(event, Stopped | BlockEnded) for event in events)


def test_odd_orders_of_compatible_vendors_are_put_right() -> None:
    first, _, second = (
        *block(0, {"type": "text", "text": "a"}),
        {"type": "content_block_start", "index": 5, "content_block": {"type": "tool_use", "id": "t", "name": "f"}},
    )
    last = {"type": "content_block_start", "index": 9, "content_block": {"type": "tool_use", "input": {"x": 1}}}
    events = decode(start(), first, second, last, *end())
    assert [event.index for event in events if isinstance(event, BlockStarted)] == [0, 1, 2]
    assert [event.index for event in events if isinstance(event, BlockEnded)] == [0, 1, 2]
    assert Delta(index=2, text='{"x":1}') in events


@pytest.mark.parametrize(
    "event",
    [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "message_start", "message": None},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": 5}},
    ],
)
def test_what_is_no_event_of_the_dialect_is_an_error(event: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        decode(event)


def test_a_vendors_error_tells_the_status_that_it_would_have_been() -> None:
    event = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    for read in (DIALECT.stream_decoder("up").decode, DIALECT.watch(REQUEST).see):
        with pytest.raises(StreamReported) as reported:
            read("error", json.dumps(event).encode())
        assert (reported.value.message, reported.value.status) == ("Overloaded", 529)
        assert json.loads(reported.value.payload) == event


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("end_turn", "end"),
        ("max_tokens", "length"),
        ("stop_sequence", "stop_sequence"),
        ("tool_use", "tool_calls"),
        ("pause_turn", "pause"),
        ("refusal", "refusal"),
        ("model_context_window_exceeded", "context_window"),
        ("something_new", "end"),
    ],
)
def test_every_stop_reason_is_read(reason: str, stop: str) -> None:
    stopped = decode(start(), *end(reason))[-1]
    assert isinstance(stopped, Stopped)
    assert (stopped.stop, stopped.native_stop) == (stop, reason)
    answer = DIALECT.decode_answer(json.dumps({"content": [], "stop_reason": reason}).encode(), "up")
    assert (answer.stop, answer.native_stop) == (stop, reason)


def test_the_words_of_a_refusal_are_read() -> None:
    details = {"stop_details": {"type": "refusal", "category": "bio", "explanation": "No."}}
    events = decode(start(), *end("refusal", details))
    assert [event for event in events if isinstance(event, BlockStarted | Delta)] == [
        BlockStarted(index=0, block=Refusal(text="")),
        Delta(index=0, text="No."),
    ]
    body = {"content": [{"type": "text", "text": "No."}], "stop_reason": "refusal", **details}
    assert DIALECT.decode_answer(json.dumps(body).encode(), "up").blocks == (Refusal(text="No."),)


# Writing a caller's stream


def test_a_written_stream_is_what_anthropics_library_understands() -> None:
    call = ToolCall(id="functions.f:0", name="f", arguments='{"a": "é"}')
    events = encode(stream_of(Thinking(text="hm", signature=OTHERS), Text(text="ab", citations=(CITATION,)), call))
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1, 2]
    message = accumulated(events)
    assert (message["id"], message["model"], message["stop_reason"]) == ("msg_1", "claude", "tool_use")
    thinking, text, use = message["content"]
    assert (thinking["thinking"], carrier.unpack(thinking["signature"])) == ("hm", OTHERS)
    assert (text["text"], text["citations"]) == ("ab", [CITATION])
    assert (use["name"], use["input"]) == ("f", {"a": "é"})
    assert use["id"].startswith("functions_f_0_")
    assert message["usage"]["input_tokens"] == 60
    assert message["usage"]["output_tokens_details"] == {"thinking_tokens": 5}


def test_a_message_start_has_every_key_that_strict_clients_expect() -> None:
    message = encode(stream_of())[0]["message"]
    keys = {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"}
    assert keys <= message.keys()
    assert {"input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"} <= set(
        message["usage"]
    )


def test_an_id_that_is_not_anthropics_is_made_of_the_call() -> None:
    events = encode([Started(id="chatcmpl-1", model=""), Stopped(stop="end")])
    assert (events[0]["message"]["id"], events[0]["message"]["model"]) == ("msg_req_1", "m")


def test_thinking_without_a_signature_is_marked_as_ours() -> None:
    [thinking] = accumulated(encode(stream_of(Thinking(text="hm"))))["content"]
    assert thinking["signature"].startswith(carrier.PREFIX)
    body = {"role": "assistant", "content": [thinking]}
    assert replayed(body).messages[1].blocks == (Thinking(text="hm"),)


def test_a_signature_alone_is_never_the_last_block() -> None:
    blocks = (Thinking(signature=SIGNED), Text(text="a"), Thinking(signature=OTHERS))
    streamed = accumulated(encode(stream_of(*blocks)))["content"]
    whole = json.loads(DIALECT.encode_answer(Answer(id="", model="m", blocks=blocks, stop="end"), FRAMING))["content"]
    assert [{**block, "citations": None} for block in streamed] == [{**block, "citations": None} for block in whole]
    assert [block["type"] for block in whole] == ["thinking", "text"]


def test_the_signature_of_a_call_stands_before_it_and_comes_back_to_it() -> None:
    signature = Opaque("g", "thoughtSignature", "sig")
    call = ToolCall(id="a:1", name="f", arguments='{"x":1}', signature=signature)
    streamed = accumulated(encode(stream_of(call)))["content"]
    answer = Answer(id="", model="m", blocks=(call,), stop="tool_calls")
    whole = json.loads(DIALECT.encode_answer(answer, FRAMING))["content"]
    assert streamed == whole
    assert [each["type"] for each in whole] == ["thinking", "tool_use"]
    [read] = replayed({"role": "assistant", "content": whole}).messages[1].blocks
    assert read == ToolCall(id=whole[1]["id"], name="f", arguments='{"x":1}', signature=signature)


def test_a_signature_that_comes_late_stands_behind_the_call() -> None:
    signature = Opaque("g", "thoughtSignature", "sig")
    events = stream_of(ToolCall(id="a", name="f"))
    events.insert(2, Signed(index=0, signature=signature))
    content = accumulated(encode(events))["content"]
    assert [each["type"] for each in content] == ["tool_use", "thinking"]
    [read] = replayed({"role": "assistant", "content": content}).messages[1].blocks
    assert read == ToolCall(id="a", name="f", signature=signature)


def replayed(message: dict[str, Any]) -> Prompt:
    user = {"role": "user", "content": "Hi"}
    body = {"model": "m", "max_tokens": 5, "messages": [user, message, user]}
    return DIALECT.decode_request(MessagesRequest.parse(json.dumps(body).encode()))


def test_a_call_without_arguments_has_an_empty_object() -> None:
    [use] = accumulated(encode(stream_of(ToolCall(id="a", name="f"))))["content"]
    assert use["input"] == {}


def test_a_custom_call_is_wrapped() -> None:
    [use] = accumulated(encode(stream_of(ToolCall(id="a", name="f", arguments='say "hi"\n', custom=True))))["content"]
    assert use["input"] == {"input": 'say "hi"\n'}


def test_blocks_without_a_place_leave_no_gap() -> None:
    foreign = ServerTool(dialect="responses", value={"type": "web_search_call"})
    picture = Image(source=Source(media_type="image/png", data="AA"))
    sound = Audio(source=Source(media_type="audio/wav", data="AA"), transcript="Hello")
    own = ServerTool(dialect="messages", value=SEARCH)
    events = encode(stream_of(foreign, Text(text="a"), picture, foreign, sound, own))
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1, 2, 3]
    content = accumulated(events)["content"]
    assert [each["type"] for each in content] == ["text", "text", "text", "server_tool_use"]
    assert content[2]["text"] == "Hello"


@pytest.mark.parametrize(
    ("stop", "blocks", "reason"),
    [
        ("end", (), "end_turn"),
        ("end", (ToolCall(id="a", name="f"),), "tool_use"),
        ("length", (), "max_tokens"),
        ("stop_sequence", (), "stop_sequence"),
        ("tool_calls", (), "tool_use"),
        ("content_filter", (), "refusal"),
        ("end", (Refusal(text="No."),), "refusal"),
        ("pause", (), "pause_turn"),
        ("context_window", (), "model_context_window_exceeded"),
    ],
)
def test_every_stop_is_written(stop: Any, blocks: tuple[Block, ...], reason: str) -> None:
    assert accumulated(encode(stream_of(*blocks, stop=stop)))["stop_reason"] == reason
    whole = json.loads(DIALECT.encode_answer(Answer(id="", model="m", blocks=blocks, stop=stop), FRAMING))
    assert whole["stop_reason"] == reason
    explanation = "No." if any(isinstance(each, Refusal) for each in blocks) else None
    assert (whole.get("stop_details") or {}).get("explanation") == explanation


def test_a_stream_and_a_whole_answer_say_the_same() -> None:
    blocks = (
        Thinking(text="hm", signature=OTHERS),
        Text(text="ab", citations=(CITATION,)),
        ToolCall(id="", name="f", arguments='{"a":1}'),
        ToolCall(id="", name="f"),
    )
    answer = Answer(id="msg_1", model="claude", blocks=blocks, stop="tool_calls", usage=USAGE)
    whole = json.loads(DIALECT.encode_answer(answer, FRAMING))
    streamed = accumulated(encode(stream_of(*blocks, stop="tool_calls")))
    assert streamed["content"] == whole["content"]
    assert len({each["id"] for each in whole["content"][2:]}) == 2
    # Anthropic's library takes the lifetimes of cache writes from a stream's beginning, where nobody knows them yet.
    later = {name for name, value in whole["usage"].items() if value is not None} - {"cache_creation"}
    assert {name: whole["usage"][name] for name in later} == {name: streamed["usage"][name] for name in later}


def test_reading_what_was_written_gives_the_same_events() -> None:
    events = stream_of(Text(text="ab", citations=(CITATION,)), ToolCall(id="a", name="f", arguments='{"a":1}'))
    decoder = DIALECT.stream_decoder("up")
    written = encode(events)
    read = [each for event in written for each in decoder.decode("", json.dumps(event).encode())]
    assert read[1:-1] == events[1:-1]
    assert isinstance(read[-1], Stopped)
    assert read[-1].usage == USAGE


def test_a_whole_answer_is_read() -> None:
    body = {
        "id": "msg_1",
        "model": "claude",
        "content": [
            {"type": "thinking", "thinking": "", "signature": "sig"},
            {"type": "text", "text": "a", "citations": None},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}, "caller": {"type": "direct"}},
            SEARCH,
        ],
        "stop_reason": "stop_sequence",
        "stop_sequence": "X",
        "usage": {"input_tokens": 1, "output_tokens": 2, "service_tier": "priority"},
    }
    assert DIALECT.decode_answer(json.dumps(body).encode(), "up") == Answer(
        id="msg_1",
        model="claude",
        blocks=(
            Thinking(signature=SIGNED),
            Text(text="a"),
            ToolCall(id="t", name="f", arguments='{"a":1}'),
            ServerTool(dialect="messages", value=SEARCH),
        ),
        stop="stop_sequence",
        native_stop="stop_sequence",
        stop_sequence="X",
        usage=Usage(1, 2, service_tier="priority"),
        service_tier="priority",
    )


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"content":5}', b'{"content":[5]}', b'{"error":{}}'])
def test_a_body_that_is_no_answer_is_an_error(body: bytes) -> None:
    for read in (lambda: DIALECT.decode_answer(body, "up"), lambda: DIALECT.read_answer(body)):
        with pytest.raises(ValueError):
            read()


# Passing untouched


def test_a_watch_counts_and_holds_back_the_end() -> None:
    watch = DIALECT.watch(REQUEST)
    events = [
        start(input_tokens=60, cache_read_input_tokens=10, output_tokens=1),
        {"type": "ping"},
        *block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "é"}, {"type": "odd", "text": 5}),
        {"type": "never_heard_of"},
        *end(output_tokens=20, input_tokens=50),
    ]
    started = []
    for name, payload in sse(*events):
        assert watch.see(name, payload) is (name != "message_stop")
        started.append(watch.started)
    assert started == [False] * 3 + [True] * 6
    assert watch.prompt_usage == Usage(70, 1, 10)
    assert watch.usage == Usage(60, 20, 10)
    assert (watch.text_bytes, watch.chunks, watch.complete) == (2, 1, True)
    assert watch.ending == b'event: message_stop\ndata: {"type": "message_stop"}\n\n'
    assert watch.see("ping", b"{}") is False


@pytest.mark.parametrize(
    ("event", "started"),
    [
        ({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}, False),
        ({"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "name": "f"}}, True),
        ({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": ""}}, False),
        ({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "a"}}, True),
        ({"type": "message_delta", "delta": {"stop_reason": "refusal"}, "usage": {}}, True),
    ],
)
def test_a_stream_has_started_with_its_first_content(event: dict[str, Any], started: bool) -> None:
    watch = DIALECT.watch(REQUEST)
    for name, payload in sse(start(), event):
        watch.see(name, payload)
    assert watch.started is started


def test_a_body_passes_with_the_model_and_the_bound_alone_changed() -> None:
    raw = b'{"model": "m", "max_tokens": 5, "messages": [{"role": "user",  "content": "Hi"}], "odd": {"a":  1.0}}'
    request = MessagesRequest.parse(raw)
    to = Outgoing(origin="up", model="claude", stream=False, max_output_tokens=3)
    assert DIALECT.pass_request(request, to) == (
        b'{"model":"claude","max_tokens":3,"messages":[{"role": "user",  "content": "Hi"}],"odd":{"a":  1.0}}'
    )


@pytest.mark.parametrize(("signature", "thinks"), [(carrier.pack(OTHERS), False), ("EqQB", True)])
def test_other_vendors_thinking_does_not_pass(signature: str, thinks: bool) -> None:
    user = {"role": "user", "content": f"about {carrier.PREFIX}"}
    thinking = {"type": "thinking", "thinking": "hm", "signature": signature}
    use = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    messages = [
        user,
        {"role": "assistant", "content": [{**thinking, "signature": carrier.pack(OTHERS)}]},
        {"role": "assistant", "content": [thinking, use]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]},
    ]
    manual = {"type": "enabled", "budget_tokens": 1024}
    body = {"model": "m", "max_tokens": 5000, "messages": messages, "thinking": manual}
    to = Outgoing(origin="up", model="m", stream=False)
    passed = json.loads(DIALECT.pass_request(MessagesRequest.parse(json.dumps(body).encode()), to))
    kept = [thinking, use] if thinks else [use]
    assert passed["messages"] == [user, {"role": "assistant", "content": kept}, messages[3]]
    assert ("thinking" in passed) is thinks
    assert to.dropped == ([] if thinks else ["thinking"])


# Usage

CASES: list[tuple[dict[str, Any], Usage]] = [
    ({"input_tokens": 5, "output_tokens": 7}, Usage(5, 7)),
    (
        {"input_tokens": 5, "output_tokens": 7, "cache_read_input_tokens": 10, "cache_creation_input_tokens": None},
        Usage(15, 7, 10),
    ),
    (
        {"input_tokens": 5, "cache_creation_input_tokens": 30, "cache_creation": None},
        Usage(35, 0, details=Details(cache_write_tokens=30)),
    ),
    (
        {"cache_creation_input_tokens": 30, "cache_creation": {"ephemeral_1h_input_tokens": 10}},
        Usage(30, 0, details=Details(cache_write_tokens=30, cache_write_1h_tokens=10)),
    ),
    (
        {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}, "service_tier": "standard"},
        Usage(0, 9, reasoning_tokens=4),
    ),
    (
        {"input_tokens": 1, "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 1}, "speed": "fast"},
        Usage(1, 0, service_tier="fast", details=Details(searches=3)),
    ),
    ({"input_tokens": 1, "service_tier": "batch"}, Usage(1, service_tier="batch")),
    (
        {
            "input_tokens": 1,
            "output_tokens": 2,
            "iterations": [
                {"type": "message", "input_tokens": 100, "output_tokens": 100},
                {"type": "compaction", "input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 5},
            ],
        },
        Usage(16, 22, 5),
    ),
    ({"input_tokens": 1, "service_tier": {}, "speed": [], "inference_geo": {}, "iterations": [{"type": []}]}, Usage(1)),
    (
        {
            "input_tokens": "5",
            "output_tokens": True,
            "cache_read_input_tokens": -3,
            "cache_creation": [],
            "iterations": 5,
        },
        Usage(),
    ),
    ({"input_tokens": 1e30, "output_tokens": 2.0}, Usage(10**9, 2)),
]


@pytest.mark.parametrize(("wire", "usage"), CASES)
def test_usage_is_read_alike_from_answers_and_streams(wire: dict[str, Any], usage: Usage) -> None:
    assert DIALECT.read_answer(json.dumps({"content": [], "usage": wire}).encode()).usage == usage
    watch = DIALECT.watch(REQUEST)
    for name, payload in sse(start(output_tokens=1), *end(**wire)):
        watch.see(name, payload)
    stopped = decode(start(output_tokens=1), *end(**{"output_tokens": 0, **wire}))
    assert isinstance(stopped[-1], Stopped)
    if "output_tokens" in wire:
        assert watch.usage == usage
    assert stopped[-1].usage == usage


def test_a_split_longer_than_the_total_is_the_total() -> None:
    wire = {"cache_creation_input_tokens": 5, "cache_creation": {"ephemeral_1h_input_tokens": 9}}
    usage = Usage(9, 0, details=Details(cache_write_tokens=9, cache_write_1h_tokens=9))
    assert DIALECT.read_answer(json.dumps({"content": [], "usage": wire}).encode()).usage == usage


def test_counters_of_the_end_replace_those_of_the_start() -> None:
    first = {"input_tokens": 100, "cache_read_input_tokens": 50, "output_tokens": 9}
    stopped = decode(start(**first), end(output_tokens=5)[0], *end(input_tokens=80, output_tokens=7))[-1]
    assert isinstance(stopped, Stopped)
    assert stopped.usage == Usage(130, 7, 50)


def test_an_answer_without_usage_is_counted_by_its_text() -> None:
    content = [{"type": "text", "text": "é"}, {"type": "tool_use", "name": "f", "input": {"a": 1}}]
    reported = DIALECT.read_answer(json.dumps({"content": content}).encode())
    assert (reported.usage, reported.text_bytes) == (None, 2 + len('{"a": 1}'))


# Errors


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("x", param="messages"), "invalid_request_error"),
        (RateLimited("x", limit="rpm", retry_after_s=1), "rate_limit_error"),
        (UpstreamUnavailable("x", provider="p", kind="status_5xx"), "overloaded_error"),
        (GatewayError("x"), "api_error"),
    ],
)
def test_errors_have_anthropics_shape_and_our_fields_beside_it(error: GatewayError, kind: str) -> None:
    body = DIALECT.error_body(error, "req_1")
    assert (body["type"], body["error"]["type"], body["error"]["message"]) == ("error", kind, "x")
    assert (body["request_id"], body["code"]) == ("req_1", error.code)
    event = DIALECT.error_event(error, "req_1", None)
    assert event.startswith(b"event: error\ndata: {")
    assert event.endswith(b"}\n\n")


def test_a_heartbeat_is_a_ping() -> None:
    assert DIALECT.heartbeat == b'event: ping\ndata: {"type": "ping"}\n\n'
