"""The contract of a provider, tested on every kind. A new kind needs a row in `BUILDERS`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from app.config.providers import Timeouts
from app.errors import ClientGone, UpstreamError, UpstreamRejected, UpstreamTimeout, UpstreamUnavailable
from app.providers import KINDS
from app.providers.base import CancelToken, Provider
from tests.support.providers import chat_call, demo, embed_call, openai, payloads, text_of
from tests.support.upstream import Upstream
from tests.support.vendors.server import Vendors

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
TOOLS: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required"}


class Subject:
    """A provider of one kind, and the models by which it behaves in each way."""

    def __init__(self, kind: str, upstream: Upstream, vendors: Vendors) -> None:
        self.kind = kind
        self.upstream = upstream
        self.vendors = vendors

    def provider(self, **script: Any) -> tuple[Provider, str]:
        """One that behaves as scripted, and the model to ask for."""
        return BUILDERS[self.kind](self, script)


def _model(script: dict[str, Any], *, without_usage: str = "nousage") -> str:
    """Returns the name of the model by which a played vendor does what the script says."""
    match script:
        case {"fail_status": status}:
            return f"status-{status}"
        case {"cut_after_chunks": chunks}:
            return f"cut-{chunks}"
        case {"delay_s": seconds}:
            return f"slow-{seconds * 1000:.0f}"
        case {"chunk_delay_s": seconds}:
            return f"stream-20-{seconds * 1000:.0f}"
        case {"omit_usage": True}:
            return without_usage
        case {"tool": True}:
            return "tools"
    return "usage-4-5"


def _openai(subject: Subject, script: dict[str, Any]) -> tuple[Provider, str]:
    return openai(subject.upstream.url, timeouts=Timeouts(first_byte_s=0.3)), _model(script)


def _translated(subject: Subject, script: dict[str, Any]) -> tuple[Provider, str]:
    """Returns a provider of a vendor that speaks another dialect than the tests."""
    if script.get("cut_after_chunks") and subject.kind == "anthropic":
        script = {"cut_after_chunks": script["cut_after_chunks"] + 1}  # the first piece opens the block of text
    url = subject.vendors.base_url("messages" if subject.kind == "anthropic" else "gemini")
    provider = openai(url, kind=subject.kind, timeouts=Timeouts(first_byte_s=0.3))
    return provider, _model(script, without_usage="plain-nousage")


def _demo(subject: Subject, script: dict[str, Any]) -> tuple[Provider, str]:
    script.pop("tool", None)
    words = "one two three four five"
    return demo(
        timeouts=Timeouts(first_byte_s=0.3), **{"reply": words, "prompt_tokens": 4, "chunk_delay_s": 0.0, **script}
    ), "any"


BUILDERS: dict[str, Callable[[Subject, dict[str, Any]], tuple[Provider, str]]] = {
    "openai": _openai,
    "anthropic": _translated,
    "gemini": _translated,
    "demo": _demo,
}


HAVE_NO_EMBEDDINGS = {"anthropic"}


@pytest.fixture(params=sorted(KINDS))
def subject(request: pytest.FixtureRequest, upstream: Upstream, vendors: Vendors) -> Subject:
    return Subject(request.param, upstream, vendors)


def test_every_kind_is_held_to_the_contract() -> None:
    assert set(BUILDERS) == set(KINDS)


def test_chat(subject: Subject) -> None:
    provider, model = subject.provider()
    answer = provider.chat(chat_call(model))
    body = json.loads(answer.body)
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 5)
    assert body["usage"]["total_tokens"] == 9


def test_a_target_may_have_another_name_for_the_model(subject: Subject) -> None:
    provider, model = subject.provider()
    assert provider.chat(chat_call("alias", target=model)).usage is not None
    assert list(provider.stream(chat_call("alias", target=model, stream=True)))
    if subject.kind not in HAVE_NO_EMBEDDINGS:
        assert provider.embed(embed_call("alias", target=model)).usage is not None


def test_stream(subject: Subject) -> None:
    provider, model = subject.provider()
    stream = provider.stream(chat_call(model, stream=True))
    blocks = list(stream)
    assert all(block.startswith(b"data: ") and block.endswith(b"\n\n") for block in blocks)
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in payloads(blocks))
    assert payloads(blocks)[-1]["choices"][0]["finish_reason"] == "stop"
    assert len(text_of(blocks).split()) == 5
    assert (stream.complete, stream.chunks, stream.text_bytes) == (True, 5, len(text_of(blocks)))
    stream.close()


def test_a_stream_ends_with_usage_for_the_ledger_but_not_for_the_client(subject: Subject) -> None:
    provider, model = subject.provider()
    for asked in (False, True):
        options: dict[str, Any] = {"stream_options": {"include_usage": True}} if asked else {}
        stream = provider.stream(chat_call(model, stream=True, **options))
        chunks = payloads(list(stream))
        assert stream.usage is not None
        assert (stream.usage.prompt_tokens, stream.usage.completion_tokens) == (4, 5)
        assert [chunk["usage"]["total_tokens"] for chunk in chunks if chunk["choices"] == []] == [9] * asked
        assert all(chunk["choices"] for chunk in chunks[:-1])


def test_done_is_never_yielded(subject: Subject) -> None:
    provider, model = subject.provider()
    assert b"[DONE]" not in b"".join(provider.stream(chat_call(model, stream=True)))


def test_usage_that_is_missing_can_be_estimated(subject: Subject) -> None:
    provider, model = subject.provider(omit_usage=True)
    answer = provider.chat(chat_call(model))
    assert answer.usage is None
    assert answer.text_bytes == len(json.loads(answer.body)["choices"][0]["message"]["content"])
    stream = provider.stream(chat_call(model, stream=True))
    assert stream.text_bytes <= len(text_of(list(stream))) == stream.text_bytes
    assert stream.usage is None


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings(subject: Subject, encoding: str) -> None:
    provider, model = subject.provider()
    if subject.kind in HAVE_NO_EMBEDDINGS:
        with pytest.raises(UpstreamError):
            provider.embed(embed_call(model, encoding_format=encoding))
        return
    answer = provider.embed(embed_call(model, encoding_format=encoding))
    body = json.loads(answer.body)
    assert body["object"] == "list"
    assert isinstance(body["data"][0]["embedding"], str if encoding == "base64" else list)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == body["usage"]["prompt_tokens"] > 0
    assert answer.usage.completion_tokens == 0


def test_tools(subject: Subject) -> None:
    provider, model = subject.provider(tool=True)
    choice = json.loads(provider.chat(chat_call(model, **TOOLS)).body)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "get_weather"


def test_bug_01_a_hang_up_ends_the_wait_for_the_first_byte(subject: Subject) -> None:
    provider, model = subject.provider(delay_s=0.25)
    cancel = CancelToken()
    gevent.spawn_later(0.02, cancel.cancel)
    began = time.monotonic()
    with pytest.raises(ClientGone):
        provider.chat(chat_call(model, cancel=cancel))
    assert time.monotonic() - began < 0.2


def test_bug_01_a_hang_up_ends_a_stream(subject: Subject) -> None:
    provider, model = subject.provider(chunk_delay_s=0.05)
    cancel = CancelToken()
    stream = provider.stream(chat_call(model, stream=True, cancel=cancel))
    gevent.spawn_later(0.12, cancel.cancel)
    with pytest.raises(ClientGone):
        list(stream)
    assert not stream.complete
    assert 1 <= stream.chunks <= 4


def test_bug_02_a_stream_that_breaks_off_is_an_error(subject: Subject) -> None:
    provider, model = subject.provider(cut_after_chunks=2)
    stream = provider.stream(chat_call(model, stream=True))
    with pytest.raises(UpstreamError) as caught:
        list(stream)
    assert (caught.value.kind, stream.complete, stream.chunks) == ("cut", False, 2)


def test_bug_02_a_stream_that_breaks_off_at_once_fails_before_it_begins(subject: Subject) -> None:
    provider, model = subject.provider(cut_after_chunks=0)
    with pytest.raises(UpstreamError) as caught:
        provider.stream(chat_call(model, stream=True))
    assert caught.value.kind == "cut"


def test_bug_11_a_late_first_byte_is_told_apart_from_a_late_end(subject: Subject) -> None:
    provider, model = subject.provider(delay_s=0.6)
    with pytest.raises(UpstreamTimeout) as caught:
        provider.chat(chat_call(model))
    assert caught.value.kind == "timeout_first_byte"
    with pytest.raises(UpstreamTimeout) as caught:
        provider.stream(chat_call(model, stream=True, total_s=0.1))
    assert caught.value.kind == "timeout_total"


@pytest.mark.parametrize(
    ("status", "expected", "kind"),
    [
        (400, UpstreamRejected, "rejected"),
        (401, UpstreamError, "auth"),
        (404, UpstreamError, "not_found"),
        (429, UpstreamUnavailable, "rate_limited"),
        (500, UpstreamError, "status_5xx"),
        (503, UpstreamUnavailable, "status_5xx"),
    ],
)
@pytest.mark.parametrize("ask", ["chat", "stream"])
def test_statuses(subject: Subject, status: int, expected: type[UpstreamError], kind: str, ask: str) -> None:
    provider, model = subject.provider(fail_status=status)
    with pytest.raises(UpstreamError) as caught:
        getattr(provider, ask)(chat_call(model, stream=ask == "stream"))
    assert (type(caught.value), caught.value.kind) == (expected, kind)


def test_a_check_costs_no_call_and_stats_hold_no_secret(subject: Subject) -> None:
    provider, _ = subject.provider()
    provider.check(1)
    assert subject.upstream.served().get("calls", 0) == 0
    assert subject.vendors.served().get("calls", 0) == 0
    assert "sk-" not in json.dumps(provider.stats())
