"""A stream on its way to the client is settled once however it ends, and what it said is kept when it was whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.domain.usage import Usage
from app.errors import ClientGone, UpstreamError, UpstreamRejected, UpstreamUnavailable
from tests.support.calls import CALLER, House, Vendor, chat

ASKED = chat(stream=True, temperature=0, max_tokens=100)


def chunk(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "1", "model": "up-1", "choices": [choice]}).encode() + b"\n\n"


WHOLE = [chunk("Hel"), chunk("lo"), chunk("", "stop")]


@pytest.fixture
def vendor(house: House) -> Vendor:
    up = house.vendors["up"]
    up.blocks = list(WHOLE)
    return up


def start(house: House, **context: Any) -> Any:
    return house.pipeline.stream(CALLER, ASKED, house.context(**context))


def only_row(house: House) -> dict[str, Any]:
    [row] = house.rows()
    return row


def test_the_client_gets_every_block_and_its_end_after_the_settlement(house: House, vendor: Vendor) -> None:
    stream = iter(start(house))
    assert [next(stream) for _ in WHOLE] == WHOLE
    assert house.rows() == []
    assert next(stream, None) is None
    row = only_row(house)
    assert (row["status"], row["http_status"], row["prompt_tokens"], row["completion_tokens"]) == ("ok", 200, 10, 20)
    assert (row["estimated"], row["cache"], row["streamed"]) == (False, "miss", True)


def test_closing_a_stream_that_was_read_to_its_end_changes_nothing(house: House, vendor: Vendor) -> None:
    stream = start(house)
    list(stream)
    stream.close()
    assert only_row(house)["status"] == "ok"
    assert vendor.streams[0].closed == 1
    assert house.metric("llm_active_requests") == 0


def test_a_complete_stream_not_iterated_to_its_end_is_no_hang_up(house: House, vendor: Vendor) -> None:
    """The server stops reading with the last block: what then closes the stream finds it complete."""
    stream = start(house)
    blocks = iter(stream)
    for _ in WHOLE:
        next(blocks)
    vendor.streams[0].complete = True
    vendor.streams[0].usage = Usage(10, 20)
    stream.close()
    assert (only_row(house)["status"], only_row(house)["completion_tokens"]) == ("ok", 20)


def test_a_stream_that_nobody_reads_is_closed_and_charged_for_the_prompt(house: House, vendor: Vendor) -> None:
    start(house).close()
    row = only_row(house)
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
    house: House, vendor: Vendor, failure: Any, status: str, http_status: int, charged: bool
) -> None:
    vendor.blocks, vendor.breaks_off = WHOLE[:1], failure
    stream = start(house)
    with pytest.raises(type(failure)):
        list(stream)
    row = only_row(house)
    assert (row["status"], row["http_status"]) == (status, http_status)
    expected = (ASKED.estimate_prompt_tokens_closely(), len(WHOLE[0]) // 4) if charged else (0, 0)
    assert (row["prompt_tokens"], row["completion_tokens"]) == expected
    stream.close()
    assert len(house.rows()) == 1
    assert house.keys_like("penstock:cache:*") == []


def test_a_whole_stream_is_kept_as_the_answer_it_was(house: House, vendor: Vendor) -> None:
    list(start(house))
    again = house.pipeline.chat(CALLER, chat(temperature=0, max_tokens=100), house.context())
    found = json.loads(again.body)
    assert (found["choices"][0]["message"]["content"], found["cached"]) == ("Hello", True)
    assert (found["usage"]["prompt_tokens"], found["usage"]["completion_tokens"]) == (10, 20)
    replayed = b"".join(start(house))
    assert b'"Hello"' in replayed
    assert [row["cache"] for row in house.rows()] == ["miss", "hit", "hit"]
    assert len(vendor.calls) == 1
    assert 50_000 < house.redis.execute("PTTL", house.keys_like("penstock:cache:*")[0]) <= 60_000


def test_what_is_not_to_be_kept_is_not(house: House, vendor: Vendor) -> None:
    list(start(house, write_cache=False))
    assert house.keys_like("penstock:cache:*") == []
    vendor.usage = None
    list(start(house))
    assert house.keys_like("penstock:cache:*") == [], "without usage nobody could tell what it had cost"
    vendor.usage = Usage(1, 1)
    most = house.config.cache.max_entry_bytes
    vendor.blocks = [chunk("x" * (most // 2)), chunk("y" * (most // 2)), chunk("", "stop")]
    list(start(house))
    assert house.keys_like("penstock:cache:*") == [], "longer than an entry may be"
    vendor.blocks = [chunk("x" * (most // 2)), chunk("", "stop")]
    list(start(house))
    assert len(house.keys_like("penstock:cache:*")) == 1


def test_what_a_vendor_says_of_its_answer_is_kept_too(house: House, vendor: Vendor) -> None:
    said = {"model": "up-1", "system_fingerprint": "fp", "service_tier": "default"}
    meta = {"id": "c1", "created": 7, **said}
    choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}
    vendor.blocks = [b"data: " + json.dumps({**meta, "choices": [choice]}).encode() + b"\n\n"]
    list(start(house))
    whole = json.loads(house.pipeline.chat(CALLER, chat(temperature=0, max_tokens=100), house.context()).body)
    events = [json.loads(block.removeprefix(b"data: ")) for block in start(house)]
    for told in (whole, *events):
        assert {name: told.get(name) for name in said} == said
