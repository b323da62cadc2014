"""Errors in every dialect: the callers' own SDKs raise them, before an answer and in the middle of one."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import openai
import pytest
from google.genai import errors as google

from app.domain.content import BlockStarted, Delta, Event, Prompt, Started, Text
from app.errors import (
    ContextOverflow,
    Forbidden,
    GatewayError,
    InvalidApiKey,
    InvalidRequest,
    ModelNotFound,
    RateLimited,
    RequestTooLarge,
    Untranslatable,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from app.providers.dialects import DIALECTS
from tests.support.dialects.calls import NAMES, framing
from tests.support.dialects.sdks import collected, raised

PROMPT = Prompt(model="m", messages=())
EVENTS: list[Event] = [
    Started(id="x", model="v"),
    BlockStarted(index=0, block=Text(text="")),
    Delta(index=0, text="Hel"),
]
SDK_ERRORS: dict[str, type[Exception]] = {
    "chat": openai.APIError,
    "responses": openai.APIError,
    "messages": anthropic.APIError,
    "gemini": google.APIError,
}
# The status that each is answered with.
ERRORS: list[tuple[GatewayError, int]] = [
    (InvalidRequest("Expected a string: `model`.", param="model"), 400),
    (Untranslatable("`seed` cannot be translated.", param="seed"), 400),
    (ContextOverflow(tokens=250_001, maximum=200_000), 400),
    (InvalidApiKey("Unknown key."), 401),
    (Forbidden("Not for this key."), 403),
    (ModelNotFound("No such model."), 404),
    (RequestTooLarge("Too large."), 413),
    (RateLimited("Too many.", limit="requests_per_minute", retry_after_s=1), 429),
    (UpstreamError("It failed.", provider="p", kind="status_5xx"), 502),
    (UpstreamUnavailable("It is overloaded.", provider="p", kind="status_5xx"), 503),
    (UpstreamTimeout("It took too long.", provider="p", kind="timeout_total"), 504),
    (UpstreamRejected("It does not like that.", provider="p", kind="rejected"), 400),
    (GatewayError("The server had an error."), 500),
]
CASES = [
    pytest.param(dialect, error, status, id=f"{type(error).__name__} to {dialect}")
    for dialect in NAMES
    for error, status in ERRORS
]


@pytest.mark.parametrize(("dialect", "error", "status"), CASES)
def test_an_error_is_raised_by_the_sdk_with_its_message(dialect: str, error: GatewayError, status: int) -> None:
    body = json.loads(json.dumps(DIALECTS[dialect].error_body(error, "req_1")))
    failure = raised(dialect, status, body)
    assert isinstance(failure, SDK_ERRORS[dialect])
    assert error.message in str(failure)
    assert getattr(failure, "status_code", getattr(failure, "code", None)) == status


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize(("dialect", "error", "status"), CASES)
def test_an_error_in_a_stream_is_no_end_of_it(dialect: str, error: GatewayError, status: int, *, started: bool) -> None:
    codec = DIALECTS[dialect]
    encoder = codec.stream_encoder(framing(PROMPT)) if started else None
    sent = b"".join(encoder.encode(event) for event in EVENTS) if encoder else b""
    event = codec.error_event(error, "req_1", encoder)
    assert error.message in _texts(event)
    if dialect == "responses":
        # Its SDK raises nothing, and hands the event on. It knows fewer codes than its clients act on.
        assert isinstance(error, ContextOverflow) or collected(dialect, sent + event)["status"] == "failed"
        return
    with pytest.raises(SDK_ERRORS[dialect]) as failure:
        collected(dialect, sent + event)
    assert error.message in str(failure.value)


def test_an_overflow_is_said_in_the_words_that_clients_act_on() -> None:
    error = ContextOverflow(tokens=250_001, maximum=200_000)
    bodies: dict[str, Any] = {name: DIALECTS[name].error_body(error, "req_1")["error"] for name in NAMES}
    assert bodies["messages"]["message"] == "prompt is too long: 250001 tokens > 200000 maximum"
    assert bodies["messages"]["type"] == "invalid_request_error"
    assert bodies["chat"]["code"] == bodies["responses"]["code"] == "context_length_exceeded"
    assert bodies["gemini"]["status"] == "INVALID_ARGUMENT"


def _texts(event: bytes) -> str:
    """Returns the strings in the payload of an event."""
    payload = json.loads(event.rpartition(b"data: ")[2])

    def texts(value: Any) -> list[str]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return [value] if isinstance(value, str) else [text for each in inner for text in texts(each)]

    return "\n".join(texts(payload))
