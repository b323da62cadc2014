"""OpenAI's chat completions, played: tool messages answer the calls before them, and no field is unknown."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from tests.support.vendors.play import Asked, Offered, Refused, Turn
from tests.support.vendors.rules import TOOL_NAME, Fields, Strict, closed, need, parse
from tests.support.vendors.wire import Pieces, chopped, sse

_STOPS = {"end": "stop", "stop_sequence": "stop", "length": "length", "tool_calls": "tool_calls", "pause": "stop"}


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


class ReasoningMessage(Message):
    """Of the vendors of this dialect that reason in the open."""

    reasoning_content: str | None = None


class ChatWire:
    def read(self, body: bytes, headers: dict[str, str], *, model: str, stream: bool) -> Asked:
        need(headers.get("authorization", "").startswith("Bearer ") or "api-key" in headers, "No API key", status=401)
        request = parse(body, Request)
        need(request.messages, "Invalid 'messages': empty array", param="messages")
        kind = ReasoningMessage if "think" in request.model.split("-") else Message
        messages = [parse(message, kind, f"messages[{n}]") for n, message in enumerate(request.messages)]
        _check_options(request)
        tools = tuple(_tool(tool, n) for n, tool in enumerate(request.tools or ()))
        need(tools or request.tool_choice is None, "'tool_choice' is only allowed when 'tools' are specified.")
        need(tools or request.parallel_tool_calls is None, "'parallel_tool_calls' is only allowed with 'tools'.")
        asked = [message for message in messages if message.role == "user"]
        after = messages[max((n for n, m in enumerate(messages) if m.role == "user"), default=-1) + 1 :]
        _check_pairs(messages)
        form = request.response_format or {}
        need(form.get("type", "text") in ("text", "json_object", "json_schema"), "Invalid 'response_format.type'")
        if form.get("type") == "json_schema":
            need(form.get("json_schema", {}).get("name"), "Missing 'response_format.json_schema.name'")
            if form["json_schema"].get("strict"):
                closed(form["json_schema"].get("schema"), "response_format")
        return Asked(
            model=request.model,
            stream=bool(request.stream),
            prompt=_text(asked[-1].content) if asked else "",
            tools=tools,
            results=tuple(_text(message.content) for message in after if message.role == "tool"),
            schema=form.get("json_schema", {}).get("schema") or ({} if form.get("type") == "json_object" else None),
            usage_wanted=bool((request.stream_options or {}).get("include_usage")),
            request=json.loads(body),
        )

    def whole(self, turn: Turn, asked: Asked) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": turn.text or None, "refusal": None}
        if turn.stop == "refusal":
            message |= {"content": None, "refusal": turn.text}
        if turn.thinking:
            message["reasoning_content"] = turn.thinking
        if turn.calls:
            message["tool_calls"] = [_call(turn, n) for n in range(len(turn.calls))]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(turn)}
        return {**_frame(turn, "chat.completion"), "choices": [choice], **_usage(turn)}

    def pieces(self, turn: Turn, asked: Asked) -> Pieces:
        frame = {**_frame(turn, "chat.completion.chunk"), **({"usage": None} if asked.usage_wanted else {})}

        def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return sse({**frame, "choices": [choice]})

        content = [chunk({"reasoning_content": part}) for part in chopped(turn.thinking)]
        field = "refusal" if turn.stop == "refusal" else "content"
        content += [chunk({field: word}) for word in turn.words]
        for n in range(len(turn.calls)):
            call = {"index": n, **_call(turn, n)}
            kind = call["type"]
            key = "input" if kind == "custom" else "arguments"
            text = call[kind].pop(key)
            parts = [text] if turn.done_only else chopped(text)
            content.append(chunk({"tool_calls": [{**call, kind: {**call[kind], key: ""}}]}))
            content += [chunk({"tool_calls": [{"index": n, kind: {key: part}}]}) for part in parts]
        ending = [chunk({}, _finish(turn))]
        if asked.usage_wanted and (usage := _usage(turn)):
            ending.append(sse({**frame, "choices": [], **usage}))
        return Pieces(
            [chunk({"role": "assistant", "content": "", "refusal": None})], content, [*ending, b"data: [DONE]\n\n"]
        )

    def error(self, refused: Refused) -> dict[str, Any]:
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(refused.status, "server_error" if refused.status >= 500 else "invalid_request_error")
        return {"error": {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}}

    def error_event(self, refused: Refused) -> bytes:
        return sse(self.error(refused))

    def overflow(self) -> Refused:
        message = (
            "This model's maximum context length is 200000 tokens. However, your messages resulted in 250001 tokens."
        )
        return Refused(message, code="context_length_exceeded", param="messages")


def _check_options(request: Request) -> None:
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


def _tool(tool: Fields, position: int) -> Offered:
    path = f"tools[{position}]"
    kind = tool.get("type")
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


def _check_pairs(messages: list[Message]) -> None:
    waiting: list[str] = []
    for n, message in enumerate(messages):
        need(message.role in ("system", "developer", "user", "assistant", "tool"), f"Invalid value: {message.role!r}")
        if message.role == "tool":
            need(
                message.tool_call_id in waiting,
                "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.",
                param=f"messages[{n}].role",
            )
            waiting.remove(message.tool_call_id or "")
            _parts(message.content, {"text"}, f"messages[{n}]")
            continue
        need(
            not waiting,
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
            f"The following tool_call_ids did not have response messages: {waiting}",
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


def _text(content: str | list[Fields] | None) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())


def _call(turn: Turn, position: int) -> dict[str, Any]:
    call = turn.calls[position]
    call_id = {"-": "", "": f"call_{turn.id}{position}"}.get(call.id, call.id)
    if call.tool.custom:
        return {"id": call_id, "type": "custom", "custom": {"name": call.tool.name, "input": call.arguments["input"]}}
    return {"id": call_id, "type": "function", "function": {"name": call.tool.name, "arguments": call.text}}


def _finish(turn: Turn) -> str:
    return _STOPS.get(turn.stop, "content_filter" if turn.stop == "filter" else "stop")


def _frame(turn: Turn, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{turn.id}", "object": kind, "created": 1_800_000_000, "model": turn.model}


def _usage(turn: Turn) -> dict[str, Any]:
    if turn.bill is not None:
        return turn.bill
    prompt, completion = turn.prompt_tokens, turn.completion_tokens
    details = {"cached_tokens": turn.cached, "cache_write_tokens": turn.written, "audio_tokens": 0}
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": turn.reasoning, "audio_tokens": 0},
    }
    return {"usage": usage, "service_tier": "default"}
