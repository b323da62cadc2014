"""The ceiling is a ceiling: what a key with a budget sends can cost no more than was reserved for it.

Prices are $1 a million prompt tokens and $2 a million completion tokens; the budget is $0.01.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from app.store.ledger import Ledger
from tests.api.conftest import AppClient
from tests.support.response import AppResponse
from tests.support.upstream import Upstream

CONFIG = """
providers:
  up: {kind: openai, base_url: "%s"}
  new: {kind: openai, base_url: "%s", max_tokens_field: max_completion_tokens}
models:
  echo: {targets: [{provider: up}], max_output_tokens: 900}
  reasoner: {targets: [{provider: new, model: echo}], max_output_tokens: 900}
  long: {targets: [{provider: up, model: echo}], max_output_tokens: 32768}
plans:
  day: {budget_usd_per_day: 0.01}
"""
Body = dict[str, Any]


@pytest.fixture
def client(client_with: Callable[[str], AppClient], upstream: Upstream) -> AppClient:
    return client_with(CONFIG % (upstream.url, upstream.url))


@pytest.fixture
def limited(client: AppClient) -> str:
    key, _ = client.services.keys.create("k", plan="day")
    return key


def sent(answer: AppResponse) -> list[tuple[str, Any]]:
    """The fields that the provider got, duplicates included."""
    assert answer.status_code == 200, answer.get_data()
    said = answer.json["choices"][0]["message"]["content"]
    pairs: list[tuple[str, Any]] = json.loads(said.partition("\n\n")[2], object_pairs_hook=list)
    return pairs


def bounds(answer: AppResponse) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in sent(answer) if "max" in name.lower()]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 900),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 70}, 70),
        ({"max_tokens": 70, "max_completion_tokens": 7}, 70),
        ({"max_tokens": None, "max_completion_tokens": None}, 900),
    ],
)
def test_the_answer_is_bounded_in_the_one_field_that_the_vendor_heeds(
    client: AppClient, limited: str, given: Body, expected: int
) -> None:
    assert bounds(client.chat("echo", key=limited, **given)) == [("max_tokens", expected)]
    assert bounds(client.chat("reasoner", key=limited, **given)) == [("max_completion_tokens", expected)]


def test_without_a_budget_the_callers_bounds_are_the_callers(client: AppClient) -> None:
    assert bounds(client.chat("echo")) == []
    both: dict[str, Any] = {"max_tokens": 7, "max_completion_tokens": 70}
    assert bounds(client.chat("echo", **both)) == list(both.items())


@pytest.mark.parametrize(
    "dear",
    [
        {"max_tokens": 6000, "max_completion_tokens": 1},
        {"max_tokens": 1, "max_completion_tokens": 6000},
        {"max_tokens": 600, "n": 10},
        {"max_tokens": 1, "prediction": {"type": "content", "content": "x" * 6000}},
    ],
)
def test_what_could_cost_more_than_the_budget_is_refused(client: AppClient, limited: str, dear: Body) -> None:
    answer = client.chat("echo", key=limited, **dear)
    assert (answer.status_code, answer.json["code"]) == (429, "BUDGET_EXCEEDED")


def test_a_model_that_may_write_more_than_the_budget_needs_a_bound(client: AppClient, limited: str) -> None:
    assert client.chat("long", key=limited).status_code == 429
    assert bounds(client.chat("long", key=limited, max_tokens=50)) == [("max_tokens", 50)]


UNKNOWABLE = [
    [{"type": "file", "file": {"file_id": "file-abc"}}],
    [{"type": "file", "file": {"filename": "x.pdf", "file_data": "data:application/pdf;base64,eJw="}}],
    [{"type": "text", "text": "x"}, {"type": "video_url", "video_url": {"url": "https://x/y.mp4"}}],
    [{"type": "text", "text": "x", "file": {"file_id": "file-abc"}}],
    [{"type": "text", "text": "x", "Image_url": {"url": "https://x/y.png"}}],
]


@pytest.mark.parametrize("content", UNKNOWABLE)
def test_a_part_with_an_unknown_cost_is_refused_under_a_budget_only(
    client: AppClient, limited: str, content: list[Body]
) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "user", "content": content}]
    answer = client.chat("echo", key=limited, messages=messages)
    assert (answer.status_code, answer.json["code"]) == (400, "INVALID_REQUEST")
    assert answer.json["error"]["param"] == f"messages[1].content[{len(content) - 1}]"
    assert "budget" in answer.json["error"]["message"]
    assert client.chat("echo", messages=messages).status_code == 200
    assert len(client.rows()) == 1, "what is refused leaves no row and no reservation"
    assert client.keys("penstock:reservations:*") == []


def test_sound_that_the_vendor_keeps_is_refused_under_a_budget(client: AppClient, limited: str) -> None:
    messages = [{"role": "assistant", "audio": {"id": "audio_1"}}, {"role": "user", "content": "Hi"}]
    answer = client.chat("echo", key=limited, messages=messages)
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "messages[0].audio")


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
        [{"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}],
        [{"type": "refusal", "refusal": "no"}],
    ],
)
def test_parts_whose_bytes_bound_their_cost_pass(client: AppClient, limited: str, content: list[Body]) -> None:
    messages = [{"role": "user", "content": content, "name": "ü"}]
    said = client.chat("echo", key=limited, messages=messages).json["choices"][0]["message"]["content"]
    assert json.loads(said.partition("\n\n")[2])["messages"] == messages


HIDDEN = [
    '{"role":"user","content":[{"type":"file","file":{"file_id":"f"}}],"content":"hi"}',
    '{"role":"user","content":[{"type":"file","type":"text","file":{},"text":"hi"}]}',
    '{"role":"user","content":"hi","Content":[{"type":"file","file":{"file_id":"f"}}]}',
    '{"role":"user","content":"hi","c\\u004fntent":[{"type":"file","file":{"file_id":"f"}}]}',
    '{"role":"user","content":[{"type":"text","text":"hi","Type":"file"}]}',
    '{"role":"assistant","content":"hi","Audio":{"id":"a"}}',
]


@pytest.mark.parametrize("message", HIDDEN)
def test_nothing_hides_behind_a_second_key_or_another_spelling(client: AppClient, limited: str, message: str) -> None:
    """Whatever of it a vendor's parser would take: it is refused, or gone."""
    answer = client.post(f'{{"model":"echo","messages":[{message}]}}', key=limited)
    if answer.status_code == 200:
        wire = json.dumps(sent(answer))
        assert "file" not in wire
        assert wire.count("content") == 1
    else:
        assert (answer.status_code, answer.json["code"]) == (400, "INVALID_REQUEST")


def test_of_two_bounds_by_one_name_only_the_admitted_one_goes_out(client: AppClient, limited: str) -> None:
    body = '{"model":"echo","max_tokens":800,"n":1,"max_tokens":5,"messages":[{"role":"user","content":"x"}]}'
    for key in (limited, None):
        assert bounds(client.post(body, key=key)) == [("max_tokens", 5)]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("value", [10**12, 10_000_001, 0, -1])
def test_a_bound_beyond_any_model_is_refused(client: AppClient, name: str, value: int) -> None:
    bound: dict[str, Any] = {name: value}
    answer = client.chat("echo", **bound)
    assert (answer.status_code, answer.json["error"]["param"]) == (400, name)


def test_a_killed_call_with_the_largest_bound_still_leaves_a_row(
    client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.services.admission, "settle", lambda *args, **kwargs: None)  # it dies before that
    client.chat("long", max_tokens=10_000_000, n=128)
    (reservation,) = client.keys("penstock:reservation:*")
    lost = json.loads(client.services.redis.execute("HGET", reservation, "d"))["row"]
    assert lost["completion_tokens"] == 128 * 32768, "of the model's longest answer"
    assert Ledger(database=client.services.database).write([lost]) == 1
    with client.services.database.read() as connection:
        assert connection.exec_driver_sql("select count(*) from dead_letter").scalar() == 0
