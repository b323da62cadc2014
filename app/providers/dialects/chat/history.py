"""Messages of a conversation, to and from the neutral form.

A run of tool messages is one user's message of results there. Pictures and documents in a result, which have no place
in a tool message, go into a user's message behind the results.
"""

from __future__ import annotations

from typing import Any

from app.domain.body import encode
from app.domain.content import (
    Audio,
    Block,
    Document,
    Image,
    Message,
    Opaque,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from app.providers.dialects import carrier
from app.providers.dialects.chat.parts import TITLE, decode_content, encode_parts
from app.providers.dialects.chat.thinking import replay, take_thinking
from app.providers.dialects.dialect import Outgoing
from app.providers.dialects.fields import Fields

THOUGHT_SIGNATURE = "thought_signature"


class HistoryDecoder:
    """Reads the messages of one request."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._results: list[ToolResult] = []
        self._custom_ids: set[str] = set()

    def decode(self, messages: list[Fields]) -> tuple[Message, ...]:
        """Returns the messages."""
        for message in messages:
            role = message.text("role")
            if role == "tool":
                self._results.append(self._result(message))
                continue
            self._end_results()
            if role == "function":
                message.is_foreign("function")
                continue
            blocks = self._assistant(message) if role == "assistant" else decode_content(message)
            name = message.text("name")
            message.rest_is_hint()
            self._messages.append(Message(role=role, blocks=tuple(blocks), name=name))  # type: ignore[arg-type]
        self._end_results()
        return tuple(self._messages)

    def _end_results(self) -> None:
        if self._results:
            self._messages.append(Message(role="user", blocks=tuple(self._results)))
            self._results = []

    def _result(self, message: Fields) -> ToolResult:
        content = decode_content(message)
        cache = next((block.cache for block in reversed(content) if block.cache is not None), None)
        call_id = message.text("tool_call_id")
        result = ToolResult(
            call_id=call_id,
            content=tuple(block for block in content if isinstance(block, Text | Image | Document | Audio)),
            name=message.text("name"),
            custom=call_id in self._custom_ids,
            cache=cache,
        )
        message.rest_is_hint()
        return result

    def _assistant(self, message: Fields) -> list[Block]:
        thinking = take_thinking(message)
        blocks = decode_content(message)
        refusal = message.text("refusal")
        if refusal:
            blocks.append(Refusal(text=refusal))
        if blocks == [Text(text="")]:
            blocks = []  # beside tool calls, some clients write "" for null
        blocks += [call for fields in message.objects("tool_calls") if (call := self._call(fields)) is not None]
        for field in ("function_call", "audio"):
            value = message.any(field)
            if value is not None:
                message.notes.foreign[message.at(field)] = value
        for offset, (position, block) in enumerate(thinking):
            blocks.insert(max(position, offset), block)
        return blocks

    def _call(self, fields: Fields) -> ToolCall | None:
        kind = fields.text("type") or "function"
        if kind not in ("function", "custom"):
            fields.is_foreign(kind)
            return None
        call_id = fields.text("id")
        fields.any("index")
        signature = _take_signature(fields)
        inner = Fields(fields.require(kind, dict), fields.at(kind), fields.notes)
        name = inner.require("name", str)
        fields.rest_is_hint()
        if kind == "custom":
            self._custom_ids.add(call_id)
            return ToolCall(id=call_id, name=name, arguments=inner.text("input"), custom=True, signature=signature)
        arguments = inner.any("arguments")
        return ToolCall(id=call_id, name=name, arguments=arguments_text(arguments), signature=signature)


def _take_signature(fields: Fields) -> Opaque | None:
    """Returns what a caller replays in `extra_content.google.thought_signature`; the caller's own stays out."""
    extra = fields.object("extra_content")
    google = extra.object("google") if extra is not None else None
    if google is None:
        return None
    blob = google.text(THOUGHT_SIGNATURE)
    signature = carrier.unpack(blob)
    if blob and signature is None:
        google.notes.hints[google.at(THOUGHT_SIGNATURE)] = blob
    return signature


def arguments_text(arguments: object) -> str:
    """Returns a call's arguments as JSON text, "" for none; some vendors and clients write the object itself."""
    if not isinstance(arguments, str):
        return encode(arguments).decode() if arguments else ""
    return "" if arguments.strip() in ("{}", "") else arguments


def encode_messages(messages: tuple[Message, ...], outgoing: Outgoing, *, developer: bool) -> list[dict[str, Any]]:
    """Returns the messages. `developer`: the vendor knows the role, which is system's otherwise."""
    encoded: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "assistant":
            encoded += _encode_assistant(message, outgoing)
            continue
        results = [block for block in message.blocks if isinstance(block, ToolResult)]
        encoded += [_encode_result(result, outgoing) for result in results]
        moved: list[Block] = [block for result in results for block in result.content if not isinstance(block, Text)]
        rest = moved + [block for block in message.blocks if not isinstance(block, ToolResult | Thinking)]
        if rest:
            role = "system" if message.role == "developer" and not developer else message.role
            encoded.append(_named(message, role, _content(encode_parts(rest, outgoing))))
    return encoded


def _encode_assistant(message: Message, outgoing: Outgoing) -> list[dict[str, Any]]:
    said: list[Block] = []
    thinking: list[Thinking] = []
    calls: list[dict[str, Any]] = []
    for block in message.blocks:
        match block:
            case Thinking():
                thinking.append(block)
            case ToolCall():
                calls.append(_encode_call(block, outgoing.origin))
            case Text() | Refusal():
                said.append(block)
            case _:
                outgoing.refuse(f"messages.{type(block).__name__.lower()}", TITLE)
    replayed = replay(thinking, outgoing.origin)
    if thinking and not replayed:
        outgoing.leave_out("thinking")
    if not (said or calls or replayed):
        return []
    encoded = _named(message, "assistant", None)
    if len(said) == 1 and isinstance(said[0], Refusal):
        encoded["refusal"] = said[0].text
    elif said:
        encoded["content"] = _content(encode_parts(said, outgoing))
    if calls:
        encoded["tool_calls"] = calls
    return [encoded | replayed]


def _encode_call(call: ToolCall, origin: str) -> dict[str, Any]:
    kind, field = ("custom", "input") if call.custom else ("function", "arguments")
    arguments = call.arguments if call.custom else call.arguments or "{}"
    encoded: dict[str, Any] = {"id": call.id, "type": kind, kind: {"name": call.name, field: arguments}}
    if call.signature is not None and call.signature.origin == origin:
        encoded["extra_content"] = {"google": {THOUGHT_SIGNATURE: call.signature.data}}
    return encoded


def _encode_result(result: ToolResult, outgoing: Outgoing) -> dict[str, Any]:
    if result.is_error:
        outgoing.leave_out("is_error")
    texts: list[Block] = [block for block in result.content if isinstance(block, Text)]
    content = _content(encode_parts(texts, outgoing))
    if not texts and result.content:
        content = "The result is in the user's message below."
    return {"role": "tool", "tool_call_id": result.call_id, "content": content}


def _named(message: Message, role: str, content: Any) -> dict[str, Any]:
    encoded = {"role": role, "content": content}
    return {**encoded, "name": message.name} if message.name else encoded


def _content(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Returns one text as a string, which every server knows; otherwise the parts."""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts or ""
