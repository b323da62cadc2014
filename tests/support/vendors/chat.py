"""OpenAI's chat completions, played: tool messages answer the calls before them, and no field is unknown."""

from __future__ import annotations

import json
from typing import Any

from tests.support.vendors.chat_rules import Message, ReasoningMessage, Request, check_options, check_pairs, offered
from tests.support.vendors.play import Asked, Refused, Turn
from tests.support.vendors.rules import Fields, closed, need, parse
from tests.support.vendors.wire import Pieces, chopped, sse

_STOPS = {"end": "stop", "stop_sequence": "stop", "length": "length", "tool_calls": "tool_calls", "pause": "stop"}


class ChatWire:
    def read(self, body: bytes, headers: dict[str, str], *, model: str, stream: bool) -> Asked:
        need(headers.get("authorization", "").startswith("Bearer ") or "api-key" in headers, "No API key", status=401)
        request = parse(body, Request)
        need(request.messages, "Invalid 'messages': empty array", param="messages")
        kind = ReasoningMessage if "think" in request.model.split("-") else Message
        messages = [parse(message, kind, f"messages[{n}]") for n, message in enumerate(request.messages)]
        check_options(request)
        tools = tuple(offered(tool, n) for n, tool in enumerate(request.tools or ()))
        need(tools or request.tool_choice is None, "'tool_choice' is only allowed when 'tools' are specified.")
        need(tools or request.parallel_tool_calls is None, "'parallel_tool_calls' is only allowed with 'tools'.")
        asked = [message for message in messages if message.role == "user"]
        after = messages[max((n for n, m in enumerate(messages) if m.role == "user"), default=-1) + 1 :]
        check_pairs(messages)
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
