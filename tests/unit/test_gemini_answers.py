"""Gemini's answers, whole and streamed: read from vendors, written for callers, and watched as they pass."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.content import (
    Answer,
    Audio,
    Block,
    BlockEnded,
    BlockStarted,
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
    Stop,
    Stopped,
    Text,
    Thinking,
    ToolCall,
)
from app.domain.gemini import GeminiRequest
from app.domain.usage import Details, Usage
from app.errors import BudgetExceeded, InvalidRequest, NotReady, RateLimited
from app.providers.dialects.dialect import Framing, StreamReported
from app.providers.dialects.gemini import DIALECT, signatures
from app.providers.dialects.gemini.running_usage import usage_of
from app.providers.dialects.gemini.schemas import read_schema, write_schema
from app.providers.dialects.gemini.usage import write_usage
from app.providers.dialects.gemini.wire import decode_wire

SIGNED = Opaque("google", signatures.KIND, "c2ln")
CLAUDE = Opaque("anthropic", "signature", "EqQB")
USAGE = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
FRAMING = Framing(call_id="abc", created=1, prompt=Prompt(model="m", messages=()), fields={})


def chunk(*parts: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    body = {"candidates": [candidate], "modelVersion": "gemini-3-pro", "responseId": "r1", **more}
    return json.dumps(body).encode()


def read(*parts: dict[str, Any], finish: str = "STOP", **more: Any) -> Answer:
    return DIALECT.decode_answer(chunk(*parts, finish=finish, **more), "google")


def read_stream(*chunks: bytes) -> list[Event]:
    decoder = DIALECT.stream_decoder("google")
    events = [event for each in chunks for event in decoder.decode("", each)]
    assert not decoder.complete
    events += decoder.end()
    assert decoder.complete == any(isinstance(event, Stopped) for event in events)
    return events


def write(answer: Answer) -> Any:
    return json.loads(DIALECT.encode_answer(answer, FRAMING))


def write_stream(*events: Event) -> list[Any]:
    encoder = DIALECT.stream_encoder(FRAMING)
    written = b"".join(map(encoder.encode, events)) + encoder.ending()
    payloads = written.split(b"\n\n")
    assert payloads.pop() == b""
    assert all(payload.startswith(b"data: {") for payload in payloads)
    return [json.loads(payload[6:]) for payload in payloads]


PARTS: list[tuple[list[dict[str, Any]], list[Block]]] = [
    ([{"text": "a"}, {"text": "b"}], [Text(text="ab")]),
    ([{"text": "hm", "thought": True}, {"text": "a"}], [Thinking(text="hm"), Text(text="a")]),
    (
        [{"text": "hm", "thought": True, "thoughtSignature": "c2ln"}, {"text": "a"}],
        [Thinking(text="hm", signature=SIGNED), Text(text="a")],
    ),
    ([{"text": "a", "thoughtSignature": "c2ln"}], [Text(text="a"), Thinking(signature=SIGNED)]),
    ([{"text": "a"}, {"text": "", "thoughtSignature": "c2ln"}], [Text(text="a"), Thinking(signature=SIGNED)]),
    (
        [{"functionCall": {"id": "x", "name": "f", "args": {"a": 1.50, "b": "é"}}, "thoughtSignature": "c2ln"}],
        [ToolCall(id="x", name="f", arguments='{"a": 1.5, "b": "\\u00e9"}', signature=SIGNED)],
    ),
    ([{"functionCall": {"name": "f"}}, {"functionCall": {"name": "f", "args": None}}], [ToolCall(id="", name="f")] * 2),
    (
        [{"inlineData": {"mimeType": "image/png", "data": "AA"}}],
        [Image(source=Source(media_type="image/png", data="AA"))],
    ),
    (
        [{"inlineData": {"mimeType": "audio/wav", "data": "AA"}}],
        [Audio(source=Source(media_type="audio/wav", data="AA"))],
    ),
    ([{"executableCode": {"code": "1"}}], [ServerTool(dialect="gemini", value={"executableCode": {"code": "1"}})]),
]


@pytest.mark.parametrize(("parts", "blocks"), PARTS)
def test_parts_are_read_as_blocks(parts: list[dict[str, Any]], blocks: list[Block]) -> None:
    assert list(read(*parts).blocks) == blocks


@pytest.mark.parametrize(("parts", "blocks"), PARTS)
def test_a_stream_says_what_the_whole_answer_says(parts: list[dict[str, Any]], blocks: list[Block]) -> None:
    events = read_stream(*(chunk(part) for part in parts), chunk(finish="STOP", usageMetadata=USAGE))
    assert isinstance(events[0], Started)
    stopped = events[-1]
    assert isinstance(stopped, Stopped)
    assert stopped.usage == Usage(10, 5)
    assert stopped.stop == read(*parts).stop
    assert collect(events) == blocks


def collect(events: list[Event]) -> list[Block]:
    """Returns the blocks of a stream, whose grammar it checks."""
    blocks: list[Block] = []
    is_open = False
    for event in events:
        if isinstance(event, BlockStarted):
            assert not is_open
            assert event.index == len(blocks)
            blocks.append(event.block)
            is_open = True
        elif isinstance(event, Delta | Signed | BlockEnded):
            assert is_open
            assert event.index == len(blocks) - 1
            last: Any = blocks[-1]
            if isinstance(event, Signed):
                blocks[-1] = msgspec.structs.replace(last, signature=event.signature)
            elif isinstance(event, Delta):
                field = "arguments" if isinstance(last, ToolCall) else "text"
                blocks[-1] = msgspec.structs.replace(last, **{field: getattr(last, field) + event.text})
            else:
                is_open = False
    assert not is_open
    return blocks


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("STOP", "end"),
        ("MAX_TOKENS", "length"),
        ("OTHER", "end"),
        ("FINISH_REASON_UNSPECIFIED", "end"),
        ("NO_IMAGE", "end"),
        ("CONTINUATION", "pause"),
        ("SOMETHING_NEW", "end"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("LANGUAGE", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
        ("IMAGE_PROHIBITED_CONTENT", "content_filter"),
        ("IMAGE_RECITATION", "content_filter"),
        ("IMAGE_OTHER", "content_filter"),
        ("ESCALATION", "content_filter"),
        ("PUP_LIMITED_DISABLED", "content_filter"),
        ("MODEL_ARMOR", "content_filter"),
    ],
)
def test_a_finish_reason_is_read(reason: str, stop: Stop) -> None:
    assert (read({"text": "a"}, finish=reason).stop, read(finish=reason).native_stop) == (stop, reason)
    stopped = read_stream(chunk({"text": "a"}, finish=reason))[-1]
    assert stopped == Stopped(stop=stop, native_stop=reason)


def test_a_call_ends_the_answer_for_its_result() -> None:
    assert read({"functionCall": {"name": "f"}}).stop == "tool_calls"


@pytest.mark.parametrize(
    "reason",
    [
        "MALFORMED_FUNCTION_CALL",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MISSING_THOUGHT_SIGNATURE",
        "MALFORMED_RESPONSE",
    ],
)
def test_a_failure_of_the_model_is_an_error_and_no_filter(reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read(finish=reason)
    with pytest.raises(StreamReported, match=reason):
        read_stream(chunk(finish=reason))
    assert DIALECT.read_answer(chunk(finish=reason, usageMetadata=USAGE)).usage == Usage(10, 5)


def test_a_blocked_prompt_is_filtered() -> None:
    body = json.dumps({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}}).encode()
    answer = DIALECT.decode_answer(body, "google")
    assert (answer.stop, answer.native_stop, answer.blocks) == ("content_filter", "SAFETY", ())
    assert read_stream(body)[-1] == Stopped(stop="content_filter", native_stop="SAFETY", usage=Usage(3, 0))


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"candidates":[]}', b'{"candidates":[{"content":{"parts":[{"text":1}]}}]}']
)
def test_a_body_without_an_answer_is_none(body: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        DIALECT.decode_answer(body, "google")


def test_arguments_in_parts_are_put_together() -> None:
    def call(**fields: Any) -> bytes:
        return chunk({"functionCall": fields})

    events = read_stream(
        call(name="f", id="x", willContinue=True),
        call(partialArgs=[{"jsonPath": "$.city", "stringValue": "Par", "willContinue": True}], willContinue=True),
        call(partialArgs=[{"jsonPath": "$.city", "stringValue": "is"}], willContinue=True),
        call(
            partialArgs=[{"jsonPath": "$.days[1].n", "numberValue": 2}, {"jsonPath": "$['a b']", "boolValue": True}],
            willContinue=True,
        ),
        call(),
        chunk({"functionCall": {"name": "g", "args": {}}}, finish="STOP"),
    )
    first, second = collect(events)
    assert isinstance(first, ToolCall)
    assert json.loads(first.arguments) == {"city": "Paris", "days": [None, {"n": 2}], "a b": True}
    assert isinstance(second, ToolCall)
    assert second.name == "g"


@pytest.mark.parametrize("path", ["city", "$", "$[0]", "$.a[99999999]", "$.a.b.c"])
def test_arguments_in_parts_at_no_place_are_refused(path: str) -> None:
    parts = [{"jsonPath": "$.a.b", "stringValue": "x"}, {"jsonPath": path, "stringValue": "x"}]
    with pytest.raises(ValueError, match="arguments"):
        read_stream(chunk({"functionCall": {"name": "f", "partialArgs": parts, "willContinue": True}}))


def test_a_stream_that_breaks_off_has_no_end() -> None:
    chunks = [chunk({"text": "a"}), chunk({"text": "b"})]
    for n in range(len(chunks) + 1):
        assert not any(isinstance(event, Stopped) for event in read_stream(*chunks[:n]))


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (b'{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}', 503),
        (b'{"error":{"code":"x"}}', 500),
        (b'{"error":"broken"}', 500),
    ],
)
def test_an_error_in_a_stream_is_reported(payload: bytes, status: int) -> None:
    with pytest.raises(StreamReported) as caught:
        list(DIALECT.stream_decoder("google").decode("", payload))
    assert (caught.value.status, caught.value.payload) == (status, payload)
    with pytest.raises(StreamReported):
        DIALECT.watch(GeminiRequest.parse(b'{"contents":[{}]}', "m", True)).see("", payload)


# Usage


@pytest.mark.parametrize(
    ("wire", "usage"),
    [
        (
            {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 7, "totalTokenCount": 22},
            Usage(10, 12, 0, 7),
        ),
        ({"promptTokenCount": 10, "thoughtsTokenCount": 7, "totalTokenCount": 17}, Usage(10, 7, 0, 7)),
        # A server that counts thoughts among the candidates.
        (
            {"promptTokenCount": 10, "candidatesTokenCount": 12, "thoughtsTokenCount": 7, "totalTokenCount": 22},
            Usage(10, 12, 0, 7),
        ),
        # One that tells thoughts by the total alone.
        ({"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 22}, Usage(10, 12)),
        (
            {"promptTokenCount": 10, "toolUsePromptTokenCount": 4, "candidatesTokenCount": 5, "totalTokenCount": 19},
            Usage(14, 5),
        ),
        ({"promptTokenCount": 10, "cachedContentTokenCount": 8, "candidatesTokenCount": "5"}, Usage(10, 5, 8)),
        ({"promptTokenCount": -1, "candidatesTokenCount": True, "totalTokenCount": [1]}, Usage()),
        ({"promptTokenCount": 1, "trafficType": "ON_DEMAND_PRIORITY"}, Usage(1, service_tier="priority")),
        ({"promptTokenCount": 1, "serviceTier": "flex"}, Usage(1, service_tier="flex")),
        (
            {
                "promptTokenCount": 20,
                "candidatesTokenCount": 9,
                "cachedContentTokenCount": 6,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 5},
                    {"modality": "AUDIO", "tokenCount": 5},
                    {"modality": "IMAGE", "tokenCount": 6},
                    {"modality": "VIDEO", "tokenCount": 4},
                ],
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 2}, {"modality": "IMAGE", "tokenCount": 3}],
                "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 9}, {"modality": 1}],
            },
            Usage(
                20,
                9,
                6,
                details=Details(
                    audio_prompt_tokens=5,
                    image_prompt_tokens=6,
                    video_prompt_tokens=4,
                    audio_cached_tokens=2,
                    image_cached_tokens=3,
                    image_completion_tokens=9,
                ),
            ),
        ),
    ],
)
def test_usage_is_read(wire: dict[str, Any], usage: Usage) -> None:
    assert read({"text": "a"}, usageMetadata=wire).usage == usage
    assert DIALECT.read_answer(chunk({"text": "a"}, usageMetadata=wire)).usage == usage


@given(st.tuples(*[st.integers(0, 10**6)] * 4))
def test_usage_survives_being_written(numbers: tuple[int, int, int, int]) -> None:
    prompt, completion, cached, reasoning = numbers
    usage = Usage(prompt, completion, min(cached, prompt), min(reasoning, completion))
    assert usage_of(decode_wire(json.dumps({"usageMetadata": write_usage(usage)}).encode())) == usage


def test_sound_and_pictures_are_written_by_their_kind() -> None:
    usage = Usage(20, 9, details=Details(audio_prompt_tokens=5, image_completion_tokens=9))
    written = write_usage(usage)
    assert written["promptTokensDetails"] == [
        {"modality": "TEXT", "tokenCount": 15},
        {"modality": "AUDIO", "tokenCount": 5},
    ]
    assert written["candidatesTokensDetails"] == [{"modality": "IMAGE", "tokenCount": 9}]


def test_searches_are_counted() -> None:
    candidate = {"finishReason": "STOP", "groundingMetadata": {"webSearchQueries": ["a", "b"]}}
    body = json.dumps({"candidates": [candidate], "usageMetadata": USAGE}).encode()
    usage = DIALECT.read_answer(body).usage
    assert usage is not None
    assert usage.searches == 2


def test_without_usage_the_text_is_measured() -> None:
    body = chunk({"text": "é"}, {"functionCall": {"name": "f", "args": {"a": 1}}}, finish="STOP")
    assert DIALECT.read_answer(body).text_bytes == 2 + 1 + len('{"a": 1}')
    assert DIALECT.read_answer(body).usage is None


# Written for a caller


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("end", "STOP"),
        ("stop_sequence", "STOP"),
        ("tool_calls", "STOP"),
        ("pause", "MAX_TOKENS"),
        ("length", "MAX_TOKENS"),
        ("context_window", "MAX_TOKENS"),
        ("content_filter", "SAFETY"),
        ("refusal", "SAFETY"),
    ],
)
def test_a_stop_is_written_in_a_word_that_every_client_knows(stop: Stop, reason: str) -> None:
    answer = Answer(id="i", model="claude", blocks=(Text(text="a"),), stop=stop, usage=Usage(3, 2))
    body = write(answer)
    assert body["candidates"][0]["finishReason"] == reason
    assert body["candidates"][0]["content"] == {"parts": [{"text": "a"}], "role": "model"}
    assert (body["modelVersion"], body["responseId"]) == ("claude", "i")
    assert body["usageMetadata"] == {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5}
    last = write_stream(Started(id="i", model="claude"), Stopped(stop=stop, usage=Usage(3, 2)))[-1]
    assert last["candidates"][0]["finishReason"] == reason
    assert last["usageMetadata"] == body["usageMetadata"]


BLOCKS: tuple[Block, ...] = (
    Thinking(text="hm", signature=CLAUDE),
    Text(text="so"),
    ToolCall(id="toolu_1", name="f", arguments='{"a": 1}'),
    ToolCall(id="toolu_1", name="f"),
    Image(source=Source(media_type="image/png", data="AA")),
    Refusal(text="no"),
)
PIECES: tuple[Event, ...] = (
    Started(id="i", model="claude"),
    BlockStarted(index=0, block=Thinking()),
    Delta(index=0, text="hm"),
    Signed(index=0, signature=CLAUDE),
    BlockEnded(index=0),
    BlockStarted(index=1, block=Text(text="")),
    Delta(index=1, text="s"),
    Delta(index=1, text="o"),
    BlockEnded(index=1),
    BlockStarted(index=2, block=ToolCall(id="toolu_1", name="f")),
    Delta(index=2, text='{"a":'),
    Delta(index=2, text=" 1}"),
    BlockEnded(index=2),
    BlockStarted(index=3, block=ToolCall(id="toolu_1", name="f")),
    BlockEnded(index=3),
    BlockStarted(index=4, block=BLOCKS[4]),
    BlockEnded(index=4),
    BlockStarted(index=5, block=Refusal(text="")),
    Delta(index=5, text="no"),
    BlockEnded(index=5),
    Stopped(stop="tool_calls"),
)


def test_blocks_are_written_as_parts_whole_and_streamed() -> None:
    (whole,) = write(Answer(id="i", model="claude", blocks=BLOCKS, stop="tool_calls"))["candidates"]
    thought, text, first, second, picture, refusal = whole["content"]["parts"]
    assert thought == {"text": "hm", "thought": True, "thoughtSignature": signatures.write(CLAUDE)}
    assert (text, refusal) == ({"text": "so"}, {"text": "no"})
    assert first["functionCall"] == {"id": "toolu_1", "name": "f", "args": {"a": 1}}
    assert second["functionCall"]["id"] != "toolu_1"
    assert picture == {"inlineData": {"mimeType": "image/png", "data": "AA"}}
    held = signatures.read(first["thoughtSignature"])
    assert held == signatures.Read(thinking=(Thinking(text="hm", signature=CLAUDE),))
    assert "thoughtSignature" not in second

    chunks = write_stream(*PIECES)
    assert all(each["responseId"] == "i" and each["modelVersion"] == "claude" for each in chunks)
    parts = [part for each in chunks for part in each["candidates"][0]["content"]["parts"]]
    assert parts == [
        {"text": "hm", "thought": True},
        {**thought, "text": ""},
        {"text": "s"},
        {"text": "o"},
        first,
        second,
        picture,
        refusal,
        {"text": ""},
    ]
    assert [each["candidates"][0].get("finishReason") for each in chunks] == [None] * 8 + ["STOP"]


def test_what_a_caller_of_another_vendor_replays_is_what_it_was_given() -> None:
    parts = write(Answer(id="i", model="claude", blocks=BLOCKS[:3], stop="tool_calls"))["candidates"][0]["content"][
        "parts"
    ]
    replayed = [part for part in parts if not part.get("thought")]  # as Gemini CLI does
    for turn in (parts, replayed):
        raw = json.dumps({"contents": [{"role": "model", "parts": turn}]}).encode()
        (message,) = DIALECT.decode_request(GeminiRequest.parse(raw, "m", False)).messages
        thinking, *others = sorted(message.blocks, key=lambda block: not isinstance(block, Thinking))
        assert thinking == BLOCKS[0]
        assert others == [BLOCKS[1], ToolCall(id="toolu_1", name="f", arguments='{"a":1}')]


@pytest.mark.parametrize("arguments", ["{", "[]", "1"])
def test_arguments_that_are_no_object_are_a_malformed_call(arguments: str) -> None:
    call = ToolCall(id="a", name="f", arguments=arguments)
    whole = write(Answer(id="i", model="m", blocks=(call,), stop="tool_calls"))["candidates"][0]
    assert whole["finishReason"] == "MALFORMED_FUNCTION_CALL"
    assert whole["content"] == {"role": "model"}
    cut = write(Answer(id="i", model="m", blocks=(call,), stop="length"))["candidates"][0]
    assert cut["finishReason"] == "MAX_TOKENS"
    pieces = (BlockStarted(index=0, block=call), BlockEnded(index=0), Stopped(stop="tool_calls"))
    assert (
        write_stream(Started(id="i", model="m"), *pieces)[-1]["candidates"][0]["finishReason"]
        == "MALFORMED_FUNCTION_CALL"
    )


def test_log_probabilities_are_read_and_written() -> None:
    token = {"token": "é", "logprob": -0.5, "bytes": [195, 169]}
    tokens = [{**token, "top_logprobs": [token]}]
    answer = Answer(id="i", model="m", blocks=(Text(text="é"),), stop="end", logprobs=tokens)
    body = DIALECT.encode_answer(answer, FRAMING)
    assert DIALECT.decode_answer(body, "google").logprobs == tokens
    events: list[Event] = [
        BlockStarted(index=0, block=Text(text="")),
        Delta(index=0, text="é", logprobs=tokens),
        BlockEnded(index=0),
    ]
    (first, *_) = write_stream(Started(id="i", model="m"), *events, Stopped(stop="end"))
    (delta,) = (each for each in read_stream(json.dumps(first).encode()) if isinstance(each, Delta))
    assert delta.logprobs == tokens


# Watched as it passes


def watched(*chunks: bytes, body: bytes = b'{"contents":[{}]}') -> tuple[Any, list[bool]]:
    watch = DIALECT.watch(GeminiRequest.parse(body, "m", True))
    seen = [watch.see("", each) for each in chunks]
    watch.end()
    return watch, seen


def test_the_chunk_with_the_finish_reason_waits_for_the_end() -> None:
    last = chunk({"text": "b"}, finish="STOP", usageMetadata=USAGE)
    watch, seen = watched(chunk({"text": "é"}), last, chunk())
    assert seen == [True, False, False]
    assert watch.ending == b"data: " + last + b"\n\ndata: " + chunk() + b"\n\n"
    assert (watch.complete, watch.usage, watch.text_bytes, watch.chunks) == (True, Usage(10, 5), 3, 2)


def test_of_several_candidates_the_last_to_finish_ends_the_stream() -> None:
    def finish(index: int) -> bytes:
        return json.dumps({"candidates": [{"index": index, "finishReason": "STOP"}]}).encode()

    body = b'{"contents":[{}],"generationConfig":{"candidateCount":2}}'
    watch, seen = watched(finish(1), chunk({"text": "a"}), finish(0), body=body)
    assert seen == [True, True, False]
    assert watch.complete


def test_half_a_surrogate_pair_passes_and_is_counted() -> None:
    odd = chunk({"text": "\ud83d"}, finish="STOP")
    watch, seen = watched(odd)
    assert (seen, watch.complete, watch.chunks) == ([False], True, 1)
    assert collect(read_stream(odd)) == [Text(text="?")]
    assert list(DIALECT.decode_answer(odd, "google").blocks) == [Text(text="?")]


@pytest.mark.parametrize("payload", [b"", b"x", b"[]", b"1"])
def test_what_is_no_chunk_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        watched(payload)


def test_a_chunk_of_another_shape_passes_and_is_counted_by_its_length() -> None:
    payload = b'{"candidates":[{"content":{"parts":[{"text":["new"]}]}}]}'
    watch, seen = watched(payload)
    assert (seen, watch.chunks, watch.text_bytes, watch.started) == ([True], 1, len(payload), True)


def test_a_cut_stream_is_not_complete_and_a_blocked_prompt_is() -> None:
    cut, _ = watched(chunk({"text": "a"}, usageMetadata=USAGE))
    assert (cut.usage, cut.prompt_usage) == (None, Usage(10, 0))
    assert (cut.complete, cut.started, cut.ending) == (False, True, b"")
    blocked, _ = watched(b'{"promptFeedback":{"blockReason":"SAFETY"}}')
    assert (blocked.complete, blocked.started) == (True, True)
    silent, _ = watched(b'{"usageMetadata":{"promptTokenCount":1}}')
    assert (silent.complete, silent.started) == (False, False)


# Errors and schemas


def test_an_error_has_googles_status_and_details() -> None:
    body = DIALECT.error_body(InvalidRequest("bad", param="contents[0]"), "req-1")["error"]
    assert (body["code"], body["status"], body["message"]) == (400, "INVALID_ARGUMENT", "bad")
    kinds = {each["@type"].rpartition(".")[2]: each for each in body["details"]}
    assert kinds["RequestInfo"]["requestId"] == "req-1"
    assert kinds["BadRequest"]["fieldViolations"][0]["field"] == "contents[0]"


def test_a_limit_says_if_and_how_long_to_wait() -> None:
    def details(error: Any) -> dict[str, Any]:
        body = DIALECT.error_body(error, "r")["error"]
        assert body["status"] == ("UNAVAILABLE" if isinstance(error, NotReady) else "RESOURCE_EXHAUSTED")
        return {each["@type"].rpartition(".")[2]: each for each in body["details"]}

    short = details(RateLimited("slow down", limit="requests_per_minute", retry_after_s=2.5))
    assert short["RetryInfo"]["retryDelay"] == "2.500s"
    assert "PerMinute" in short["QuotaFailure"]["violations"][0]["quotaId"]
    spent = details(BudgetExceeded("spent", limit="budget", retry_after_s=0, retryable=False))
    assert "PerDay" in spent["QuotaFailure"]["violations"][0]["quotaId"]
    assert "QuotaFailure" not in details(NotReady("no"))


def test_an_error_after_the_first_byte_is_a_data_object() -> None:
    event = DIALECT.error_event(NotReady("no"), "r", None)
    assert event.startswith(b'data: {"error":')
    assert event.endswith(b"\n\n")


@pytest.mark.parametrize(
    ("google", "plain"),
    [
        ({"type": "STRING", "format": "enum", "enum": ["a"]}, {"type": "string", "enum": ["a"]}),
        ({"type": "OBJECT", "nullable": True}, {"type": ["object", "null"]}),
        (
            {"type": "STRING", "enum": ["a"], "nullable": True},
            {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]},
        ),
        (
            {"type": "ARRAY", "items": {"type": "INTEGER"}, "min_items": "2"},
            {"type": "array", "items": {"type": "integer"}, "minItems": 2},
        ),
        ({"any_of": [{"type": "NULL"}], "property_ordering": ["a"]}, {"anyOf": [{"type": "null"}]}),
        (
            {"ref": "#/$defs/a", "defs": {"a": {"type": "NUMBER"}}},
            {"$ref": "#/$defs/a", "$defs": {"a": {"type": "number"}}},
        ),
        (
            {"type": "OBJECT", "properties": {"nullable": {"type": "BOOLEAN"}, "any_of": {"type": "STRING"}}},
            {"type": "object", "properties": {"nullable": {"type": "boolean"}, "any_of": {"type": "string"}}},
        ),
        ({"type": ["STRING", "null"], "$schema": "x"}, {"type": ["string", "null"], "$schema": "x"}),
    ],
)
def test_googles_schema_is_read_as_json_schema(google: Any, plain: Any) -> None:
    assert read_schema(google) == plain
    assert read_schema(plain) == plain


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"const": "a"}, {"enum": ["a"]}),
        (
            {"definitions": {"a": {"const": 1}}, "properties": {"x": {"$ref": "#/definitions/a", "description": "d"}}},
            {
                "$defs": {"a": {"enum": [1]}},
                "properties": {"x": {"anyOf": [{"$ref": "#/$defs/a"}], "description": "d"}},
            },
        ),
        ({"$ref": "#/$defs/a", "$defs": {}}, {"$ref": "#/$defs/a", "$defs": {}}),
        (
            {"additionalProperties": False, "items": [{"const": 1}]},
            {"additionalProperties": False, "items": [{"enum": [1]}]},
        ),
        ({"properties": {"const": {"type": "string"}}}, {"properties": {"const": {"type": "string"}}}),
        (True, True),
    ],
)
def test_json_schema_is_written_as_gemini_takes_it(schema: Any, written: Any) -> None:
    assert write_schema(schema) == written
