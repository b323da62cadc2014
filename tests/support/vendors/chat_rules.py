"""Rules of chat completions: what OpenAI refuses."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.support.vendors.play import Offered
from tests.support.vendors.rules import TOOL_NAME, Fields, Strict, closed, need


class Request(Strict):
    model: str
    messages: list[Fields]
    audio: Fields | None = None
    frequency_penalty: float | None = None
    function_call: str | Fields | None = None
    functions: list[Fields] | None = None
    logit_bias: dict[str, int] | None = None
    logprobs: bool | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    metadata: dict[str, str] | None = None
    modalities: list[str] | None = None
    moderation: Fields | None = None
    n: int | None = None
    parallel_tool_calls: bool | None = None
    prediction: Fields | None = None
    presence_penalty: float | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Fields | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    response_format: Fields | None = None
    safety_identifier: str | None = None
    seed: int | None = None
    service_tier: str | None = None
    stop: str | list[str] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: Fields | None = None
    temperature: float | None = None
    tool_choice: str | Fields | None = None
    tools: list[Fields] | None = None
    top_logprobs: int | None = None
    top_p: float | None = None
    user: str | None = None
    verbosity: str | None = None
    web_search_options: Fields | None = None


class Call(Strict):
    id: str
    type: str
    function: Fields | None = None
    custom: Fields | None = None
    index: int | None = None  # what strangers write, and OpenAI lets pass


class Message(Strict):
    role: str
    content: str | list[Fields] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    audio: Fields | None = None
    annotations: list[Any] | None = None
    function_call: Fields | None = None
    parsed: Any = None  # of the SDK's own helpers, which send it back
    provider_specific_fields: Any = None  # of LiteLLM's messages, likewise


class ReasoningMessage(Message):
    """Of the vendors of this dialect that reason in the open."""

    reasoning_content: str | None = None


def check_options(request: Request) -> None:
    need(
        request.max_tokens is None or request.max_completion_tokens is None, "Both max_tokens and max_completion_tokens"
    )
    need(request.stream or request.stream_options is None, "'stream_options' is only allowed when 'stream' is enabled.")
    need(not isinstance(request.stop, list) or 1 <= len(request.stop) <= 4, "Invalid 'stop': 1 to 4 items")
    need(request.top_logprobs is None or request.logprobs, "'top_logprobs' needs 'logprobs'")
    need(0 <= (request.top_logprobs or 0) <= 20, "Invalid 'top_logprobs'")
    need(0 <= (request.temperature or 0) <= 2, "Invalid 'temperature'")
    need(0 <= (request.top_p or 0) <= 1, "Invalid 'top_p'")
    efforts = (None, "none", "minimal", "low", "medium", "high", "xhigh", "max")
    need(request.reasoning_effort in efforts, f"Unsupported value: 'reasoning_effort' {request.reasoning_effort!r}")
    need(request.verbosity in (None, "low", "medium", "high"), "Unsupported value: 'verbosity'")


def offered(tool: Fields, position: int) -> Offered:
    path = f"tools[{position}]"
    kind = str(tool.get("type"))
    need(
        kind in ("function", "custom"),
        f"Invalid value: {kind!r}. Supported values are: 'function' and 'custom'.",
        param=f"{path}.type",
    )
    need(set(tool) == {"type", kind}, f"Unknown parameter: '{path}.{min(set(tool) - {'type', kind}, default='')}'.")
    fields = {"function": {"name", "description", "parameters", "strict"}, "custom": {"name", "description", "format"}}
    inner = tool[kind]
    need(set(inner) <= fields[kind], f"Unknown parameter: '{path}.{kind}.{sorted(set(inner) - fields[kind])}'.")
    need(
        TOOL_NAME.fullmatch(inner["name"]) and len(inner["name"]) <= 64,
        f"Invalid '{path}.{kind}.name': {inner['name']!r}",
    )
    schema = inner.get("parameters") or {}
    need(
        schema.get("type", "object") == "object",
        f"Invalid schema for function {inner['name']!r}: schema must be of type 'object'",
    )
    if inner.get("strict"):
        closed(schema, f"{path}.function.parameters")
    return Offered(inner["name"], schema, custom=kind == "custom")


def check_pairs(messages: list[Message]) -> None:
    waiting: list[str] = []
    for n, message in enumerate(messages):
        need(message.role in ("system", "developer", "user", "assistant", "tool"), f"Invalid value: {message.role!r}")
        if message.role == "tool":
            need(
                message.tool_call_id in waiting,
                "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
                "'tool_calls'.",
                param=f"messages[{n}].role",
            )
            waiting.remove(message.tool_call_id or "")
            _parts(message.content, {"text"}, f"messages[{n}]")
            continue
        need(
            not waiting,
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {waiting}",
        )
        need(message.role == "assistant" or not message.tool_calls, "Only an assistant has tool_calls")
        need(message.tool_calls is None or message.tool_calls, f"Invalid 'messages[{n}].tool_calls': empty array.")
        spoken = message.content is not None or message.tool_calls or message.refusal or message.role != "assistant"
        need(spoken, f"Invalid value for 'content': expected a string, got null. (messages[{n}])")
        allowed = {"text", "refusal"} if message.role == "assistant" else {"text"}
        allowed |= {"image_url", "input_audio", "file"} if message.role == "user" else set()
        _parts(message.content, allowed, f"messages[{n}]")
        for call in message.tool_calls or ():
            need(call.type in ("function", "custom"), f"Invalid type of tool call: {call.type!r}")
            inner = msgspec.to_builtins(call)[call.type]
            need(isinstance(inner.get("arguments", inner.get("input")), str), "arguments have to be a string")
            waiting.append(call.id)
    need(not waiting, f"The following tool_call_ids did not have response messages: {waiting}")


def _parts(content: str | list[Fields] | None, allowed: set[str], path: str) -> None:
    for n, part in enumerate(content if isinstance(content, list) else ()):
        kind = part.get("type")
        need(kind in allowed, f"Invalid content type {kind!r} in {path}.content[{n}]: {sorted(allowed)}")
        known = {"type", kind, "prompt_cache_breakpoint"}
        need(set(part) <= known, f"Unknown parameter: '{path}.content[{n}].{sorted(set(part) - known)}'")
