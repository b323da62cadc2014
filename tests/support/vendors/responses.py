"""OpenAI's responses, played: reasoning, encrypted by this vendor, comes before its call; ids have their prefixes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.support.vendors.play import Asked, Call, Refused, Turn
from tests.support.vendors.responses_rules import CALLS, Request, check_item, check_options, encrypted, tools_of
from tests.support.vendors.rules import Fields, need, parse
from tests.support.vendors.wire import Pieces, chopped, sse


class ResponsesWire:
    def __init__(self) -> None:
        self._stored: dict[str, list[Fields]] = {}  # by a response's id: all that was said by its end
        self._reasoned: dict[str, str] = {}  # by a call item's id: the reasoning before it

    def read(self, body: bytes, headers: dict[str, str], *, model: str, stream: bool) -> Asked:
        need(headers.get("authorization", "").startswith("Bearer ") or "api-key" in headers, "No API key", status=401)
        request = parse(body, Request)
        check_options(request)
        tools = tuple(tools_of(request.tools))
        need(tools or not isinstance(request.tool_choice, dict), "Tool choices need tools")
        said = request.input
        items = [{"role": "user", "content": said}] if isinstance(said, str) else list(said)
        if request.previous_response_id is not None:
            known = self._stored.get(request.previous_response_id)
            unknown = f"Previous response with id '{request.previous_response_id}' not found."
            need(known is not None, unknown, code="previous_response_not_found", param="previous_response_id")
            items = [*(known or ()), *items]
        need(items, "Invalid 'input': empty array")
        for n, item in enumerate(items):
            check_item(item, n)
        self._check_order(items)
        last = max((n for n, item in enumerate(items) if item.get("role") == "user"), default=-1)
        form = (request.text or {}).get("format") or {}
        shows = (request.reasoning or {}).get("summary") is not None
        fields = json.loads(body)
        return Asked(
            model=request.model,
            stream=bool(request.stream),
            prompt=_text(items[last]["content"]) if last >= 0 else "",
            tools=tools,
            results=tuple(
                _text(item["output"]) for item in items[last + 1 :] if item.get("type", "").endswith("_output")
            ),
            schema=form.get("schema") or ({} if form.get("type") == "json_object" else None),
            shows=shows,
            request={**fields, "input": items},
        )

    def _check_order(self, items: list[Fields]) -> None:
        waiting: dict[str, str] = {}
        reasoning = ""
        seen: set[str] = set()
        for item in items:
            kind = item.get("type", "message")
            if reasoning:
                follows = kind in ("message", "reasoning", *CALLS) and item.get("role", "assistant") == "assistant"
                need(
                    follows, f"Item '{reasoning}' of type 'reasoning' was provided without its required following item."
                )
            reasoning = item["id"] if kind == "reasoning" else ""
            seen.add(item.get("id", ""))
            if kind in CALLS:
                need(item["call_id"] not in waiting, f"Duplicate call_id {item['call_id']!r}")
                waiting[item["call_id"]] = CALLS[kind]
                needed = self._reasoned.get(item.get("id", ""), "")
                without = (
                    f"Item '{item.get('id')}' of type '{kind}' was provided without its required 'reasoning' item."
                )
                need(not needed or needed in seen, without)
            elif kind in CALLS.values():
                stray = f"No tool call found for {kind.replace('_', ' ')} with call_id {item['call_id']}."
                need(waiting.pop(item["call_id"], "") == kind, stray, param="input")
        need(not reasoning, f"Item '{reasoning}' of type 'reasoning' was provided without its required following item.")
        need(not waiting, f"No tool output found for function call {next(iter(waiting), '')}.", param="input")

    def output(self, turn: Turn, asked: Asked) -> Iterator[dict[str, Any]]:
        include = asked.request.get("include") or ()
        reasoning = ""
        if turn.thinking:
            reasoning = f"rs_{turn.id}"
            summary = [{"type": "summary_text", "text": turn.thinking}] if asked.shows else []
            item: dict[str, Any] = {"type": "reasoning", "id": reasoning, "summary": summary}
            if "reasoning.encrypted_content" in include:
                item["encrypted_content"] = encrypted(item)
            yield item
        if turn.words:
            part: dict[str, Any] = {"type": "output_text", "text": turn.text, "annotations": [], "logprobs": []}
            if turn.stop == "refusal":
                part = {"type": "refusal", "refusal": turn.text}
            yield {
                "type": "message",
                "id": f"msg_{turn.id}",
                "status": "completed",
                "role": "assistant",
                "content": [part],
            }
        for n, call in enumerate(turn.calls):
            item = _call(turn, call, n)
            if reasoning:
                self._reasoned[item["id"]] = reasoning
            yield item

    def whole(self, turn: Turn, asked: Asked) -> dict[str, Any]:
        output = list(self.output(turn, asked))
        if asked.request.get("store") is not False:
            self._stored[f"resp_{turn.id}"] = [*asked.request["input"], *output]
        return {**_response(turn, asked), "output": output, **_end(turn)}

    def pieces(self, turn: Turn, asked: Asked) -> Pieces:
        number = iter(range(10_000_000))

        def event(event_type: str, **fields: Any) -> bytes:
            return sse({"type": event_type, "sequence_number": next(number), **fields}, event_type)

        begun = {**_response(turn, asked), "status": "in_progress", "output": [], "usage": None}
        opening = [event(f"response.{name}", response=begun) for name in ("created", "in_progress")]
        content: list[bytes] = []
        for at, item in enumerate(self.output(turn, asked)):
            for name, fields in _item_events(turn, item):
                content.append(event(f"response.{name}", output_index=at, **fields))
        end = self.whole(turn, asked)
        return Pieces(opening, content, [event(f"response.{end['status']}", response=end)])

    def error(self, refused: Refused) -> dict[str, Any]:
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(refused.status, "server_error" if refused.status >= 500 else "invalid_request_error")
        return {"error": {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}}

    def error_event(self, refused: Refused) -> bytes:
        failed = {
            "id": "resp_failed",
            "object": "response",
            "status": "failed",
            "created_at": 1_800_000_000,
            "model": "up",
        }
        error = {"code": refused.code or "server_error", "message": refused.message}
        value = {"type": "response.failed", "sequence_number": 99, "response": {**failed, "output": [], "error": error}}
        return sse(value, "response.failed")

    def overflow(self) -> Refused:
        message = "Your input exceeds the context window of this model. Please adjust your input and try again."
        return Refused(message, code="context_length_exceeded", param="input")

    def count(self, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
        self.read(body, headers, model="", stream=False)
        return {"object": "response.input_tokens", "input_tokens": len(body) // 4}


def _call(turn: Turn, call: Call, position: int) -> dict[str, Any]:
    call_id = {"-": "", "": f"call_{turn.id}{position}"}.get(call.id, call.id)
    common: dict[str, Any] = {"call_id": call_id, "name": call.tool.name, "status": "completed"}
    if call.tool.namespace:
        common["namespace"] = call.tool.namespace
    if call.tool.custom:
        return {
            "type": "custom_tool_call",
            "id": f"ctc_{turn.id}{position}",
            "input": call.arguments["input"],
            **common,
        }
    return {"type": "function_call", "id": f"fc_{turn.id}{position}", "arguments": call.text, **common}


def _item_events(turn: Turn, item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the names and fields of the events of one item, in order."""
    place = {"item_id": item["id"]}
    kind = item["type"]
    empty: dict[str, Any] = {
        "message": {"content": []},
        "reasoning": {"summary": []},
        "function_call": {"arguments": ""},
    }
    empty["custom_tool_call"] = {"input": ""}
    status = {} if kind == "reasoning" else {"status": "in_progress"}
    yield "output_item.added", {"item": {**item, **empty[kind], **status}}
    if kind == "reasoning":
        for n, part in enumerate(item["summary"]):
            at = {**place, "summary_index": n}
            yield "reasoning_summary_part.added", {**at, "part": {"type": "summary_text", "text": ""}}
            for piece in chopped(part["text"]):
                yield "reasoning_summary_text.delta", {**at, "delta": piece}
            yield "reasoning_summary_text.done", {**at, "text": part["text"]}
            yield "reasoning_summary_part.done", {**at, "part": part}
    elif kind == "message":
        part = item["content"][0]
        name, field = ("refusal", "refusal") if part["type"] == "refusal" else ("output_text", "text")
        at = {**place, "content_index": 0}
        more: dict[str, Any] = {} if name == "refusal" else {"logprobs": []}
        yield "content_part.added", {**at, "part": {**part, field: ""}}
        for word in turn.words:
            yield f"{name}.delta", {**at, "delta": word, **more}
        yield f"{name}.done", {**at, field: part[field], **more}
        yield "content_part.done", {**at, "part": part}
    else:
        name, field = (
            ("function_call_arguments", "arguments") if kind == "function_call" else ("custom_tool_call_input", "input")
        )
        for piece in () if turn.done_only else chopped(item[field]):
            yield f"{name}.delta", {**place, "delta": piece}
        named = {"name": item["name"]} if kind == "function_call" else {}
        yield f"{name}.done", {**place, field: item[field], **named}
    yield "output_item.done", {"item": item}


def _response(turn: Turn, asked: Asked) -> dict[str, Any]:
    request = asked.request
    repeated = (
        "instructions",
        "max_output_tokens",
        "metadata",
        "previous_response_id",
        "prompt_cache_key",
        "safety_identifier",
        "user",
    )
    return {
        "id": f"resp_{turn.id}",
        "object": "response",
        "created_at": 1_800_000_000,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": turn.model,
        "parallel_tool_calls": request.get("parallel_tool_calls", True),
        "reasoning": request.get("reasoning") or {"effort": None, "summary": None},
        "store": request.get("store", True),
        "temperature": request.get("temperature", 1.0),
        "text": request.get("text") or {"format": {"type": "text"}},
        "tool_choice": request.get("tool_choice", "auto"),
        "tools": request.get("tools", []),
        "top_p": request.get("top_p", 1.0),
        "truncation": "disabled",
        "service_tier": "default",
        **{name: request.get(name) for name in repeated},
    }


def _end(turn: Turn) -> dict[str, Any]:
    reasons = {"length": "max_output_tokens", "filter": "content_filter"}
    end: dict[str, Any] = {"status": "completed", "completed_at": 1_800_000_001, **_usage(turn)}
    if turn.stop in reasons:
        end |= {"status": "incomplete", "incomplete_details": {"reason": reasons[turn.stop]}, "completed_at": None}
    return end


def _usage(turn: Turn) -> dict[str, Any]:
    if turn.bill is not None:
        return turn.bill
    usage = {
        "input_tokens": turn.prompt_tokens,
        "input_tokens_details": {"cached_tokens": turn.cached, "cache_write_tokens": turn.written},
        "output_tokens": turn.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": turn.reasoning},
        "total_tokens": turn.prompt_tokens + turn.completion_tokens,
    }
    return {"usage": usage}


def _text(content: str | list[Fields]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
