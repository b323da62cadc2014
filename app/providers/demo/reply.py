"""What the demo model says to one request: text, JSON that fits a schema, or calls of tools.

Each choice says the same. What it says is a list of pieces, its tokens: a word each, or a bit of JSON.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from json import JSONDecoder
from typing import Any, NoReturn

import gevent
import msgspec

from app.config.gateway import DemoScript
from app.domain.chat import Message
from app.domain.usage import Usage
from app.errors import UpstreamRejected
from app.providers.base import ChatCall
from app.providers.demo.filler import filled
from app.providers.demo.numbers import Unfillable
from app.providers.demo.tools import Tool, chosen
from app.providers.demo.values import shortened

_GREETING = "This is Penstock's offline demo model."
_HINT = "For real answers, set a vendor's key, such as OPENAI_API_KEY."
_MOST_ECHO_CHARS = 1_000
_MOST_NODES, _FEWEST_NODES = 10_000, 500
_MOST_STOPS, _MOST_STOP_CHARS = 16, 1_000
_MOST_CHUNKS = 200
_MOST_PROMPT_SCHEMA_CHARS, _MOST_PROMPT_OBJECTS = 100_000, 20
_FIELDS = ("tools", "tool_choice", "functions", "function_call", "parallel_tool_calls", "response_format", "stop")
_ACTED_ON = frozenset({"tool", "function"})
_JSON_PIECE = re.compile(r"[^,: ]*[,: ]*")
_encode = msgspec.json.Encoder().encode


class Reply:
    """Raises `UpstreamRejected` for a schema that nothing fits."""

    def __init__(self, call: ChatCall, script: DemoScript, provider: str) -> None:
        self._call = call
        self._provider = provider
        request = call.request
        fields = {name: self._decoded(name) for name in _FIELDS if name in request.fields}
        last = request.messages[-1]
        self._prompt = _text(next((m for m in reversed(request.messages) if m.role == "user"), last))
        self.tools = self._chosen(fields, answered=last.role in _ACTED_ON)
        if self.tools:
            texts = [self._arguments(tool) for tool in self.tools]
            self.finish_reason = "function_call" if self.tools[0].legacy else "tool_calls"
        elif script.reply is not None:
            texts, self.finish_reason = [script.reply], "stop"
        else:
            texts, self.finish_reason = [self._said(fields.get("response_format"), last)], "stop"
        if not self.tools:
            texts = [self._before(texts[0], fields.get("stop"))]
        structured = bool(self.tools) or texts[0][:1] == "{"
        self._most_chunk = 1
        self.pieces = [_json_pieces(text) if structured else _words(text) for text in texts]
        if structured:
            self._most_chunk += max(len(pieces) for pieces in self.pieces) // _MOST_CHUNKS
        self._bound(call)
        said = sum(len(pieces) for pieces in self.pieces)
        prompt_tokens = sum(len(_text(message).split()) for message in request.messages)
        self.usage = Usage(
            prompt_tokens if script.prompt_tokens is None else script.prompt_tokens,
            said * request.choices if script.completion_tokens is None else script.completion_tokens,
        )
        self._created = int(time.time())

    @property
    def text_bytes(self) -> int:
        return sum(_size("".join(pieces)) for pieces in self.pieces) * self._call.request.choices

    # As it goes out

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

    def completion(self) -> dict[str, Any]:
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
            for i in range(self._call.request.choices)
        ]
        return {**self.base("chat.completion"), "choices": choices, "usage": self.wire_usage()}

    def deltas(self) -> Iterator[tuple[int, dict[str, Any], int]]:
        """A choice's index, its next delta, and how many bytes that says. The choices take turns, as with vendors."""
        role = {"role": "assistant"}
        for delta, size in self._deltas():
            for index in range(self._call.request.choices):
                yield index, {**role, **delta}, size
            role = {}

    def _deltas(self) -> Iterator[tuple[dict[str, Any], int]]:
        for i, pieces in enumerate(self.pieces):
            if self.tools:
                yield {"content": None, **self._call_delta(i, None)}, 0
            for at in range(0, len(pieces), self._most_chunk):
                text = "".join(pieces[at : at + self._most_chunk])
                yield self._call_delta(i, text) if self.tools else {"content": text}, _size(text)

    def _call_delta(self, i: int, text: str | None) -> dict[str, Any]:
        """A piece of the arguments of call `i`; None: its head."""
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

    # What it is

    def _chosen(self, fields: dict[str, Any], *, answered: bool) -> list[Tool]:
        if "tools" not in fields and "functions" not in fields and "tool_choice" not in fields:
            return []
        called = _called(self._decoded("messages"))
        return chosen(fields, self._prompt, called, answered=answered)

    def _arguments(self, tool: Tool) -> str:
        if tool.custom:
            return self._prompt[:_MOST_ECHO_CHARS]
        parameters = {"type": "object", **(tool.parameters if isinstance(tool.parameters, dict) else {})}
        return self._filled(parameters, "functions" if tool.legacy else "tools", tool.name)

    def _said(self, response_format: Any, last: Message) -> str:
        kind = response_format.get("type") if isinstance(response_format, dict) else response_format
        if kind == "json_schema":
            given = response_format.get("json_schema")
            schema = given.get("schema", {"type": "object"}) if isinstance(given, dict) else None
            if not isinstance(schema, dict):
                self._reject("Expected a JSON Schema: `response_format.json_schema.schema`.", "response_format")
            return self._filled(schema, "response_format", "json_schema")
        if kind == "json_object":
            schema = _schema_in(self._call.request.messages)
            if schema is None:
                return _json({"message": _GREETING, "you_said": shortened(self._prompt, _MOST_ECHO_CHARS)})
            return self._filled(schema, "messages", "messages")
        if kind not in (None, "text"):
            self._reject(
                "The demo model knows text, json_object and json_schema: `response_format`.", "response_format"
            )
        schema = _schema_in(self._call.request.messages)
        if schema is not None:
            return f"```json\n{self._filled(schema, 'messages', 'messages')}\n```"
        if last.role in _ACTED_ON:
            return f"{_GREETING} The tool returned: {shortened(_text(last), _MOST_ECHO_CHARS)}"
        said = f"{_GREETING} You said: {shortened(_text(last), _MOST_ECHO_CHARS)}"
        first = not any(message.role == "assistant" for message in self._call.request.messages)
        return f"{said}\n\n{_HINT}" if first else said

    def _filled(self, schema: Any, param: str, name: str) -> str:
        """JSON that fits `schema`."""
        most_nodes = max(_MOST_NODES // self._call.request.choices, _FEWEST_NODES)
        try:
            return _json(filled(schema, self._prompt, pause=lambda: gevent.sleep(0), most_nodes=most_nodes))
        except Unfillable:
            self._reject(f"The demo model found nothing that fits the JSON Schema of {name[:64]}: `{param}`.", param)

    def _before(self, text: str, stop: Any) -> str:
        """`text` up to the first of the caller's stop sequences."""
        stops = [stop] if isinstance(stop, str) else stop or []
        if (
            not isinstance(stops, list)
            or len(stops) > _MOST_STOPS
            or not all(isinstance(s, str) and len(s) <= _MOST_STOP_CHARS for s in stops)
        ):
            self._reject(f"Expected a text, or up to {_MOST_STOPS} of them: `stop`.", "stop")
        found = [at for at in (text.find(s) for s in stops if s) if at >= 0]
        return text[: min(found)] if found else text

    def _bound(self, call: ChatCall) -> None:
        """Keeps to the caller's bound on tokens, or to the lower one that its money allows."""
        most = call.request.max_output_tokens if call.max_output_tokens is None else call.max_output_tokens
        if most is None or sum(len(pieces) for pieces in self.pieces) <= most:
            return
        self.finish_reason = "length"
        left = most
        for i, pieces in enumerate(self.pieces):
            self.pieces[i] = pieces[:left]
            left -= len(self.pieces[i])
        if self.tools:
            said = max(sum(1 for pieces in self.pieces if pieces), 1)
            self.tools, self.pieces = self.tools[:said], self.pieces[:said]

    def _decoded(self, name: str) -> Any:
        try:
            return msgspec.json.decode(self._call.request.fields[name])
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


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _called(messages: list[dict[str, Any]]) -> set[str]:
    """The names of the tools that were called since the user's last message."""
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


def _schema_in(messages: list[Message]) -> dict[str, Any] | None:
    """The JSON Schema that a prompt asks an answer for, as instructor and LangChain write it: the last one is it."""
    for message in messages:
        text = _text(message)
        if '"properties"' not in text or "json" not in text.lower() or len(text) > _MOST_PROMPT_SCHEMA_CHARS:
            continue
        schema, at = None, text.find("{")
        for _ in range(_MOST_PROMPT_OBJECTS):
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
