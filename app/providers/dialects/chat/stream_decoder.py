"""Chunks of a completion as events of the neutral form.

Chunks do not say where a block ends: text ends where something else begins, and a tool call when its arguments are
whole and another one begins, or with the stream.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from app.domain.content import Audio, Block, Event, Opaque, Refusal, Started, Stopped, Text, Thinking, ToolCall
from app.domain.usage import Usage
from app.providers.dialects.chat.answer import (
    content_texts,
    decode_logprobs,
    decode_usage,
    first,
    int_of,
    media,
    text_of,
    thought_signature,
)
from app.providers.dialects.chat.errors import reported_error
from app.providers.dialects.chat.history import arguments_text
from app.providers.dialects.chat.stops import FAILURES, decode_stop
from app.providers.dialects.chat.thinking import DETAILS, details_signature, native_signature, reasoning_text
from app.providers.dialects.dialect import StreamReported
from app.providers.dialects.sequencer import Sequencer

_BLOCKS: dict[str, Block] = {"text": Text(text=""), "thinking": Thinking(), "refusal": Refusal(text="")}
_MAX_CALLS = 1024


class _Call:
    """A tool call that comes in pieces."""

    __slots__ = ("arguments", "custom", "id", "key", "name", "signature", "started")

    def __init__(self, key: int) -> None:
        self.key = key
        self.id = self.name = ""
        self.custom = self.started = False
        self.arguments: list[str] = []
        self.signature: Opaque | None = None

    def is_whole(self) -> bool:
        """Says whether the arguments can have no more pieces. Free text always can."""
        if self.custom:
            return False
        try:
            return isinstance(msgspec.json.decode("".join(self.arguments)), dict)
        except (ValueError, RecursionError):
            return False


class ChatStreamDecoder:
    """One vendor stream. See `dialect.StreamDecoder`."""

    def __init__(self, origin: str) -> None:
        self.complete = False
        self._origin = origin
        self._sequencer = Sequencer()
        self._is_started = self._has_refusal = False
        self._said: tuple[str, int] | None = None  # the kind of the block of text or thinking, and its number
        self._number = 0
        self._field = ""  # of the thinking that was not signed
        self._details: list[Any] = []
        self._calls: list[_Call] = []
        self._call_at: dict[int, _Call] = {}
        self._reason: str | None = None
        self._usage: Usage | None = None
        self._tier = ""

    def decode(self, name: str, payload: bytes) -> Iterable[Event]:
        """Returns the events of one chunk."""
        if self.complete or not payload:
            return ()
        if payload == b"[DONE]":
            self.complete = True
            return self._finish()
        chunk = _decode_chunk(payload)
        if chunk.get("error") is not None:
            raise reported_error(payload)
        self._tier = text_of(chunk, "service_tier") or self._tier
        if chunk.get("usage") is not None:
            self._usage = decode_usage(chunk["usage"], self._tier) or self._usage
        choice = first(chunk.get("choices"))
        if choice is None:
            return ()
        events = [] if self._is_started else self._start(chunk)
        reason = text_of(choice, "finish_reason")
        if reason in FAILURES or choice.get("error"):
            raise StreamReported("", payload=payload)
        self._reason = reason or self._reason
        delta = choice.get("delta")
        if not isinstance(delta, dict) or not delta:
            # Some vendors write the whole message in the only chunk.
            delta = choice.get("message") if self._number == 0 and not self._calls else None
        if isinstance(delta, dict):
            events += self._read(delta, decode_logprobs(choice))
        return events

    def end(self) -> Iterable[Event]:
        """A body that ends without `[DONE]` was cut."""
        return ()

    def _start(self, chunk: dict[str, Any]) -> list[Event]:
        self._is_started = True
        return [
            Started(
                id=text_of(chunk, "id"),
                model=text_of(chunk, "model"),
                created=int_of(chunk, "created"),
                service_tier=self._tier,
            )
        ]

    def _read(self, delta: dict[str, Any], logprobs: list[Any] | None) -> list[Event]:
        events: list[Event] = []
        if len(delta) > 1 or "content" not in delta:
            events += self._think(delta)
        for kind, text in content_texts(delta.get("content")):
            events += self._say(kind, text, logprobs)
        if len(delta) == 1 and "content" in delta:
            return events
        if refusal := text_of(delta, "refusal"):
            self._has_refusal = True
            events += self._say("refusal", refusal, None)
        for block in media(delta):
            events += self._whole(block)
        calls = delta.get("tool_calls")
        legacy = delta.get("function_call")
        if not isinstance(calls, list):
            calls = [{"index": 0, "function": legacy}] if isinstance(legacy, dict) else []
        for call in calls:
            if isinstance(call, dict):
                events += self._call(call)
        return events

    def _think(self, delta: dict[str, Any]) -> list[Event]:
        events: list[Event] = []
        field, text = reasoning_text(delta)
        details, native = delta.get(DETAILS), delta.get("thinking_blocks")
        if isinstance(details, list) and details:
            self._details += details
            if not text and (self._said is None or self._said[0] != "thinking"):
                self._field = field
                return events  # often encrypted data behind the text: goes with the end
        if text:
            events += self._say("thinking", text, None)
            self._field = field
        for block in native if isinstance(native, list) else ():
            if isinstance(block, dict):
                events += self._think_natively(block, "" if text else text_of(block, "thinking"))
        return events

    def _think_natively(self, block: dict[str, Any], text: str) -> list[Event]:
        signature = native_signature(block, self._origin)
        if block.get("type") == "redacted_thinking":
            return self._whole(Thinking(signature=signature))
        if not text and signature is None:
            return []
        events = self._say("thinking", text, None)
        if signature is not None and self._said is not None:
            self._field = ""
            self._details = []
            events += self._sequencer.sign(self._said, signature)
            events += self._end_said()
        return events

    def _say(self, kind: str, text: str, logprobs: list[Any] | None) -> list[Event]:
        """Returns the events of more text, thinking or refusal."""
        events: list[Event] = []
        if self._said is None or self._said[0] != kind:
            events += self._end_said()
            events += self._end_whole_calls()
            self._number += 1
            self._said = (kind, self._number)
            events += self._sequencer.start(self._said, _BLOCKS[kind])
        if text:
            events += self._sequencer.delta(self._said, text, logprobs)
        return events

    def _whole(self, block: Block) -> list[Event]:
        """Returns the events of a block that comes in one piece; sound of a stream comes in many such."""
        events = self._end_said() + self._end_whole_calls()
        self._number += 1
        key = ("audio" if isinstance(block, Audio) else "whole", self._number)
        return events + self._sequencer.start(key, block) + self._sequencer.end(key)

    def _end_said(self) -> list[Event]:
        if self._said is None:
            return []
        said, self._said = self._said, None
        events: list[Event] = []
        if said[0] == "thinking" and (self._details or self._field):
            events += self._sequencer.sign(said, self._unsigned())
        return events + self._sequencer.end(said)

    def _unsigned(self) -> Opaque:
        """Returns what tells this vendor's own reasoning, which bears no signature, from another's."""
        details, self._details = self._details, []
        field, self._field = self._field, ""
        return details_signature(self._origin, details) if details else Opaque(self._origin, field, "")

    def _call(self, fields: dict[str, Any]) -> list[Event]:
        events = self._end_said()
        tool = fields.get("custom")
        custom = isinstance(tool, dict)
        if not custom:
            tool = fields.get("function")
        tool = tool if isinstance(tool, dict) else {}
        name = text_of(tool, "name")
        call = self._find(fields, name)
        call.id = call.id or text_of(fields, "id")
        call.custom = call.custom or custom
        signature = thought_signature(fields, self._origin)
        arguments = tool.get("input" if custom else "arguments")
        text = arguments if isinstance(arguments, str) else arguments_text(arguments)
        if call.started:
            return events + self._add(call, text, signature)
        call.name = call.name or name
        call.signature = call.signature or signature
        call.arguments.append(text)
        return events + self._start_call(call) if call.name else events

    def _find(self, fields: dict[str, Any], name: str) -> _Call:
        """Returns the call that a piece belongs to. Vendors leave out its index or its id, or write 0 for each."""
        index, call_id = fields.get("index"), text_of(fields, "id")
        if type(index) is int:
            call = self._call_at.get(index)
            if call is None or (call_id and call.id and call_id != call.id and name):
                call = self._call_at[index] = self._new_call()
            return call
        same = [call for call in self._calls if call_id and call.id == call_id]
        if same or (self._calls and not call_id and not name):
            return same[0] if same else self._calls[-1]
        return self._new_call()

    def _new_call(self) -> _Call:
        if len(self._calls) >= _MAX_CALLS:
            raise ValueError("There are too many tool calls in one answer.")
        call = _Call(len(self._calls))
        self._calls.append(call)
        return call

    def _start_call(self, call: _Call) -> list[Event]:
        events = self._end_whole_calls()
        call.started = True
        block = ToolCall(id=call.id, name=call.name, custom=call.custom, signature=call.signature)
        events += self._sequencer.start(call.key, block)
        text = "".join(call.arguments)
        return events + self._sequencer.delta(call.key, text) if text else events

    def _add(self, call: _Call, text: str, signature: Opaque | None) -> list[Event]:
        if not self._sequencer.is_open(call.key):
            if text.strip() and text != "".join(call.arguments):
                raise ValueError("Arguments came for a tool call that was whole.")
            return []
        events: list[Event] = []
        if text:
            call.arguments.append(text)
            events += self._sequencer.delta(call.key, text)
        if signature is not None and call.signature is None:
            call.signature = signature
            events += self._sequencer.sign(call.key, signature)
        return events

    def _end_whole_calls(self) -> list[Event]:
        return [
            event
            for call in self._calls
            if self._sequencer.is_open(call.key) and call.is_whole()
            for event in self._sequencer.end(call.key)
        ]

    def _finish(self) -> list[Event]:
        events = [] if self._is_started else self._start({})
        events += self._end_said()
        if self._details:
            events += self._whole(Thinking(signature=self._unsigned()))
        for call in self._calls:
            if not call.started:
                events += self._start_call(call)
        events += self._sequencer.end_all()
        stop, native = decode_stop(self._reason, has_calls=bool(self._calls), has_refusal=self._has_refusal)
        events.append(Stopped(stop=stop, native_stop=native, usage=self._usage, service_tier=self._tier))
        return events


def _decode_chunk(payload: bytes) -> dict[str, Any]:
    """Returns the chunk. Half of a surrogate pair in it is replaced: it cannot be written again."""
    try:
        chunk = msgspec.json.decode(payload)
    except (ValueError, RecursionError):
        try:
            text = json.dumps(json.loads(payload), ensure_ascii=False)
            chunk = msgspec.json.decode(text.encode("utf-8", "replace"))
        except RecursionError as exc:
            raise ValueError("A chunk is nested too deeply.") from exc
    if not isinstance(chunk, dict):
        raise ValueError("A chunk is no JSON object.")
    return chunk
