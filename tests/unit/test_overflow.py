"""Overflow errors: every vendor's refusal of a prompt that is too long is recognised, and nothing else is."""

from __future__ import annotations

import json
import time

import pytest

from app.domain.generation import DialectName
from app.domain.messages import MessagesRequest
from app.errors import ContextOverflow, GatewayError, UpstreamOverflow
from app.providers.base import ChatCall
from app.providers.dialects import DIALECTS
from app.providers.overflow import Overflow, find_overflow
from tests.support.providers import SSE_HEADERS, drip, openai, scripted_server

REFUSALS = {
    "OpenAI chat": (
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 150123 tokens. "
        "Please reduce the length of the messages.",
        "context_length_exceeded",
        Overflow(150_123, 128_000),
    ),
    "OpenAI chat with functions": (
        "This model's maximum context length is 8192 tokens. However, you requested 10359 tokens (8359 in the "
        "messages, 2000 in the completion). Please reduce the length of the messages or completion.",
        "context_length_exceeded",
        Overflow(8359, 8192),
    ),
    "OpenAI responses": (
        "Your input exceeds the context window of this model. Please adjust your input and try again.",
        "context_length_exceeded",
        Overflow(),
    ),
    "Anthropic": ("prompt is too long: 208310 tokens > 200000 maximum", "", Overflow(208_310, 200_000)),
    "Anthropic with max_tokens": (
        "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input length or "
        "`max_tokens` and try again",
        "",
        Overflow(188_240, 200_000),
    ),
    "Gemini": (
        "The input token count (1200034) exceeds the maximum number of tokens allowed (1048576).",
        "",
        Overflow(1_200_034, 1_048_576),
    ),
    "Gemini, older": (
        "The input token count exceeds the maximum number of tokens allowed 1048576.",
        "",
        Overflow(),
    ),
    "Vertex": (
        "Unable to submit request because the input token count is 1100000 but model only supports up to 1048576.",
        "",
        Overflow(1_100_000, 1_048_576),
    ),
    "vLLM": (
        "This model's maximum context length is 4096 tokens. However, you requested 5012 tokens (5000 in the messages, "
        "12 in the completion). Please reduce the length of the messages or completion.",
        "",
        Overflow(5000, 4096),
    ),
    "vLLM, newer": (
        "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
        "",
        Overflow(9000, 8192),
    ),
    "vLLM, newest": (
        "This model's maximum context length is 32768 tokens. However, your request has 40000 input tokens.",
        "",
        Overflow(40_000, 32_768),
    ),
    "TGI": (
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and "
        "20 `max_new_tokens`",
        "",
        Overflow(5000, 4096),
    ),
    "llama.cpp": (
        "the request exceeds the available context size, try increasing it",
        "exceed_context_size_error",
        Overflow(),
    ),
    "llama.cpp, newer": (
        "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it",
        "exceed_context_size_error",
        Overflow(9000, 8192),
    ),
    "Mistral": (
        "Prompt contains 40,000 tokens and 0 draft tokens, too large for model with 32,768 maximum context length",
        "",
        Overflow(40_000, 32_768),
    ),
    "xAI": (
        "This model's maximum prompt length is 131072 but the request contains 150000 tokens.",
        "",
        Overflow(150_000, 131_072),
    ),
    "OpenRouter": (
        "This endpoint's maximum context length is 32768 tokens. However, you requested about 40123 tokens (40000 of "
        "text input, 123 in the output). Please reduce the length of either one.",
        "",
        Overflow(40_000, 32_768),
    ),
    "Groq": (
        "Please reduce the length of the messages or completion.",
        "context_length_exceeded",
        Overflow(),
    ),
    "Bedrock": ("Input is too long for requested model.", "", Overflow()),
}


@pytest.mark.parametrize("vendor", REFUSALS)
def test_a_refusal_of_too_long_a_prompt_is_recognised(vendor: str) -> None:
    message, code, expected = REFUSALS[vendor]
    assert find_overflow(message, code) == expected


@pytest.mark.parametrize(
    "message",
    [
        "",
        "Invalid value for 'temperature'",
        "max_tokens is too large: 200000. This model supports at most 16384 completion tokens",
        "messages.1.content: text content blocks must be non-empty",
        "Request contains an invalid argument.",
        "You exceeded your current quota, please check your plan and billing details.",
        "string too long. Expected a string with maximum length 512",
    ],
)
def test_other_refusals_are_not_taken_for_one(message: str) -> None:
    assert find_overflow(message, "invalid_value") is None


def test_a_hostile_message_is_searched_in_bounded_time() -> None:
    assert find_overflow("maximum context length is 1 tokens" * 100_000) is not None
    assert find_overflow("maximum context length is, " * 100_000) == Overflow()


@pytest.mark.parametrize(
    "error",
    [ContextOverflow(9100, 8192), UpstreamOverflow(9100, 8192, provider="up", upstream_status=400)],
    ids=["ours", "the vendor's"],
)
def test_each_dialect_tells_of_it_in_the_words_its_clients_look_for(error: GatewayError) -> None:
    words = "prompt is too long: 9100 tokens > 8192 maximum"
    bodies = {name: dialect.error_body(error, "req_1")["error"] for name, dialect in DIALECTS.items()}
    assert {name: body["message"] for name, body in bodies.items()} == dict.fromkeys(DIALECTS, words)
    assert bodies["chat"]["code"] == bodies["responses"]["code"] == "context_length_exceeded"
    assert bodies["messages"]["type"] == "invalid_request_error"
    assert (bodies["gemini"]["code"], bodies["gemini"]["status"]) == (400, "INVALID_ARGUMENT")
    assert error.status == 400


def test_an_overflow_without_numbers_begins_with_the_same_words() -> None:
    error = UpstreamOverflow(None, None, provider="up", upstream_status=400)
    assert error.message.startswith("prompt is too long")


_FAILED = {
    "type": "response.failed",
    "sequence_number": 1,
    "response": {
        "id": "resp_1",
        "status": "failed",
        "error": {
            "code": "context_length_exceeded",
            "message": "Your input exceeds the context window of this model. Please adjust your input and try again.",
        },
    },
}
_REPORTED = {"error": {"message": "This model's maximum context length is 8192 tokens. However, you requested 9100."}}


@pytest.mark.parametrize(
    ("wire", "event"),
    [
        ("responses", b"event: response.failed\ndata: " + json.dumps(_FAILED).encode()),
        ("chat", b"data: " + json.dumps(_REPORTED).encode()),
    ],
)
def test_a_stream_that_begins_with_the_refusal_is_recognised(wire: DialectName, event: bytes) -> None:
    asked = {"model": "m", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    request = MessagesRequest.parse(json.dumps(asked).encode())
    deadline = time.monotonic() + 10
    call = ChatCall(request=request, model="m", request_id="req_1", deadline=deadline, wires=(wire,))
    with (
        scripted_server(drip([SSE_HEADERS + event + b"\n\n"], 0)) as url,
        pytest.raises(UpstreamOverflow, match="^prompt is too long"),
    ):
        openai(url).stream(call)
