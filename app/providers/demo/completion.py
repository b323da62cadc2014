"""Completion of the demo model: text, JSON that fits a schema, or tool calls, whole or in deltas.

All choices are the same. A text is a list of pieces, its tokens: a word each, or a bit of JSON.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from json import JSONDecoder
from typing import Any, NoReturn, cast

import gevent
import msgspec

from app.config.providers import DemoScript
from app.domain.chat import ChatRequest, Message
from app.domain.usage import Usage
from app.errors import UpstreamRejected
from app.providers.base import ChatCall
from app.providers.demo.json_generator import generate_json
from app.providers.demo.message_hints import shorten
from app.providers.demo.numbers import Unsatisfiable
from app.providers.demo.tools import Tool, choose_tools

_GREETING = "This is Penstock's offline demo model."
_HINT = "For real answers, set a vendor's key, such as OPENAI_API_KEY."
_MAX_ECHO_CHARS = 1_000
_MAX_NODES, _MIN_NODES = 10_000, 500
_MAX_STOPS, _MAX_STOP_CHARS = 16, 1_000
_MAX_CHUNKS = 200
_MAX_PROMPT_SCHEMA_CHARS, _MAX_PROMPT_OBJECTS = 100_000, 20
_FIELDS = ("tools", "tool_choice", "functions", "function_call", "parallel_tool_calls", "response_format", "stop")
_TOOL_RESULT_ROLES = frozenset({"tool", "function"})
_JSON_PIECE = re.compile(r"[^,: ]*[,: ]*")
_encode = msgspec.json.Encoder().encode


class DemoCompletion:
    """The completion of one call. Raises `UpstreamRejected` for a schema that no value fits."""

    def __init__(self, call: ChatCall, script: DemoScript, provider: str) -> None:
        self._call = call
        self._provider = provider
        request = self._request = cast(ChatRequest, call.request)
        fields = {name: self._decode_field(name) for name in _FIELDS if name in request.fields}
        last = request.messages[-1]
        self._prompt = _text(next((m for m in reversed(request.messages) if m.role == "user"), last))
        self.tools = self._choose_tools(fields, answered=last.role in _TOOL_RESULT_ROLES)
        if self.tools:
            texts = [self._arguments(tool) for tool in self.tools]
            self.finish_reason = "function_call" if self.tools[0].legacy else "tool_calls"
        elif script.reply is not None:
            texts, self.finish_reason = [script.reply], "stop"
        else:
            texts, self.finish_reason = [self._answer_text(fields.get("response_format"), last)], "stop"
        if not self.tools:
            texts = [self._cut_at_stop(texts[0], fields.get("stop"))]
        structured = bool(self.tools) or texts[0][:1] == "{"
        self._pieces_per_chunk = 1
        self.pieces = [_json_pieces(text) if structured else _words(text) for text in texts]
        if structured:
            self._pieces_per_chunk += max(len(pieces) for pieces in self.pieces) // _MAX_CHUNKS
        self._cut_at_max_tokens(call)
        completion_tokens = sum(len(pieces) for pieces in self.pieces)
        prompt_tokens = sum(len(_text(message).split()) for message in request.messages)
        self.usage = Usage(
            prompt_tokens if script.prompt_tokens is None else script.prompt_tokens,
            completion_tokens * request.choices if script.completion_tokens is None else script.completion_tokens,
        )
        self._created = int(time.time())

    @property
    def text_bytes(self) -> int:
        return sum(_utf8_bytes("".join(pieces)) for pieces in self.pieces) * self._request.choices

    def base(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self._call.request_id}",
            "object": kind,
            "created": self._created,
            "model": self._call.model,
        }

    def wire_usage(self) -> dict[str, Any]:
        usage = self.usage
        return {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        }

    def to_openai(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
        calls = [self._tool_call(i, "".join(pieces)) for i, pieces in enumerate(self.pieces)] if self.tools else []
        if not self.tools:
            message["content"] = "".join(self.pieces[0])
        elif self.tools[0].legacy:
            message["function_call"] = calls[0]["function"]
        else:
            message["tool_calls"] = calls
        choices = [
            {"index": i, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
            for i in range(self._request.choices)
        ]
        return {**self.base("chat.completion"), "choices": choices, "usage": self.wire_usage()}

    def deltas(self) -> Iterator[tuple[int, dict[str, Any], int]]:
        """Yields a choice's index, its next delta, and that delta's bytes of text. Choices take turns."""
        role = {"role": "assistant"}
        for delta, size in self._deltas():
            for index in range(self._request.choices):
                yield index, {**role, **delta}, size
            role = {}

    def _deltas(self) -> Iterator[tuple[dict[str, Any], int]]:
        for i, pieces in enumerate(self.pieces):
            if self.tools:
                yield {"content": None, **self._call_delta(i, None)}, 0
            for at in range(0, len(pieces), self._pieces_per_chunk):
                text = "".join(pieces[at : at + self._pieces_per_chunk])
                yield self._call_delta(i, text) if self.tools else {"content": text}, _utf8_bytes(text)

    def _call_delta(self, i: int, text: str | None) -> dict[str, Any]:
        """Returns a piece of the arguments of tool call `i`; its head if `text` is None."""
        if self.tools[i].legacy:
            return {"function_call": {"arguments": text} if text else {"name": self.tools[i].name, "arguments": ""}}
        if text is None:
            return {"tool_calls": [{"index": i, **self._tool_call(i, "")}]}
        of_kind = {"custom": {"input": text}} if self.tools[i].custom else {"function": {"arguments": text}}
        return {"tool_calls": [{"index": i, **of_kind}]}

    def _tool_call(self, i: int, text: str) -> dict[str, Any]:
        tool = self.tools[i]
        name = f"call_{self._call.request_id}" + (f"_{i}" if i else "")
        if tool.custom:
            return {"id": name, "type": "custom", "custom": {"name": tool.name, "input": text}}
        return {"id": name, "type": "function", "function": {"name": tool.name, "arguments": text}}

    def _choose_tools(self, fields: dict[str, Any], *, answered: bool) -> list[Tool]:
        if "tools" not in fields and "functions" not in fields and "tool_choice" not in fields:
            return []
        called = _called_tools(self._decode_field("messages"))
        return choose_tools(fields, self._prompt, called, answered=answered)

    def _arguments(self, tool: Tool) -> str:
        if tool.custom:
            return self._prompt[:_MAX_ECHO_CHARS]
        parameters = {"type": "object", **(tool.parameters if isinstance(tool.parameters, dict) else {})}
        return self._json_for(parameters, "functions" if tool.legacy else "tools", tool.name)

    def _answer_text(self, response_format: Any, last: Message) -> str:
        kind = response_format.get("type") if isinstance(response_format, dict) else response_format
        if kind == "json_schema":
            given = response_format.get("json_schema")
            schema = given.get("schema", {"type": "object"}) if isinstance(given, dict) else None
            if not isinstance(schema, dict):
                self._reject("Expected a JSON Schema: `response_format.json_schema.schema`.", "response_format")
            return self._json_for(schema, "response_format", "json_schema")
        if kind == "json_object":
            schema = _find_schema(self._request.messages)
            if schema is None:
                return _json({"message": _GREETING, "you_said": shorten(self._prompt, _MAX_ECHO_CHARS)})
            return self._json_for(schema, "messages", "messages")
        if kind not in (None, "text"):
            self._reject(
                "The demo model knows text, json_object and json_schema: `response_format`.", "response_format"
            )
        schema = _find_schema(self._request.messages)
        if schema is not None:
            return f"```json\n{self._json_for(schema, 'messages', 'messages')}\n```"
        if last.role in _TOOL_RESULT_ROLES:
            return f"{_GREETING} The tool returned: {shorten(_text(last), _MAX_ECHO_CHARS)}"
        text = f"{_GREETING} You said: {shorten(_text(last), _MAX_ECHO_CHARS)}"
        first = not any(message.role == "assistant" for message in self._request.messages)
        return f"{text}\n\n{_HINT}" if first else text

    def _json_for(self, schema: Any, param: str, name: str) -> str:
        """Returns JSON that fits `schema`."""
        max_nodes = max(_MAX_NODES // self._request.choices, _MIN_NODES)
        try:
            return _json(generate_json(schema, self._prompt, pause=lambda: gevent.sleep(0), max_nodes=max_nodes))
        except Unsatisfiable:
            self._reject(f"The demo model found nothing that fits the JSON Schema of {name[:64]}: `{param}`.", param)

    def _cut_at_stop(self, text: str, stop: Any) -> str:
        """Returns `text` up to the first of the caller's stop sequences."""
        stops = [stop] if isinstance(stop, str) else stop or []
        if (
            not isinstance(stops, list)
            or len(stops) > _MAX_STOPS
            or not all(isinstance(s, str) and len(s) <= _MAX_STOP_CHARS for s in stops)
        ):
            self._reject(f"Expected a text, or up to {_MAX_STOPS} of them: `stop`.", "stop")
        found = [at for at in (text.find(s) for s in stops if s) if at >= 0]
        return text[: min(found)] if found else text

    def _cut_at_max_tokens(self, call: ChatCall) -> None:
        """Cuts the pieces to the caller's bound on tokens, or to the lower one that its money allows."""
        limit = call.request.max_output_tokens if call.max_output_tokens is None else call.max_output_tokens
        if limit is None or sum(len(pieces) for pieces in self.pieces) <= limit:
            return
        self.finish_reason = "length"
        left = limit
        for i, pieces in enumerate(self.pieces):
            self.pieces[i] = pieces[:left]
            left -= len(self.pieces[i])
        if self.tools:
            kept = max(sum(1 for pieces in self.pieces if pieces), 1)
            self.tools, self.pieces = self.tools[:kept], self.pieces[:kept]

    def _decode_field(self, name: str) -> Any:
        try:
            return msgspec.json.decode(self._request.fields[name])
        except (ValueError, RecursionError):  # numbers that no machine has
            self._reject(f"The demo model cannot read this: `{name}`.", name)

    def _reject(self, message: str, param: str) -> NoReturn:
        raise UpstreamRejected(message, provider=self._provider, kind="rejected", param=param)


def _text(message: Message) -> str:
    if isinstance(message.content, list):
        return " ".join(part.text or "" for part in message.content)
    return message.content or ""


def _json(value: Any) -> str:
    return _encode(value).decode("utf-8", "surrogatepass")


def _words(text: str) -> list[str]:
    first, *others = text.split(" ")
    return [first, *(f" {word}" for word in others)]


def _json_pieces(text: str) -> list[str]:
    return [piece for piece in _JSON_PIECE.findall(text) if piece]


def _utf8_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _called_tools(messages: list[dict[str, Any]]) -> set[str]:
    """Returns the names of the tools that were called since the user's last message."""
    called: set[str] = set()
    for message in reversed(messages):
        if message["role"] == "user":
            break
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            for kind in ("function", "custom"):
                of_kind = call.get(kind) if isinstance(call, dict) else None
                if isinstance(of_kind, dict) and isinstance(of_kind.get("name"), str):
                    called.add(of_kind["name"])
    return called


def _find_schema(messages: list[Message]) -> dict[str, Any] | None:
    """Returns the last JSON Schema in the first prompt that has one, as instructor and LangChain write it."""
    for message in messages:
        text = _text(message)
        if '"properties"' not in text or "json" not in text.lower() or len(text) > _MAX_PROMPT_SCHEMA_CHARS:
            continue
        schema, at = None, text.find("{")
        for _ in range(_MAX_PROMPT_OBJECTS):
            if at < 0:
                break
            try:
                found, at = JSONDecoder().raw_decode(text, at)
            except (ValueError, RecursionError):
                found, at = None, at + 1
            if isinstance(found, dict) and isinstance(found.get("properties"), dict):
                schema = found
            at = text.find("{", at)
        if schema is not None:
            return schema
    return None
