"""Streamed answers, written from events: the grammar that OpenAI's and Codex's accumulators read."""

from __future__ import annotations

from typing import Any

import msgspec

from app.domain.content import (
    Audio,
    Block,
    BlockEnded,
    BlockStarted,
    Cited,
    Delta,
    Event,
    Image,
    Opaque,
    Refusal,
    ServerTool,
    Signed,
    Started,
    Stopped,
    Text,
    Thinking,
    ToolCall,
)
from app.errors import GatewayError
from app.providers.dialects.dialect import Framing
from app.providers.dialects.responses.answer_items import AnswerItems, finished_call
from app.providers.dialects.responses.errors import failure
from app.providers.dialects.responses.items_out import output_image
from app.providers.dialects.responses.parts import to_annotation, to_annotations
from app.providers.dialects.responses.response_object import ended, response_object
from app.providers.dialects.responses.signatures import AFTER, BEFORE, signature_item

_encode = msgspec.json.Encoder().encode


def sse(name: str, payload: bytes) -> bytes:
    """Returns one event as clients of the dialect read it: both by its name and by its type."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), payload)


class ResponsesStreamEncoder:
    """Writes one stream. Texts that follow each other are parts of one message."""

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._make = AnswerItems(framing)
        self._number = 0  # of the next event
        self._response: dict[str, Any] | None = None
        self._output: list[dict[str, Any]] = []  # finished items
        self._message: list[dict[str, Any]] | None = None  # finished parts of the open message
        self._block: Block | None = None  # the open one
        self._item: dict[str, Any] = {}  # of the open call
        self._text: list[str] = []
        self._logprobs: list[Any] = []
        self._cited: list[dict[str, Any]] = []
        self._signature: Opaque | None = None
        self._refused = False
        self._stopped: Stopped | None = None

    def encode(self, event: Event) -> bytes:
        if isinstance(event, Delta):
            return self._delta(event)
        if isinstance(event, BlockStarted):
            return self._start(event.block)
        if isinstance(event, BlockEnded):
            return self._end_block()
        if isinstance(event, Started):
            return self._begin(event)
        if isinstance(event, Stopped):
            self._stopped = event
            return self._end_message()
        if isinstance(event, Cited):
            return self._cite(event.citation)
        if isinstance(event, Signed):
            self._signature = event.signature
        return b""

    def ending(self) -> bytes:
        stopped = self._stopped
        if stopped is None or self._response is None:
            return b""
        response = ended(self._response, self._output, stopped.stop, stopped.usage, refused=self._refused)
        if stopped.service_tier:
            response["service_tier"] = stopped.service_tier
        return self._event(f"response.{response['status']}", response=response)

    def failed(self, error: GatewayError) -> bytes:
        """Returns the events that end the stream with an error."""
        begun = b"" if self._response is not None else self._begin(Started(id="", model=""))
        response = {**(self._response or {}), "status": "failed", "error": failure(error), "output": self._output}
        return begun + self._event("response.failed", response=response)

    def _event(self, kind: str, **fields: Any) -> bytes:
        number = self._number
        self._number += 1
        return sse(kind, _encode({"type": kind, "sequence_number": number, **fields}))

    def _begin(self, event: Started) -> bytes:
        response = response_object(
            self._framing, answer_id=event.id, model=event.model, created=event.created, tier=event.service_tier
        )
        self._response = response
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    @property
    def _index(self) -> int:
        return len(self._output)

    def _start(self, block: Block) -> bytes:
        self._block, self._text, self._cited, self._logprobs, self._signature = block, [], [], [], None
        if isinstance(block, Text | Refusal):
            return self._start_part(block)
        if isinstance(block, Audio):
            self._block = Text(text=block.transcript)
            return self._start_part(self._block)
        before = self._end_message()
        if isinstance(block, Thinking):
            self._signature = block.signature
            item = self._make.reasoning(self._index, "", None)
            return before + self._added(item) + (self._write(block.text) if block.text else b"")
        if isinstance(block, ToolCall):
            return before + self._start_call(block)
        if isinstance(block, Image) and block.source.data is not None:
            done = output_image(block, self._make.item_id("image_generation_call", self._index))
            return before + self._added({**done, "status": "in_progress", "result": None}) + self._done(done)
        if isinstance(block, ServerTool) and block.dialect == "responses":
            return before + self._added(block.value) + self._done(block.value)
        return before

    def _start_part(self, block: Text | Refusal) -> bytes:
        out = b""
        if self._message is None:
            self._message = []
            out = self._added(self._make.message(self._index, [], "in_progress"))
        refusal = isinstance(block, Refusal)
        self._refused = self._refused or refusal
        part = {"type": "refusal", "refusal": ""} if refusal else _text_part("", [], [])
        out += self._event("response.content_part.added", **self._place(), part=part)
        if isinstance(block, Text):
            self._cited = to_annotations(block.citations, len(block.text))
        return out + (self._write(block.text) if block.text else b"")

    def _start_call(self, block: ToolCall) -> bytes:
        out = b""
        if block.signature is not None:
            item = signature_item(block.signature, self._make.item_id("reasoning", self._index), place=BEFORE)
            out = self._added({**item, "encrypted_content": None}) + self._done(item)
        self._item = self._make.call(self._index, block)
        out += self._added(self._item)
        return out + (self._write(block.arguments) if block.arguments else b"")

    def _delta(self, event: Delta) -> bytes:
        if event.logprobs:
            self._logprobs += event.logprobs
        return self._write(event.text, event.logprobs)

    def _write(self, text: str, logprobs: list[Any] | None = None) -> bytes:
        """Returns the event for a piece of the open block."""
        block = self._block
        first = not self._text
        self._text.append(text)
        if isinstance(block, Text):
            return self._event("response.output_text.delta", **self._place(), delta=text, logprobs=logprobs or [])
        if isinstance(block, Refusal):
            return self._event("response.refusal.delta", **self._place(), delta=text)
        if isinstance(block, ToolCall):
            kind = "custom_tool_call_input" if block.custom else "function_call_arguments"
            place = {"item_id": self._item["id"], "output_index": self._index}
            return self._event(f"response.{kind}.delta", **place, delta=text)
        place = self._summary_place()
        part = {"type": "summary_text", "text": ""}
        out = self._event("response.reasoning_summary_part.added", **place, part=part) if first else b""
        return out + self._event("response.reasoning_summary_text.delta", **place, delta=text)

    def _cite(self, citation: Any) -> bytes:
        found = to_annotation(citation, sum(map(len, self._text)))
        if found is None or not isinstance(self._block, Text):
            return b""
        self._cited.append(found)
        place = {**self._place(), "annotation_index": len(self._cited) - 1}
        return self._event("response.output_text.annotation.added", **place, annotation=found)

    def _end_block(self) -> bytes:
        block, text = self._block, "".join(self._text)
        self._block = None
        if isinstance(block, Text):
            part = _text_part(text, self._cited, self._logprobs)
            done = self._event("response.output_text.done", **self._place(), text=text, logprobs=self._logprobs)
            return done + self._part_done(part)
        if isinstance(block, Refusal):
            part = {"type": "refusal", "refusal": text}
            return self._event("response.refusal.done", **self._place(), refusal=text) + self._part_done(part)
        if isinstance(block, Thinking):
            return self._end_thinking(text)
        return self._end_call(block, text) if isinstance(block, ToolCall) else b""

    def _end_thinking(self, text: str) -> bytes:
        out = b""
        if self._text:
            place, part = self._summary_place(), {"type": "summary_text", "text": text}
            out = self._event("response.reasoning_summary_text.done", **place, text=text)
            out += self._event("response.reasoning_summary_part.done", **place, part=part)
        return out + self._done(self._make.reasoning(self._index, text, self._signature))

    def _end_call(self, block: ToolCall, text: str) -> bytes:
        item = finished_call(self._item, text)
        place = {"item_id": item["id"], "output_index": self._index}
        if block.custom:
            out = self._event("response.custom_tool_call_input.done", **place, input=text)
        else:
            named = {"name": item["name"], "arguments": item["arguments"]}
            # Accumulators add up the pieces: arguments that were left out are a piece, too.
            missing = b"" if text else self._event("response.function_call_arguments.delta", **place, delta="{}")
            out = missing + self._event("response.function_call_arguments.done", **place, **named)
        out += self._done(item)
        if self._signature is not None:
            signed = signature_item(self._signature, self._make.item_id("reasoning", self._index), place=AFTER)
            out += self._added({**signed, "encrypted_content": None}) + self._done(signed)
        return out

    def _part_done(self, part: dict[str, Any]) -> bytes:
        out = self._event("response.content_part.done", **self._place(), part=part)
        if self._message is not None:
            self._message.append(part)
        return out

    def _end_message(self) -> bytes:
        if self._message is None:
            return b""
        parts, self._message = self._message, None
        return self._done(self._make.message(self._index, parts))

    def _place(self) -> dict[str, Any]:
        """Returns where the open part of the open message is."""
        place = {"item_id": self._make.item_id("message", self._index), "output_index": self._index}
        return {**place, "content_index": len(self._message or ())}

    def _summary_place(self) -> dict[str, Any]:
        place = {"item_id": self._make.item_id("reasoning", self._index), "output_index": self._index}
        return {**place, "summary_index": 0}

    def _added(self, item: dict[str, Any]) -> bytes:
        return self._event("response.output_item.added", output_index=self._index, item=item)

    def _done(self, item: dict[str, Any]) -> bytes:
        out = self._event("response.output_item.done", output_index=self._index, item=item)
        self._output.append(item)
        return out


def _text_part(text: str, cited: list[dict[str, Any]], logprobs: list[Any]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": cited, "logprobs": logprobs}
