"""The vendors' own SDKs as judges of answers: each reads what a caller gets, whole or streamed, without a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import anthropic
import httpx2
import openai
from google import genai
from google.genai import errors as google_errors
from google.genai.types import GenerateContentResponse, HttpOptions

_ASKED: Any = [{"role": "user", "content": "hi"}]


class Heard(NamedTuple):
    """An answer as a client has it. `calls` are names and arguments; `ids` those of the calls."""

    text: str = ""
    thinking: str = ""
    refusal: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    ids: tuple[str, ...] = ()
    stop: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


def hear(dialect: str, answer: bytes | dict[str, Any]) -> Heard:
    """Returns what the dialect's SDK makes of an answer: of a stream, if it is bytes. Raises what the SDK raises."""
    return _SDKS[dialect][1](_received(dialect, answer))


def collected(dialect: str, stream: bytes) -> dict[str, Any]:
    """Returns a stream as the SDK puts it together, in the JSON of a whole answer."""
    received = _received(dialect, stream)
    if dialect != "gemini":
        return dict(received.model_dump(mode="json", exclude_unset=True, warnings=False))
    parts = [
        part.model_dump(mode="json", by_alias=True, exclude_none=True)
        for piece in received
        for part in (piece.candidates[0].content.parts if piece.candidates[0].content else None) or ()
    ]
    return {"candidates": [{"content": {"role": "model", "parts": parts}}]}


def raised(dialect: str, status: int, body: dict[str, Any]) -> Exception | None:
    """Returns what the dialect's SDK raises for an answer with this status; None if it raises nothing."""
    try:
        _received(dialect, body, status)
    except (openai.APIError, anthropic.APIError, google_errors.APIError) as exc:
        return exc
    return None


def _received(dialect: str, answer: bytes | dict[str, Any], status: int = 200) -> Any:
    streamed = isinstance(answer, bytes)
    content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    kind = "text/event-stream" if streamed else "application/json"

    def respond(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, headers={"content-type": kind}, content=content)

    with httpx2.Client(transport=httpx2.MockTransport(respond)) as client:
        return _SDKS[dialect][0](client, streamed)


def _openai(client: httpx2.Client) -> openai.OpenAI:
    return openai.OpenAI(
        api_key="x",
        base_url="http://vendor.invalid/v1",
        http_client=client,
        max_retries=0,
        _strict_response_validation=True,
    )


def _receive_chat(client: httpx2.Client, streamed: bool) -> Any:
    sdk = _openai(client).chat.completions
    if not streamed:
        return sdk.create(model="m", messages=_ASKED)
    options: Any = {"include_usage": True}
    with sdk.stream(model="m", messages=_ASKED, stream_options=options) as stream:
        for _ in stream:
            pass
        return stream.current_completion_snapshot  # the final one is not given where it ends early


def _hear_chat(completion: Any) -> Heard:
    (choice,) = completion.choices
    message = choice.message
    calls = [
        (call.custom.name, call.custom.input)
        if call.type == "custom"
        else (call.function.name, _canonical(call.function.arguments))
        for call in message.tool_calls or ()
    ]
    return Heard(
        message.content or "",
        (message.model_extra or {}).get("reasoning_content") or "",
        message.refusal or "",
        tuple(calls),
        tuple(call.id for call in message.tool_calls or ()),
        choice.finish_reason,
        completion.usage.prompt_tokens,
        completion.usage.completion_tokens,
    )


def _receive_responses(client: httpx2.Client, streamed: bool) -> Any:
    sdk = _openai(client).responses
    if not streamed:
        return sdk.create(model="m", input="hi")
    with sdk.stream(model="m", input="hi") as stream:
        last: Any = list(stream)[-1]
        return stream.get_final_response() if last.type == "response.completed" else last.response


def _hear_responses(response: Any) -> Heard:
    items = response.output
    parts = [part for item in items if item.type == "message" for part in item.content]
    calls = [item for item in items if item.type in ("function_call", "custom_tool_call")]
    thinking = [part.text for item in items if item.type == "reasoning" for part in item.summary]
    details = response.incomplete_details
    return Heard(
        "".join(part.text for part in parts if part.type == "output_text"),
        "".join(thinking),
        "".join(part.refusal for part in parts if part.type == "refusal"),
        tuple(
            (call.name, call.input if call.type == "custom_tool_call" else _canonical(call.arguments)) for call in calls
        ),
        tuple(call.call_id for call in calls),
        f"{response.status} {details.reason}" if details else str(response.status),
        response.usage.input_tokens,
        response.usage.output_tokens,
    )


def _receive_messages(client: httpx2.Client, streamed: bool) -> Any:
    sdk = anthropic.Anthropic(
        api_key="x",
        base_url="http://vendor.invalid",
        http_client=client,
        max_retries=0,
        _strict_response_validation=True,
    ).messages
    asked: Any = {"model": "m", "max_tokens": 10, "messages": _ASKED}
    if not streamed:
        return sdk.create(**asked)
    with sdk.stream(**asked) as stream:
        return stream.get_final_message()


def _hear_messages(message: Any) -> Heard:
    blocks = message.content
    calls = [block for block in blocks if block.type == "tool_use"]
    usage = message.usage
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    return Heard(
        "".join(block.text for block in blocks if block.type == "text"),
        "".join(block.thinking for block in blocks if block.type == "thinking"),
        "",
        tuple((call.name, json.dumps(call.input, sort_keys=True)) for call in calls),
        tuple(call.id for call in calls),
        message.stop_reason,
        usage.input_tokens + cached,
        usage.output_tokens,
    )


def _receive_gemini(client: httpx2.Client, streamed: bool) -> list[GenerateContentResponse]:
    options = HttpOptions(base_url="http://vendor.invalid", httpx_client=client)
    models = genai.Client(api_key="x", http_options=options).models
    if streamed:
        return list(models.generate_content_stream(model="m", contents="hi"))
    return [models.generate_content(model="m", contents="hi")]


def _hear_gemini(pieces: list[GenerateContentResponse]) -> Heard:
    parts: list[Any] = []
    stop, usage = "", None
    for piece in pieces:
        usage = piece.usage_metadata or usage
        for candidate in piece.candidates or ():
            parts += (candidate.content.parts if candidate.content else None) or ()
            stop = candidate.finish_reason.value if candidate.finish_reason else stop
        if piece.prompt_feedback is not None and piece.prompt_feedback.block_reason is not None:
            stop = piece.prompt_feedback.block_reason.value
    assert usage is not None
    calls = [part.function_call for part in parts if part.function_call is not None]
    return Heard(
        "".join(part.text for part in parts if part.text and not part.thought),
        "".join(part.text for part in parts if part.text and part.thought),
        "",
        tuple((call.name, json.dumps(call.args or {}, sort_keys=True)) for call in calls),
        tuple(call.id or "" for call in calls),
        stop,
        usage.prompt_token_count or 0,
        (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
    )


def _canonical(arguments: str) -> str:
    return json.dumps(json.loads(arguments), sort_keys=True)


# By dialect: what calls the SDK, and what reads its answer.
_SDKS: dict[str, tuple[Callable[[httpx2.Client, bool], Any], Callable[[Any], Heard]]] = {
    "chat": (_receive_chat, _hear_chat),
    "messages": (_receive_messages, _hear_messages),
    "responses": (_receive_responses, _hear_responses),
    "gemini": (_receive_gemini, _hear_gemini),
}
