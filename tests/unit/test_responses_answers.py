"""Answers of the Responses API, whole and streamed: read, written, and judged by OpenAI's own accumulator."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import omit
from openai._models import construct_type
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ParsedResponse, Response, ResponseStreamEvent

from app.domain.content import (
    Answer,
    Block,
    BlockEnded,
    BlockStarted,
    Cited,
    Delta,
    Event,
    Image,
    Opaque,
    Refusal,
    Signed,
    Source,
    Started,
    Stop,
    Stopped,
    Text,
    Thinking,
    ToolCall,
)
from app.domain.responses import ResponsesRequest
from app.domain.usage import Details, Usage
from app.errors import BudgetExceeded, GatewayError, InvalidRequest, RateLimited
from app.providers.dialects import carrier
from app.providers.dialects.dialect import Framing, Outgoing, StreamReported
from app.providers.dialects.responses import DIALECT
from app.providers.dialects.responses.signatures import KEPT

USAGE = Usage(100, 20, 30, 5, details=Details(cache_write_tokens=7))
SIGNATURE = Opaque("anthropic", "signature", "SIG")
THOUGHT = Opaque("gemini", "thoughtSignature", "TS")
NAMESPACE = {"type": "namespace", "name": "agents", "description": "", "tools": [{"type": "function", "name": "close"}]}
BLOCKS: tuple[Block, ...] = (
    Thinking(text="hm", signature=SIGNATURE),
    Text(text="Hello"),
    Text(text=" you"),
    ToolCall(id="toolu_1", name="agents__close", arguments='{"target": "x"}'),
    ToolCall(id="", name="read"),
    ToolCall(id="c", name="patch", arguments="*** Begin", custom=True),
)


def framing(**body: Any) -> Framing:
    request = ResponsesRequest.parse(json.dumps({"model": "m", "input": "x", "tools": [NAMESPACE], **body}).encode())
    return Framing(call_id="0a1b", created=1_700_000_000, prompt=DIALECT.decode_request(request), fields=request.fields)


def encoded(*blocks: Block, stop: Stop = "end", usage: Usage | None = USAGE, **body: Any) -> dict[str, Any]:
    answer = Answer(id="msg_1", model="claude", blocks=blocks, stop=stop, usage=usage)
    found: dict[str, Any] = json.loads(DIALECT.encode_answer(answer, framing(**body)))
    Response.model_validate(found)
    return found


def events_of(*blocks: Block, stop: Stop = "end") -> list[Event]:
    """Returns a stream of the blocks, each text in two pieces."""
    events: list[Event] = [Started(id="msg_1", model="claude")]
    for i, block in enumerate(blocks):
        text = getattr(block, "text", "") or getattr(block, "arguments", "")
        signature = block.signature if isinstance(block, Thinking) else None
        events.append(BlockStarted(index=i, block=_empty(block)))
        events += [Delta(index=i, text=piece) for piece in (text[:2], text[2:]) if piece]
        events += [Signed(index=i, signature=signature)] if signature else []
        events.append(BlockEnded(index=i))
    return [*events, Stopped(stop=stop, usage=USAGE)]


def _empty(block: Block) -> Block:
    if isinstance(block, ToolCall):
        return ToolCall(id=block.id, name=block.name, custom=block.custom, signature=block.signature)
    return Text(text="") if isinstance(block, Text) else Refusal(text="") if isinstance(block, Refusal) else Thinking()


def written(events: list[Event], **body: Any) -> list[dict[str, Any]]:
    encoder = DIALECT.stream_encoder(framing(**body))
    raw = b"".join(encoder.encode(event) for event in events) + encoder.ending()
    return parsed(raw)


def parsed(raw: bytes) -> list[dict[str, Any]]:
    """Returns the events in `raw`. Fails unless each is named by its type, and numbered."""
    found = []
    for i, block in enumerate(raw.removesuffix(b"\n\n").split(b"\n\n")):
        name, _, data = block.partition(b"\ndata: ")
        event = json.loads(data)
        assert name == b"event: " + event["type"].encode()
        assert event["sequence_number"] == i
        found.append(event)
    return found


def accumulated(events: list[dict[str, Any]]) -> ParsedResponse[Any]:
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in events:
        state.handle_event(construct_type(type_=ResponseStreamEvent, value=event))  # type: ignore[arg-type]
    assert state._completed_response is not None
    return state._completed_response


def decoded(events: list[dict[str, Any]], origin: str = "openai") -> list[Event]:
    decoder = DIALECT.stream_decoder(origin)
    found = [event for given in events for event in decoder.decode(given["type"], json.dumps(given).encode())]
    assert decoder.complete == (bool(found) and isinstance(found[-1], Stopped))
    return found


def test_an_answer_becomes_items_in_its_order() -> None:
    response = encoded(*BLOCKS, stop="tool_calls")
    assert [item["type"] for item in response["output"]] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
        "custom_tool_call",
    ]
    reasoning, message, close, read, patch = response["output"]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert carrier.unpack(reasoning["encrypted_content"]) == SIGNATURE
    assert [part["text"] for part in message["content"]] == ["Hello", " you"]
    assert (close["name"], close["namespace"], close["call_id"]) == ("close", "agents", "toolu_1")
    assert (read["arguments"], read["call_id"]) == ("{}", "call_0a1b_1")
    assert patch["input"] == "*** Begin"
    assert len({item["id"] for item in response["output"]}) == 5


def test_a_response_repeats_its_request() -> None:
    response = encoded(Text(text="x"), instructions="Be brief.", temperature=0.5, metadata={"a": "b"}, store=False)
    assert response["id"] == "resp_0a1b"
    assert (response["instructions"], response["temperature"], response["metadata"]) == ("Be brief.", 0.5, {"a": "b"})
    assert (response["store"], response["tools"], response["truncation"]) == (False, [NAMESPACE], "disabled")
    assert (response["model"], response["created_at"], response["status"]) == ("claude", 1_700_000_000, "completed")


def test_usage_has_all_its_counters() -> None:
    assert encoded(Text(text="x"))["usage"] == {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 7},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 120,
    }
    assert encoded(Text(text="x"), usage=None)["usage"] is None


@pytest.mark.parametrize(
    ("stop", "status", "reason"),
    [
        ("end", "completed", None),
        ("stop_sequence", "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("context_window", "incomplete", "max_output_tokens"),
        ("pause", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
        ("refusal", "incomplete", "content_filter"),
    ],
)
def test_a_stop_is_told_by_status_and_reason(stop: Stop, status: str, reason: str | None) -> None:
    for response in (encoded(Text(text="x"), stop=stop), written(events_of(Text(text="x"), stop=stop))[-1]["response"]):
        details = response["incomplete_details"]
        assert (response["status"], details["reason"] if details else None) == (status, reason)


def test_a_refusal_in_words_completes_the_response() -> None:
    response = encoded(Refusal(text="no"), stop="refusal")
    assert response["status"] == "completed"
    assert response["output"][0]["content"] == [{"type": "refusal", "refusal": "no"}]
    assert DIALECT.decode_answer(json.dumps(response).encode(), "x").stop == "refusal"


def test_a_picture_is_an_image_generation_call() -> None:
    picture = Image(source=Source(media_type="image/webp", data="AAAA"))
    response = encoded(picture)
    assert response["output"][0]["result"] == "AAAA"
    assert DIALECT.decode_answer(json.dumps(response).encode(), "x").blocks == (picture,)


def test_an_answer_is_read() -> None:
    blocks = (
        Thinking(text="a\n\nb", signature=Opaque("openai", "encrypted_content", "gAAA", "rs_1")),
        Text(
            text="Hi", citations=({"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 2},)
        ),
        ToolCall(id="call_1", name="agents__close", arguments="{}"),
    )
    body = {
        "id": "resp_9",
        "object": "response",
        "created_at": 5,
        "status": "completed",
        "model": "gpt",
        "service_tier": "flex",
        "output": [
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}],
                "encrypted_content": "gAAA",
            },
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Hi", "annotations": list(blocks[1].citations)}],
            },
            {"type": "function_call", "call_id": "call_1", "name": "close", "namespace": "agents", "arguments": "{}"},
        ],
        "usage": {
            "input_tokens": 9,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
            "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 1},
            "total_tokens": 12,
        },
    }
    answer = DIALECT.decode_answer(json.dumps(body).encode(), "openai")
    assert answer.blocks == blocks
    assert (answer.id, answer.model, answer.created, answer.stop) == ("resp_9", "gpt", 5, "tool_calls")
    assert answer.usage == Usage(9, 3, 4, 1, service_tier="flex", details=Details(cache_write_tokens=2))
    assert DIALECT.read_answer(json.dumps(body).encode()).usage == answer.usage


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"status":"failed","error":{"code":"server_error","message":"x"},"output":[]}',
        b'{"status":"in_progress","output":[]}',
        b'{"status":"completed","output":[5]}',
    ],
)
def test_what_is_no_finished_answer_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError):
        DIALECT.decode_answer(body, "x")


def test_an_answer_without_usage_is_counted_by_its_text() -> None:
    body = encoded(Text(text="héllo"), ToolCall(id="c", name="f", arguments="{}"), usage=None)
    reported = DIALECT.read_answer(json.dumps(body).encode())
    assert (reported.usage, reported.text_bytes) == (None, 8)


def test_a_search_is_billed_and_an_opened_page_is_not() -> None:
    searched = [{"type": "web_search_call", "action": {"type": kind}} for kind in ("search", "open_page", "search")]
    body = {"status": "completed", "output": searched, "usage": {"input_tokens": 1, "output_tokens": 1}}
    usage = DIALECT.read_answer(json.dumps(body).encode()).usage
    assert usage is not None
    assert usage.searches == 2


def test_openais_accumulator_reads_a_translated_stream() -> None:
    events = written(events_of(*BLOCKS, stop="tool_calls"))
    response = accumulated(events)
    assert response.output_text == "Hello you"
    whole = encoded(*BLOCKS, stop="tool_calls")
    assert [item["id"] for item in events[-1]["response"]["output"]] == [item["id"] for item in whole["output"]]
    calls = [item for item in response.output if item.type == "function_call"]
    assert [call.arguments for call in calls] == ['{"target": "x"}', "{}"]


def test_a_streams_pieces_add_up_to_its_items() -> None:
    events = written(events_of(*BLOCKS, stop="tool_calls"))
    sums: dict[str, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            sums[event["item_id"]] = sums.get(event["item_id"], "") + event["delta"]
    for item in events[-1]["response"]["output"]:
        texts = [part["text"] for part in item.get("content") or item.get("summary") or ()]
        assert sums[item["id"]] == ("".join(texts) or item.get("arguments") or item.get("input"))


def test_places_in_a_stream_are_contiguous() -> None:
    events = written(events_of(*BLOCKS, Text(text="!!!")))
    added = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    done = [event["output_index"] for event in events if event["type"] == "response.output_item.done"]
    assert added == done == list(range(6))
    parts = [(e["output_index"], e["content_index"]) for e in events if e["type"] == "response.content_part.added"]
    assert parts == [(1, 0), (1, 1), (5, 0)]
    terminal = [event["type"] for event in events if event["type"] in ("response.completed", "response.incomplete")]
    assert terminal == [events[-1]["type"]]


def test_a_calls_signature_is_a_reasoning_item_before_it() -> None:
    call = ToolCall(id="c", name="read", arguments="{}", signature=THOUGHT)
    for output in (encoded(call)["output"], written(events_of(call))[-1]["response"]["output"]):
        assert [item["type"] for item in output] == ["reasoning", "function_call"]
        again = DIALECT.decode_request(ResponsesRequest.parse(json.dumps({"input": output}).encode()))
        assert again.messages[0].blocks == (call,)


def test_a_signature_that_comes_late_is_still_its_calls() -> None:
    events = events_of(ToolCall(id="c", name="read", arguments="{}"), ToolCall(id="d", name="read", arguments="{}"))
    events.insert(3, Signed(index=0, signature=THOUGHT))
    output = written(events)[-1]["response"]["output"]
    again = DIALECT.decode_request(ResponsesRequest.parse(json.dumps({"input": output}).encode()))
    assert [block.signature for block in again.messages[0].blocks if isinstance(block, ToolCall)] == [THOUGHT, None]


def test_a_citation_is_an_annotation_of_the_text() -> None:
    events = events_of(Text(text="Hello"))
    events.insert(4, Cited(index=0, citation={"type": "web_search_result_location", "url": "u", "title": "t"}))
    stream = written(events)
    added = next(event for event in stream if event["type"] == "response.output_text.annotation.added")
    assert added["annotation"] == {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 5}
    assert stream[-1]["response"]["output"][0]["content"][0]["annotations"] == [added["annotation"]]


def test_a_cut_stream_has_no_ending() -> None:
    events = events_of(*BLOCKS)
    for length in range(len(events)):
        encoder = DIALECT.stream_encoder(framing())
        for event in events[:length]:
            encoder.encode(event)
        assert encoder.ending() == b""


def test_an_error_ends_a_stream_as_its_next_event() -> None:
    encoder = DIALECT.stream_encoder(framing())
    raw = b"".join(encoder.encode(event) for event in events_of(*BLOCKS)[:7])
    events = parsed(raw + DIALECT.error_event(GatewayError("It broke."), "req", encoder))
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["id"] == events[0]["response"]["id"]
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "It broke."}


def test_an_error_before_any_event_begins_the_stream() -> None:
    for stream in (None, DIALECT.stream_encoder(framing())):
        events = parsed(DIALECT.error_event(GatewayError("It broke."), "req", stream))
        assert events[0]["type"] == "response.created"
        assert events[-1]["type"] == "response.failed"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (BudgetExceeded("Spent.", limit="day_usd", retry_after_s=9, retryable=False), "insufficient_quota", "Spent."),
        (
            RateLimited("Too fast.", limit="rpm", retry_after_s=1.5),
            "rate_limit_exceeded",
            "Too fast. Please try again in 1.5s.",
        ),
        (InvalidRequest("Bad."), "invalid_prompt", "Bad."),
    ],
)
def test_codex_finds_the_codes_that_it_acts_upon(error: GatewayError, code: str, message: str) -> None:
    failed = parsed(DIALECT.error_event(error, "req", None))[-1]["response"]["error"]
    assert failed == {"code": code, "message": message}


def test_a_stream_is_read_as_it_was_written() -> None:
    events = decoded(written(events_of(*BLOCKS, stop="tool_calls")))
    blocks = [event.block for event in events if isinstance(event, BlockStarted)]
    assert [type(block).__name__ for block in blocks] == [type(block).__name__ for block in BLOCKS]
    assert [event.index for event in events if isinstance(event, BlockEnded)] == list(range(6))
    texts = ["" for _ in BLOCKS]
    for event in events:
        if isinstance(event, Delta):
            texts[event.index] += event.text
    assert texts == ["hm", "Hello", " you", '{"target": "x"}', "{}", "*** Begin"]
    stopped = events[-1]
    assert isinstance(stopped, Stopped)
    assert (stopped.stop, stopped.usage) == ("tool_calls", USAGE)


FULL = written(events_of(*BLOCKS, stop="tool_calls"))


@pytest.mark.parametrize(
    "left_out",
    [
        {"response.function_call_arguments.delta", "response.custom_tool_call_input.delta"},
        {"response.output_text.delta", "response.reasoning_summary_text.delta"},
        {"response.content_part.added", "response.content_part.done", "response.output_text.done"},
        {event["type"] for event in FULL} - {"response.created", "response.output_item.done", "response.completed"},
        {event["type"] for event in FULL} - {"response.created", "response.completed"},
        {event["type"] for event in FULL} - {"response.completed"},
    ],
    ids=["arguments", "texts", "parts", "all-but-items", "all-but-the-end", "all-but-the-response"],
)
def test_what_a_stream_leaves_out_is_completed(left_out: set[str]) -> None:
    texts: dict[int, str] = {}
    events = decoded([event for event in FULL if event["type"] not in left_out])
    for event in events:
        if isinstance(event, Delta):
            texts[event.index] = texts.get(event.index, "") + event.text
        elif isinstance(event, BlockStarted):
            block = event.block
            texts[event.index] = getattr(block, "text", "") or getattr(block, "arguments", "")
    assert list(texts.values()) == ["hm", "Hello", " you", '{"target": "x"}', "{}", "*** Begin"]
    assert isinstance(events[0], Started)


def test_arguments_that_come_at_once_are_put_in_order() -> None:
    item = {"type": "function_call", "arguments": ""}
    events = decoded(
        [
            {"type": "response.created", "response": {"id": "resp_1"}},
            {"type": "response.output_item.added", "output_index": 0, "item": {**item, "call_id": "a", "name": "f"}},
            {"type": "response.output_item.added", "output_index": 1, "item": {**item, "call_id": "b", "name": "g"}},
            {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "[1"},
            {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "[0]"},
            {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "]"},
            {"type": "response.completed", "response": {"id": "resp_1", "status": "completed"}},
        ]
    )
    assert [(e.index, e.text) for e in events if isinstance(e, Delta)] == [(0, "[0]"), (1, "[1"), (1, "]")]


@pytest.mark.parametrize("length", range(len(FULL)))
def test_a_stream_that_is_cut_is_not_complete(length: int) -> None:
    decoder = DIALECT.stream_decoder("x")
    found = [event for given in FULL[:length] for event in decoder.decode(given["type"], json.dumps(given).encode())]
    assert not decoder.complete
    assert not list(decoder.end())
    assert not any(isinstance(event, Stopped) for event in found)


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded", "message": "m"}}}, 429),
        ({"type": "response.failed", "response": {"error": {"code": "context_length_exceeded", "message": "m"}}}, 400),
        ({"type": "response.failed", "response": {"error": {"code": "invalid_image_url", "message": "m"}}}, 400),
        ({"type": "response.failed", "response": {"error": None}}, 500),
        ({"type": "error", "code": "server_error", "message": "m", "param": None}, 500),
        ({"type": "error", "error": {"code": "insufficient_quota", "message": "m"}}, 429),
        ({"error": {"message": "m"}}, 500),
    ],
)
def test_a_reported_error_has_its_status(event: dict[str, Any], status: int) -> None:
    payload = json.dumps(event).encode()
    with pytest.raises(StreamReported) as reported:
        list(DIALECT.stream_decoder("x").decode("", payload))
    assert reported.value.status == status
    if "type" in event:
        with pytest.raises(StreamReported) as watched:
            DIALECT.watch(ResponsesRequest.parse(b'{"input":"x"}')).see(event["type"], payload)
        assert (watched.value.status, watched.value.payload) == (status, payload)


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"{}", b'{"choices":[]}', b'{"type":5}'])
def test_what_is_no_event_is_an_error(payload: bytes) -> None:
    with pytest.raises(ValueError):
        list(DIALECT.stream_decoder("x").decode("", payload))


def test_events_of_the_future_are_passed_over() -> None:
    assert decoded([{"type": "response.from_the_future", "x": 1}]) == []


class TestPassing:
    """Calls whose caller and vendor both speak the dialect."""

    def test_only_the_model_and_the_bound_change(self) -> None:
        raw = b'{"model": "alias", "input": "x",  "metadata": {"a":  1}, "max_output_tokens": 9, "new_field": [ 1 ]}'
        to = Outgoing(origin="openai", model="gpt", stream=False, max_output_tokens=5)
        body = DIALECT.pass_request(ResponsesRequest.parse(raw), to)
        assert b'"metadata":{"a":  1}' in body
        assert b'"new_field":[ 1 ]' in body
        assert json.loads(body) == {**json.loads(raw), "model": "gpt", "max_output_tokens": 5}

    def test_foreign_reasoning_is_taken_out(self) -> None:
        own = Opaque("openai", "encrypted_content", "gAAA", "rs_9")
        items = [
            {"type": "reasoning", "id": "rs_x", "summary": [], "encrypted_content": carrier.pack(SIGNATURE)},
            {"type": "reasoning", "id": "rs_y", "summary": [], "encrypted_content": carrier.pack(own)},
            {"type": "reasoning", "id": "rs_z", "summary": [], "encrypted_content": "gBBB"},
        ]
        to = Outgoing(origin="openai", model="m", stream=False)
        body = json.loads(
            DIALECT.pass_request(ResponsesRequest.parse(json.dumps({"model": "m", "input": items}).encode()), to)
        )
        assert [(item["id"], item["encrypted_content"]) for item in body["input"]] == [
            ("rs_9", "gAAA"),
            ("rs_z", "gBBB"),
        ]
        assert to.dropped == ["thinking"]

    def test_a_stream_is_counted_and_its_end_held_back(self) -> None:
        watch = DIALECT.watch(ResponsesRequest.parse(b'{"input":"x"}'))
        seen = [watch.see(event["type"], json.dumps(event).encode()) for event in FULL]
        assert seen == [True] * (len(FULL) - 1) + [False]
        assert (watch.usage, watch.complete) == (USAGE, True)
        assert watch.text_bytes == len('hmHello you{"target": "x"}{}*** Begin')
        assert watch.ending == b"event: response.completed\ndata: " + json.dumps(FULL[-1]).encode() + b"\n\n"

    def test_the_answer_begins_with_its_first_piece(self) -> None:
        watch = DIALECT.watch(ResponsesRequest.parse(b'{"input":"x"}'))
        for event in FULL:
            if event["type"].endswith(".delta"):
                break
            watch.see(event["type"], json.dumps(event).encode())
            assert not watch.started
        watch.see("", json.dumps(event).encode())
        assert watch.started

    def test_a_vendors_own_work_begins_the_answer(self) -> None:
        watch = DIALECT.watch(ResponsesRequest.parse(b'{"input":"x"}'))
        watch.see("", b'{"type":"response.output_item.added","item":{"type":"web_search_call"}}')
        assert watch.started

    def test_an_error_follows_the_last_event(self) -> None:
        watch = DIALECT.watch(ResponsesRequest.parse(b'{"input":"x"}'))
        for event in FULL[:6]:
            watch.see(event["type"], json.dumps(event).encode())
        raw = DIALECT.error_event(GatewayError("It broke."), "req", watch)
        failed = json.loads(raw.partition(b"\ndata: ")[2])
        assert failed["sequence_number"] == 6
        assert failed["response"]["id"] == FULL[0]["response"]["id"]
        assert failed["response"]["status"] == "failed"

    @pytest.mark.parametrize("payload", [b"{", b"5", b'{"delta":1'])
    def test_broken_events_are_errors(self, payload: bytes) -> None:
        watch = DIALECT.watch(ResponsesRequest.parse(b'{"input":"x"}'))
        with pytest.raises(ValueError):
            watch.see("response.output_text.delta", payload)

    def test_half_a_surrogate_pair_passes(self) -> None:
        watch = DIALECT.watch(ResponsesRequest.parse(b'{"input":"x"}'))
        assert watch.see("response.output_text.delta", b'{"delta":"\\ud83d"}')
        assert (watch.chunks, watch.started) == (1, True)

    def test_under_a_budget_no_reasoning_is_fetched_by_its_id(self) -> None:
        """The vendor would put its own copy into the prompt; without ids the other items do not ask for it."""
        for opaque in (Opaque("openai", KEPT, "", "rs_9"), Opaque("openai", "encrypted_content", "", "rs_9")):
            items = [
                {"type": "reasoning", "id": "rs_9", "summary": [], "encrypted_content": carrier.pack(opaque)},
                {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"},
            ]
            request = ResponsesRequest.parse(json.dumps({"model": "m", "input": items}).encode())
            bounded = Outgoing(origin="openai", model="m", stream=False, max_output_tokens=5)
            [call] = json.loads(DIALECT.pass_request(request, bounded))["input"]
            assert call == {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
            free = Outgoing(origin="openai", model="m", stream=False)
            assert len(json.loads(DIALECT.pass_request(request, free))["input"]) == 2
