"""Streamed answers, read into events.

What a stream leaves out is taken from what comes later: from the `done` event of a text or of arguments, from that of
the item, and at last from the finished response.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

from app.domain.content import Event, Refusal, Started, Stopped, Text, Thinking, ToolCall
from app.domain.usage import Usage
from app.providers.dialects.responses.answer import read_item, read_signature
from app.providers.dialects.responses.errors import reported_failure
from app.providers.dialects.responses.items_in import reasoning_text
from app.providers.dialects.responses.names import called_name
from app.providers.dialects.responses.response_object import read_stop
from app.providers.dialects.responses.usage import read_usage
from app.providers.dialects.sequencer import Sequencer

_TextKind = Literal["text", "refusal"]
_BEGINNINGS = ("response.created", "response.queued", "response.in_progress")
_DONE_MARK = b"[DONE]"  # of vendors that end every stream as chat completions do


class StreamedEvent(msgspec.Struct, frozen=True):
    """An event of a stream: of each type the fields that are read."""

    type: str = ""
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    delta: str | None = None
    text: str | None = None
    refusal: str | None = None
    arguments: str | None = None
    input: str | None = None
    logprobs: list[Any] | None = None
    annotation: Any = None
    part: dict[str, Any] | None = None
    item: dict[str, Any] | None = None
    response: dict[str, Any] | None = None


decode_event = msgspec.json.Decoder(StreamedEvent).decode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class ResponsesStreamDecoder:
    """Turns one stream into events. A block is known by its item's place in the output and its own place therein."""

    def __init__(self, origin: str) -> None:
        self.complete = False
        self._origin = origin
        self._sequence = Sequencer()
        self._started = False
        self._written: dict[tuple[int, int], int] = {}  # characters of each block so far; it stays when a block ends
        self._cited: dict[tuple[int, int], int] = {}
        self._parts: dict[int, tuple[str, int]] = {}  # of reasoning items, the part whose text comes
        self._finished: set[int] = set()
        self._has_calls = self._has_refusal = False
        self._handlers: dict[str, Callable[[StreamedEvent], list[Event]]] = {
            **dict.fromkeys(_BEGINNINGS, lambda event: []),
            "response.output_item.added": self._item_added,
            "response.content_part.added": self._part_added,
            "response.output_text.delta": self._text_delta,
            "response.output_text.done": self._text_done,
            "response.output_text.annotation.added": self._annotation_added,
            "response.refusal.delta": self._refusal_delta,
            "response.refusal.done": self._text_done,
            "response.content_part.done": self._part_done,
            "response.reasoning_summary_text.delta": self._reasoning_delta,
            "response.reasoning_text.delta": self._reasoning_delta,
            "response.function_call_arguments.delta": self._arguments_delta,
            "response.function_call_arguments.done": self._arguments_done,
            "response.custom_tool_call_input.delta": self._arguments_delta,
            "response.custom_tool_call_input.done": self._arguments_done,
            "response.output_item.done": self._item_done,
            "response.completed": self._ended,
            "response.incomplete": self._ended,
        }

    def decode(self, name: str, payload: bytes) -> Iterable[Event]:
        if payload.strip() == _DONE_MARK:
            return []
        try:
            event = decode_event(payload)
        except msgspec.ValidationError as exc:
            raise _failure_of(payload) or ValueError(f"an event of another dialect: {exc}") from None
        kind = event.type or name
        if kind in ("error", "response.failed", "response.cancelled") or not kind:
            raise _failure_of(payload) or ValueError("an event without a type")
        handle = self._handlers.get(kind)
        if handle is None or self.complete:
            return []
        events: list[Event] = []
        if not self._started:
            self._started = True
            events.append(_started(event.response or {}))
        return events + handle(event)

    def end(self) -> Iterable[Event]:
        return []

    def _item_added(self, event: StreamedEvent) -> list[Event]:
        item, index = event.item or {}, event.output_index
        if item.get("type") in ("function_call", "custom_tool_call"):
            events = self._start_call(index, item)
            return events + self._rest((index, 0), _arguments(item))
        return []

    def _part_added(self, event: StreamedEvent) -> list[Event]:
        kind = (event.part or {}).get("type")
        if kind not in ("output_text", "refusal"):
            return []
        key = (event.output_index, event.content_index)
        return self._open_text(key, "text" if kind == "output_text" else "refusal")

    def _text_delta(self, event: StreamedEvent) -> list[Event]:
        key = (event.output_index, event.content_index)
        return self._open_text(key, "text") + self._append(key, event.delta or "", event.logprobs or None)

    def _refusal_delta(self, event: StreamedEvent) -> list[Event]:
        key = (event.output_index, event.content_index)
        return self._open_text(key, "refusal") + self._append(key, event.delta or "")

    def _text_done(self, event: StreamedEvent) -> list[Event]:
        key = (event.output_index, event.content_index)
        refused = event.refusal is not None
        whole = event.refusal if refused else event.text
        return self._open_text(key, "refusal" if refused else "text") + self._rest(key, whole or "")

    def _annotation_added(self, event: StreamedEvent) -> list[Event]:
        key = (event.output_index, event.content_index)
        self._cited[key] = self._cited.get(key, 0) + 1
        return self._open_text(key, "text") + self._sequence.cite(key, event.annotation)

    def _part_done(self, event: StreamedEvent) -> list[Event]:
        return self._finish_part(event.output_index, event.content_index, event.part or {})

    def _reasoning_delta(self, event: StreamedEvent) -> list[Event]:
        index = event.output_index
        summary = event.type.startswith("response.reasoning_summary")
        part = ("summary", event.summary_index) if summary else ("content", event.content_index)
        before = self._parts.setdefault(index, part)
        if before[0] != part[0]:
            return []  # an item with both: the text that came first is the one that is shown
        events = [] if self._sequence.is_open((index, 0)) else self._sequence.start((index, 0), Thinking())
        self._parts[index] = part
        break_ = "\n\n" if part[1] != before[1] else ""
        return events + self._append((index, 0), break_ + (event.delta or ""))

    def _arguments_delta(self, event: StreamedEvent) -> list[Event]:
        return self._append((event.output_index, 0), event.delta or "")

    def _arguments_done(self, event: StreamedEvent) -> list[Event]:
        whole = event.arguments if event.arguments is not None else event.input
        return self._rest((event.output_index, 0), whole or "")

    def _item_done(self, event: StreamedEvent) -> list[Event]:
        return self._finish_item(event.output_index, event.item or {})

    def _ended(self, event: StreamedEvent) -> list[Event]:
        response = event.response or {}
        output = response.get("output")
        events: list[Event] = []
        for index, item in enumerate(output if isinstance(output, list) else ()):
            if index not in self._finished and isinstance(item, dict):
                events += self._finish_item(index, item)
        events += self._sequence.end_all()
        if event.type == "response.incomplete":
            response = {**response, "status": "incomplete"}
        stop, native = read_stop({**response, "status": response.get("status") or "completed"}, [])
        if stop == "end":
            stop = "tool_calls" if self._has_calls else "refusal" if self._has_refusal else "end"
        self.complete = True
        usage: Usage | None = read_usage(response)
        tier = response.get("service_tier")
        tier = tier if isinstance(tier, str) else ""
        return [*events, Stopped(stop=stop, native_stop=native, usage=usage, service_tier=tier)]

    def _finish_item(self, index: int, item: dict[str, Any]) -> list[Event]:
        if index in self._finished:
            return []
        self._finished.add(index)
        kind = item.get("type")
        if kind == "message":
            content = item.get("content")
            parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
            events = [found for i, part in enumerate(parts) for found in self._finish_part(index, i, part)]
            left = [key for key in self._written if key[0] == index and self._sequence.is_open(key)]
            return events + [found for key in left for found in self._sequence.end(key)]
        if kind in ("function_call", "custom_tool_call"):
            events = [] if (index, 0) in self._written else self._start_call(index, item)
            return events + self._rest((index, 0), _arguments(item)) + self._sequence.end((index, 0))
        if kind == "reasoning":
            return self._finish_reasoning(index, item)
        events = []
        for i, block in enumerate(read_item(item, self._origin)):
            events += self._sequence.start((index, i), block) + self._sequence.end((index, i))
        return events

    def _finish_part(self, index: int, place: int, part: dict[str, Any]) -> list[Event]:
        key = (index, place)
        refused = part.get("type") == "refusal"
        if not refused and part.get("type") != "output_text":
            return []
        if key in self._written and not self._sequence.is_open(key):
            return []
        events = self._open_text(key, "refusal" if refused else "text")
        text = part.get("refusal" if refused else "text")
        events += self._rest(key, text if isinstance(text, str) else "")
        cited = part.get("annotations")
        for citation in cited[self._cited.get(key, 0) :] if isinstance(cited, list) else ():
            events += self._sequence.cite(key, citation)
        return events + self._sequence.end(key)

    def _finish_reasoning(self, index: int, item: dict[str, Any]) -> list[Event]:
        signature, text = read_signature(item, self._origin), reasoning_text(item)
        key = (index, 0)
        events: list[Event] = []
        if not self._sequence.is_open(key):
            if not text and signature is None:
                return []
            events += self._sequence.start(key, Thinking())
            events += self._append(key, text) if text else []
        if signature is not None:
            events += self._sequence.sign(key, signature)
        return events + self._sequence.end(key)

    def _start_call(self, index: int, item: dict[str, Any]) -> list[Event]:
        self._has_calls = True
        self._written[index, 0] = 0
        call_id, custom = str(item.get("call_id") or ""), item.get("type") == "custom_tool_call"
        return self._sequence.start((index, 0), ToolCall(id=call_id, name=called_name(item), custom=custom))

    def _open_text(self, key: tuple[int, int], kind: _TextKind) -> list[Event]:
        if key in self._written:
            return []
        self._written[key] = 0
        self._has_refusal = self._has_refusal or kind == "refusal"
        return self._sequence.start(key, Refusal(text="") if kind == "refusal" else Text(text=""))

    def _append(self, key: tuple[int, int], text: str, logprobs: list[Any] | None = None) -> list[Event]:
        self._written[key] = self._written.get(key, 0) + len(text)
        return self._sequence.delta(key, text, logprobs) if text or logprobs else []

    def _rest(self, key: tuple[int, int], whole: str) -> list[Event]:
        """Returns what of the `whole` text has not come in pieces."""
        return self._append(key, whole[self._written.get(key, 0) :]) if self._sequence.is_open(key) else []


def _started(response: dict[str, Any]) -> Started:
    created, tier = response.get("created_at"), response.get("service_tier")
    return Started(
        id=str(response.get("id") or ""),
        model=str(response.get("model") or ""),
        created=int(created) if isinstance(created, int | float) else 0,
        service_tier=tier if isinstance(tier, str) else "",
    )


def _arguments(item: dict[str, Any]) -> str:
    arguments = item.get("input" if item.get("type") == "custom_tool_call" else "arguments")
    return arguments if isinstance(arguments, str) else ""


def _failure_of(payload: bytes) -> Exception | None:
    """Returns the error that an event reports, if it reports one."""
    try:
        event = _decode_object(payload)
    except (msgspec.DecodeError, RecursionError):
        return None
    response = event.get("response")
    if isinstance(response, dict):
        return reported_failure(response, payload)
    return reported_failure(event, payload) if event.get("type") == "error" or event.get("error") else None
