"""A stream on its way to the client is settled once however it ends, and what it said is kept when it was whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.domain.usage import Usage
from app.errors import ClientGone, UpstreamError, UpstreamRejected, UpstreamUnavailable
from tests.support.calls import CALLER, FakeProvider, PipelineHarness, chat

ASKED = chat(stream=True, temperature=0, max_tokens=100)


def chunk(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "1", "model": "up-1", "choices": [choice]}).encode() + b"\n\n"


WHOLE = [chunk("Hel"), chunk("lo"), chunk("", "stop")]


@pytest.fixture
def vendor(harness: PipelineHarness) -> FakeProvider:
    up = harness.vendors["up"]
    up.blocks = list(WHOLE)
    return up


def start(harness: PipelineHarness, **context: Any) -> Any:
    return harness.pipeline.stream(CALLER, ASKED, harness.context(**context))


def only_row(harness: PipelineHarness) -> dict[str, Any]:
    [row] = harness.rows()
    return row


def test_the_client_gets_every_block_and_its_end_after_the_settlement(
    harness: PipelineHarness, vendor: FakeProvider
) -> None:
    stream = iter(start(harness))
    assert [next(stream) for _ in WHOLE] == WHOLE
    assert harness.rows() == []
    assert next(stream, None) is None
    row = only_row(harness)
    assert (row["status"], row["http_status"], row["prompt_tokens"], row["completion_tokens"]) == ("ok", 200, 10, 20)
    assert (row["estimated"], row["cache"], row["streamed"]) == (False, "miss", True)


def test_closing_a_stream_that_was_read_to_its_end_changes_nothing(
    harness: PipelineHarness, vendor: FakeProvider
) -> None:
    stream = start(harness)
    list(stream)
    stream.close()
    assert only_row(harness)["status"] == "ok"
    assert vendor.streams[0].closed == 1
    assert harness.metric("llm_active_requests") == 0


def test_a_complete_stream_not_iterated_to_its_end_is_no_hang_up(
    harness: PipelineHarness, vendor: FakeProvider
) -> None:
    """The server stops reading with the last block: what then closes the stream finds it complete."""
    stream = start(harness)
    blocks = iter(stream)
    for _ in WHOLE:
        next(blocks)
    vendor.streams[0].complete = True
    vendor.streams[0].usage = Usage(10, 20)
    stream.close()
    assert (only_row(harness)["status"], only_row(harness)["completion_tokens"]) == ("ok", 20)


def test_a_stream_that_nobody_reads_is_closed_and_charged_for_the_prompt(
    harness: PipelineHarness, vendor: FakeProvider
) -> None:
    start(harness).close()
    row = only_row(harness)
    assert (row["status"], row["http_status"], row["prompt_tokens"]) == (
        "aborted",
        499,
        ASKED.estimate_prompt_tokens_closely(),
    )
    assert (row["completion_tokens"], row["estimated"]) == (0, True)
    assert vendor.streams[0].closed == 1


@pytest.mark.parametrize(
    ("failure", "status", "http_status", "charged"),
    [
        (UpstreamError("cut", provider="up", kind="cut", billable=True), "error", 502, True),
        (UpstreamUnavailable("down", provider="up", kind="stream_error", billable=True), "error", 503, True),
        (UpstreamRejected("no", provider="up", kind="rejected"), "error", 400, False),
        (ClientGone("gone", billable=True), "aborted", 499, True),
    ],
)
def test_a_broken_stream_is_charged_for_what_came_if_its_provider_bills(
    harness: PipelineHarness, vendor: FakeProvider, failure: Any, status: str, http_status: int, charged: bool
) -> None:
    vendor.blocks, vendor.breaks_off = WHOLE[:1], failure
    stream = start(harness)
    with pytest.raises(type(failure)):
        list(stream)
    row = only_row(harness)
    assert (row["status"], row["http_status"]) == (status, http_status)
    expected = (ASKED.estimate_prompt_tokens_closely(), len(WHOLE[0]) // 4) if charged else (0, 0)
    assert (row["prompt_tokens"], row["completion_tokens"]) == expected
    stream.close()
    assert len(harness.rows()) == 1
    assert harness.keys_like("penstock:cache:*") == []


def test_a_whole_stream_is_kept_as_the_answer_it_was(harness: PipelineHarness, vendor: FakeProvider) -> None:
    list(start(harness))
    again = harness.pipeline.chat(CALLER, chat(temperature=0, max_tokens=100), harness.context())
    found = json.loads(again.body)
    assert (found["choices"][0]["message"]["content"], found["cached"]) == ("Hello", True)
    assert (found["usage"]["prompt_tokens"], found["usage"]["completion_tokens"]) == (10, 20)
    replayed = b"".join(start(harness))
    assert b'"Hello"' in replayed
    assert [row["cache"] for row in harness.rows()] == ["miss", "hit", "hit"]
    assert len(vendor.calls) == 1
    assert 50_000 < harness.redis.execute("PTTL", harness.keys_like("penstock:cache:*")[0]) <= 60_000


def test_what_is_not_to_be_kept_is_not(harness: PipelineHarness, vendor: FakeProvider) -> None:
    list(start(harness, write_cache=False))
    assert harness.keys_like("penstock:cache:*") == []
    vendor.usage = None
    list(start(harness))
    assert harness.keys_like("penstock:cache:*") == [], "without usage nobody could tell what it had cost"
    vendor.usage = Usage(1, 1)
    most = harness.config.cache.max_entry_bytes
    vendor.blocks = [chunk("x" * (most // 2)), chunk("y" * (most // 2)), chunk("", "stop")]
    list(start(harness))
    assert harness.keys_like("penstock:cache:*") == [], "longer than an entry may be"
    vendor.blocks = [chunk("x" * (most // 2)), chunk("", "stop")]
    list(start(harness))
    assert len(harness.keys_like("penstock:cache:*")) == 1


def test_what_a_vendor_says_of_its_answer_is_kept_too(harness: PipelineHarness, vendor: FakeProvider) -> None:
    said = {"model": "up-1", "system_fingerprint": "fp", "service_tier": "default"}
    meta = {"id": "c1", "created": 7, **said}
    choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}
    vendor.blocks = [b"data: " + json.dumps({**meta, "choices": [choice]}).encode() + b"\n\n"]
    list(start(harness))
    whole = json.loads(harness.pipeline.chat(CALLER, chat(temperature=0, max_tokens=100), harness.context()).body)
    events = [json.loads(block.removeprefix(b"data: ")) for block in start(harness)]
    for told in (whole, *events):
        assert {name: told.get(name) for name in said} == said
