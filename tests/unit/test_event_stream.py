"""Streams as they come in: cut anywhere, in every legal spelling, with every illegal end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.config.providers import Timeouts
from app.domain.chat import ChatRequest
from app.domain.usage import Usage
from app.errors import UpstreamError, UpstreamTimeout
from app.providers.dialects import DIALECTS
from app.providers.dialects.dialect import Framing
from app.providers.event_stream import EventStream
from app.providers.pacing import Pacing
from app.providers.stream_events import PassedEvents, TranslatedEvents
from tests.support.providers import SSE_HEADERS, chat_call, drip, openai, payloads, scripted_server, text_of
from tests.support.upstream import Upstream

DONE = b"data: [DONE]\n\n"


def event(text: str = "tok ", **fields: Any) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": {"content": text}}], **fields}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'


class FakeExchange:
    """An exchange whose body comes in these blocks."""

    def __init__(self, blocks: list[bytes]) -> None:
        self._blocks = iter(blocks)
        self.closed = self.released = False

    def read(self, limit_s: float, kind: str) -> bytes:
        return next(self._blocks, b"")

    def read_first(self) -> bytes:
        return self.read(0, "")

    def take_unread(self) -> bytes:
        return b"".join(self._blocks)

    def release_if_complete(self) -> None:
        self.released = True

    def close(self) -> None:
        self.closed = True


def stream_of(*blocks: bytes, include_usage: bool = False) -> EventStream:
    return stream_over(FakeExchange(list(blocks)), include_usage=include_usage)


def stream_over(exchange: Any, *, include_usage: bool = False) -> EventStream:
    options = {"stream_options": {"include_usage": include_usage}}
    request = ChatRequest.parse(json.dumps({"model": "m", "messages": [{"role": "user"}], **options}).encode())
    chat = DIALECTS["chat"]
    return EventStream(
        exchange,
        provider="up",
        dialect="chat",
        events=PassedEvents(chat, chat.watch(request)),
        heartbeat_s=15,
        timeouts=Timeouts(),
        pacing=Pacing(),
    )


def received(*blocks: bytes, include_usage: bool = False) -> bytes:
    """Returns the client's part of a stream that comes in these blocks."""
    stream = stream_of(*blocks, include_usage=include_usage)
    stream.wait_for_first_chunk()
    passed_on = b"".join(stream)
    assert stream.complete
    return passed_on


def test_a_block_of_whole_events_passes_untouched() -> None:
    assert received(event() + event(), event(), DONE) == event() * 3


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_events_may_be_split_at_every_byte(line_end: bytes) -> None:
    events = event("Grüße") + event("\\ \n") + USAGE + DONE
    wire = events.replace(b"\n", line_end)
    for at in range(1, len(wire)):
        stream = stream_of(wire[:at], wire[at:])
        stream.wait_for_first_chunk()
        assert b"".join(stream) == event("Grüße") + event("\\ \n"), f"split at {at}"
        assert (stream.complete, stream.usage, stream.chunks) == (True, Usage(3, 2), 2)


def test_events_may_come_byte_by_byte() -> None:
    wire = (event("a") + USAGE + DONE).replace(b"\n", b"\r\n")
    assert received(*(wire[i : i + 1] for i in range(len(wire)))) == event("a")


@pytest.mark.parametrize(
    "spelt",
    [
        b": a comment\n\n%b",
        b": a comment\n%b",
        b"event: message\n%b",
        b"id: 7\n%b",
        b"retry: 3000\n%b",
        b"retry: 3000\n\n%b",
        b"id: 7\nevent: x\nretry: 1\n%b",
        b"\n%b",
    ],
)
def test_what_clients_choke_on_never_reaches_them(spelt: bytes) -> None:
    """openai-python crashes on `id:` and on a lone `retry:`."""
    assert received(event("a"), spelt % event("b"), DONE) == event("a") + event("b")
    assert received(event("a") + spelt % event("b") + DONE) == event("a") + event("b")


def test_data_needs_no_space() -> None:
    assert received(event("a").replace(b"data: ", b"data:"), b"data:[DONE]\n\n") == event("a")


def test_data_on_several_lines_is_one_chunk() -> None:
    assert payloads([received(b'data: {"choices":\ndata: [{"index":0,"delta":{}}]}\n\n', DONE)]) == [
        {"choices": [{"index": 0, "delta": {}}]}
    ]


def test_what_follows_the_end_is_dropped() -> None:
    assert received(event("a") + DONE + event("b")) == event("a")


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("wire", [USAGE, USAGE.replace(b'"choices":[],', b""), USAGE.replace(b"[]", b"null")])
def test_the_usage_chunk_is_the_gateways_unless_the_client_asked_for_it(wire: bytes, together: bool) -> None:
    blocks = [event() + wire + DONE] if together else [event(), wire, DONE]
    assert received(*blocks) == event()
    assert received(*blocks, include_usage=True) == event() + wire


def test_a_chunk_without_choices_that_carries_no_usage_is_the_clients() -> None:
    filters = b'data: {"choices":[],"prompt_filter_results":[]}\n\n'
    assert received(filters, event(), DONE) == filters + event()


def test_usage_on_every_chunk_passes_and_the_last_one_counts() -> None:
    wire = event(usage={"prompt_tokens": 3, "completion_tokens": 1}) + event(
        usage={"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}},
        service_tier="flex",
    )
    stream = stream_of(wire, DONE)
    stream.wait_for_first_chunk()
    assert b"".join(stream) == wire
    assert stream.usage == Usage(3, 2, 1, 0, service_tier="flex")


def test_usage_that_is_missing_is_none_and_the_text_was_measured() -> None:
    tool = b'data: {"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{}"}}]}}]}\n\n'
    stream = stream_of(event("Grüße"), event(""), tool, DONE)
    stream.wait_for_first_chunk()
    list(stream)
    assert (stream.usage, stream.text_bytes, stream.chunks) == (None, len("Grüße".encode()) + 2, 2)


@pytest.mark.parametrize("text", [b'"\\ud83d"', b'["a","b"]', b'"\\ud83d and more"'])
def test_an_unusual_chunk_is_the_clients_to_understand(text: bytes) -> None:
    wire = b'data: {"choices":[{"index":0,"delta":{"content":%b}}]}\n\n' % text
    stream = stream_of(wire, DONE)
    stream.wait_for_first_chunk()
    assert b"".join(stream) == wire
    assert (stream.chunks, stream.text_bytes > 0) == (1, True)


# Bug 2: an end that is none


def broken(stream: EventStream) -> tuple[bytes, UpstreamError]:
    """Returns the blocks that the client gets before the error, and the error."""
    passed_on: list[bytes] = []
    with pytest.raises(UpstreamError) as caught:
        passed_on.extend(stream)
    assert not stream.complete
    return b"".join(passed_on), caught.value


@pytest.mark.parametrize("model", ["cut-2", "cutchunk-2", "cleancut-2", "silentmid-2", "errorevent-2"])
def test_bug_02_a_stream_that_breaks_off_is_never_a_clean_end(upstream: Upstream, model: str) -> None:
    provider = openai(upstream.url, timeouts=Timeouts(idle_s=0.2))
    stream = provider.stream(chat_call(model, stream=True))
    passed_on, error = broken(stream)
    kinds = {"errorevent-2": "stream_error", "silentmid-2": "timeout_idle"}
    assert error.kind == kinds.get(model, "cut")
    assert text_of([passed_on]) == "tok tok "
    assert "sk-secret" not in str(error)
    assert (stream.chunks, stream.usage) == (2, None)
    assert provider.stats()["active"] == 0


@pytest.mark.parametrize("model", ["cut-0", "cutchunk-0", "cleancut-0", "errorevent-0"])
def test_bug_02_one_that_breaks_before_its_first_chunk_can_fall_back(upstream: Upstream, model: str) -> None:
    provider = openai(upstream.url)
    with pytest.raises(UpstreamError) as caught:
        provider.stream(chat_call(model, stream=True))
    assert caught.value.kind == ("stream_error" if model == "errorevent-0" else "cut")
    assert provider.stats()["active"] == 0


@pytest.mark.parametrize(
    "bad", [b"data: {oops\n\n", b"data: 5\n\n", b'data: {"error":{}}\n\n', b'event: error\ndata: {"error":"x"}\n\n']
)
@pytest.mark.parametrize("together", [False, True])
def test_bug_02_what_came_before_a_bad_event_still_reaches_the_client(bad: bytes, together: bool) -> None:
    stream = stream_of(*([event("a") + bad] if together else [event("a"), bad]))
    stream.wait_for_first_chunk()
    passed_on, error = broken(stream)
    assert (passed_on, error.kind) == (event("a"), "stream_error")
    assert "oops" not in str(error)


def test_bug_02_half_an_event_at_the_end_is_not_passed_on() -> None:
    stream = stream_of(event("a"), event("b")[:-1])
    stream.wait_for_first_chunk()
    passed_on, error = broken(stream)
    assert (passed_on, error.kind) == (event("a"), "cut")


# Silence


def test_a_heartbeat_is_due_after_each_silence(upstream: Upstream) -> None:
    provider = openai(upstream.url, heartbeat_s=0.05, timeouts=Timeouts(idle_s=1))
    blocks = list(provider.stream(chat_call("stream-2-180", stream=True)))
    assert blocks.count(b"") >= 2
    assert text_of(blocks) == "tok tok "


def test_a_provider_that_sends_only_comments_is_silent_to_the_client() -> None:
    with scripted_server(drip([SSE_HEADERS + event("a"), *[b": thinking\n\n"] * 10, event("b") + DONE], 0.02)) as url:
        blocks = list(openai(url, heartbeat_s=0.05).stream(chat_call(stream=True)))
    assert 2 <= blocks.count(b"") <= 6
    assert text_of(blocks) == "ab"


ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
FAILED = b'data: {"error":{"message":"overloaded"}}\n\n'


def test_an_error_behind_nothing_but_a_role_is_no_answer_yet() -> None:
    stream = stream_of(ROLE, FAILED)
    with pytest.raises(UpstreamError) as caught:
        stream.wait_for_first_chunk()
    assert (caught.value.kind, caught.value.billable) == ("stream_error", False)


def test_what_was_held_back_comes_with_the_first_content() -> None:
    stream = stream_of(ROLE, ROLE, event(), DONE)
    stream.wait_for_first_chunk()
    assert next(iter(stream)) == ROLE + ROLE + event()


def test_an_answer_without_content_is_an_answer() -> None:
    assert received(ROLE, DONE) == ROLE


def test_an_error_in_the_block_of_the_first_content_comes_behind_it() -> None:
    stream = stream_of(ROLE + event() + FAILED)
    stream.wait_for_first_chunk()
    passed_on, error = broken(stream)
    assert passed_on == ROLE + event()
    assert (error.kind, error.billable) == ("stream_error", True)


def test_so_much_is_held_back_and_no_more() -> None:
    roles = [ROLE * 1000] * 5
    stream = stream_of(*roles, event(), DONE)
    stream.wait_for_first_chunk()
    first = next(iter(stream))
    assert len(first) < len(ROLE) * 1000 * 5
    assert b"tok" not in first


class SlowExchange(FakeExchange):
    """An exchange that falls silent behind its first block, until it is read without haste."""

    def read(self, limit_s: float, kind: str) -> bytes:
        if kind == "timeout_first_byte" and limit_s:
            raise UpstreamTimeout("late", provider="up", kind=kind)
        return super().read(limit_s, kind)


def test_a_client_does_not_wait_long_for_the_content_behind_a_role() -> None:
    exchange: Any = SlowExchange([ROLE, event(), DONE])
    stream = stream_over(exchange)
    stream.wait_for_first_chunk()
    assert b"".join(stream) == ROLE + event()


def test_a_translated_stream_is_never_longer_than_a_whole_answer_may_be() -> None:
    """The encoder of responses keeps the text for its last event."""
    chat = DIALECTS["chat"]
    request = ChatRequest.parse(b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}')
    framing = Framing(call_id="c1", created=1, prompt=chat.decode_request(request), fields={})
    events = TranslatedEvents(
        DIALECTS["responses"], chat.stream_decoder("up"), DIALECTS["responses"].stream_encoder(framing)
    )
    piece = event("x" * 1_000_000)
    taken = 0
    while events.failure is None:
        taken += len(events.take(piece, [piece.removesuffix(b"\n\n")])) > 0
        assert taken < 40
    assert 30 < taken < 36
    assert not events.complete
