"""Events of the neutral form as chunks of a completion.

Strict clients want `choices` with an `index` in every chunk, a role that is not null, and no `usage` but at the end.
"""

from __future__ import annotations

from typing import Any

from app.domain.body import encode
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
    Signed,
    Started,
    Stopped,
    Text,
    Thinking,
    ToolCall,
)
from app.providers.dialects.chat.answer import (
    SERVICE_TIERS,
    annotate,
    completion_id,
    encode_picture,
    encode_signature,
    encode_sound,
)
from app.providers.dialects.chat.request import TOOL_IDS
from app.providers.dialects.chat.stops import encode_stop
from app.providers.dialects.chat.thinking import encode_block
from app.providers.dialects.dialect import Framing
from app.providers.dialects.openai_usage import encode_usage
from app.providers.dialects.tool_ids import AnswerIds


class ChatStreamEncoder:
    """One caller's stream. See `dialect.StreamEncoder`."""

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._ids = AnswerIds(TOOL_IDS, framing.call_id)
        self._head = self._tail = b""
        self._block: Block = Text(text="")  # the open one
        self._call = -1  # the number of the open tool call
        self._has_arguments = self._has_refusal = False
        self._chars = self._text_start = 0  # of text
        self._thinking: list[str] = []
        self._others = 0  # blocks but thinking
        self._counts = {"thinking_blocks": 0, "images": 0, "annotations": 0}

    def encode(self, event: Event) -> bytes:
        """Returns the chunks of one event."""
        match event:
            case Delta():
                return self._delta(event)
            case BlockStarted():
                return self._start_block(event.block)
            case BlockEnded():
                return self._end_block()
            case Signed():
                return self._sign(event.signature)
            case Cited():
                return self._annotate((event.citation,))
            case Started():
                return self._start(event)
            case Stopped():
                return self._stop(event)

    def ending(self) -> bytes:
        """Returns the mark of a whole stream."""
        return b"data: [DONE]\n\n"

    def _start(self, event: Started) -> bytes:
        framing = self._framing
        head = {
            "id": completion_id(framing),
            "object": "chat.completion.chunk",
            "created": event.created or framing.created,
            "model": event.model or framing.prompt.model,
        }
        if event.service_tier in SERVICE_TIERS:
            head["service_tier"] = event.service_tier
        self._head = b"data: " + encode(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if framing.include_usage else b"]}\n\n"
        return self._chunk({"role": "assistant", "content": ""})

    def _chunk(self, delta: dict[str, Any], logprobs: list[Any] | None = None) -> bytes:
        said = b"null" if logprobs is None else encode({"content": logprobs, "refusal": None})
        choice = b'{"index":0,"delta":%b,"logprobs":%b,"finish_reason":null}' % (encode(delta), said)
        return self._head + choice + self._tail

    def _start_block(self, block: Block) -> bytes:
        self._block = block
        self._others += not isinstance(block, Thinking)
        self._has_refusal = self._has_refusal or isinstance(block, Refusal)
        match block:
            case Thinking():
                self._thinking = [block.text] if block.text else []
                said = self._chunk({"reasoning_content": block.text}) if block.text else b""
                return said + self._sign(block.signature) if block.signature else said
            case ToolCall():
                return self._start_call(block)
            case Text():
                self._text_start = self._chars
                self._chars += len(block.text)
                said = self._chunk({"content": block.text}) if block.text else b""
                return said + self._annotate(block.citations)
            case Refusal() if block.text:
                return self._chunk({"refusal": block.text})
            case Image():
                return self._item("images", encode_picture(block))
            case Audio():
                return self._chunk({"audio": encode_sound(block, self._framing.call_id)})
        return b""

    def _start_call(self, block: ToolCall) -> bytes:
        self._call += 1
        self._has_arguments = bool(block.arguments) or block.custom
        kind, field = ("custom", "input") if block.custom else ("function", "arguments")
        call: dict[str, Any] = {
            "index": self._call,
            "id": self._ids.next(block.id),
            "type": kind,
            kind: {"name": block.name, field: block.arguments},
        }
        if block.signature is not None:
            call |= encode_signature(block.signature)
        return self._chunk({"tool_calls": [call]})

    def _delta(self, event: Delta) -> bytes:
        match self._block:
            case Text():
                self._chars += len(event.text)
                return self._chunk({"content": event.text}, event.logprobs)
            case Thinking():
                self._thinking.append(event.text)
                return self._chunk({"reasoning_content": event.text})
            case Refusal():
                return self._chunk({"refusal": event.text})
            case ToolCall(custom=custom):
                self._has_arguments = True
                piece = {"custom": {"input": event.text}} if custom else {"function": {"arguments": event.text}}
                return self._chunk({"tool_calls": [{"index": self._call, **piece}]})
        return b""

    def _end_block(self) -> bytes:
        if isinstance(self._block, ToolCall) and not self._has_arguments:
            # Clients parse the arguments as JSON, which "" is not.
            return self._chunk({"tool_calls": [{"index": self._call, "function": {"arguments": "{}"}}]})
        return b""

    def _sign(self, signature: Opaque) -> bytes:
        if isinstance(self._block, ToolCall):
            # OpenAI's own SDK wants a function in each piece of a call.
            piece = {"custom": {"input": ""}} if self._block.custom else {"function": {"arguments": ""}}
            return self._chunk({"tool_calls": [{"index": self._call, **piece, **encode_signature(signature)}]})
        thinking = Thinking(text="".join(self._thinking), signature=signature)
        return self._item("thinking_blocks", encode_block(thinking, self._others or None))

    def _item(self, field: str, item: dict[str, Any]) -> bytes:
        """Returns a chunk with one more item of a list: SDKs that put chunks together go by its index."""
        index = self._counts[field]
        self._counts[field] += 1
        return self._chunk({field: [{"index": index, **item}]})

    def _annotate(self, citations: tuple[Any, ...]) -> bytes:
        found = annotate(citations, self._text_start, self._chars)
        return b"".join(self._item("annotations", annotation) for annotation in found)

    def _stop(self, event: Stopped) -> bytes:
        choice = {
            "index": 0,
            "delta": {},
            "logprobs": None,
            "finish_reason": encode_stop(event.stop, has_refusal=self._has_refusal),
        }
        if event.native_stop:
            choice["native_finish_reason"] = event.native_stop
        last = self._head + encode(choice) + self._tail
        if not self._framing.include_usage or event.usage is None:
            return last
        return last + self._head + b'],"usage":%b}\n\n' % encode(encode_usage(event.usage))
