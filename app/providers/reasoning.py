"""Reasoning of vendors on behalf of callers that do not send it back.

Many clients of chat completions leave out every field that they do not know, and with them the signatures that vendors
want to see again in a tool loop. The reasoning before a tool call is therefore kept under the call's id, and put back
in its place when the call comes again without it. It goes to the provider that wrote it, and to no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from app.domain.content import (
    Answer,
    Block,
    BlockStarted,
    Delta,
    Event,
    Message,
    Opaque,
    Prompt,
    Signed,
    Thinking,
    ToolCall,
)
from app.providers.dialects.tool_ids import AnswerIds, IdRule

# Ids that every vendor of chat completions takes.
_CHAT_IDS = IdRule(most=40)
# Calls of one conversation that are looked up, the newest first.
_MAX_RECALLED, _MAX_RECALLED_BYTES = 200, 1_048_576


class ReasoningMemory(NamedTuple):
    """A store of reasoning, by API key and tool call id. Neither function raises: it is a loss, and no failure."""

    recall: Callable[[str, Sequence[str]], Mapping[str, bytes]]
    remember: Callable[[str, Mapping[str, bytes]], None]


NO_MEMORY = ReasoningMemory(lambda key_id, call_ids: {}, lambda key_id, entries: None)


class _Kept(msgspec.Struct, frozen=True):
    """Reasoning of one call: the blocks before it, and its own signature."""

    thinking: tuple[Thinking, ...]
    signature: Opaque | None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Kept).decode


def recalled(prompt: Prompt, key_id: str, memory: ReasoningMemory) -> Prompt:
    """Returns the prompt with the reasoning that its tool calls came with, where they come without any."""
    missing = [
        block.id
        for message in prompt.messages
        if not _has_reasoning(message)
        for block in message.blocks
        if isinstance(block, ToolCall)
    ]
    kept = dict(memory.recall(key_id, missing[-_MAX_RECALLED:])) if missing else {}
    # The newest: it is what vendors insist on.
    room = _MAX_RECALLED_BYTES
    for call_id in [name for name in dict.fromkeys(reversed(missing)) if name in kept]:
        room -= len(kept[call_id])
        if room < 0:
            del kept[call_id]
    if not kept:
        return prompt
    return replace(prompt, messages=tuple(_with_reasoning(message, kept) for message in prompt.messages))


def _has_reasoning(message: Message) -> bool:
    return any(
        (isinstance(block, Thinking) and block.signature is not None)
        or (isinstance(block, ToolCall) and block.signature is not None)
        for block in message.blocks
    )


def _with_reasoning(message: Message, kept: dict[str, bytes]) -> Message:
    """Takes what it uses out of `kept`: a call that stands in the history twice gets its reasoning once."""
    if _has_reasoning(message):
        return message
    blocks: list[Block] = []
    for block in message.blocks:
        data = kept.pop(block.id, None) if isinstance(block, ToolCall) else None
        if isinstance(block, ToolCall) and data is not None:
            try:
                found = _decode(data)
            except ValueError:
                found = _Kept((), None)
            blocks += found.thinking
            block = replace(block, signature=found.signature)
        blocks.append(block)
    return replace(message, blocks=tuple(blocks))


class ReasoningCollector:
    """Collects the reasoning of one answer to a caller of chat completions, and gives its tool calls their ids."""

    def __init__(self, key_id: str, call_id: str, memory: ReasoningMemory) -> None:
        self._key_id = key_id
        self._memory = memory
        self._ids = AnswerIds(_CHAT_IDS, call_id)
        self._thinking: list[Thinking] = []
        self._open: Thinking | None = None
        self._texts: list[str] = []
        self._call_id = ""
        self._kept: dict[str, _Kept] = {}

    def answer(self, answer: Answer) -> Answer:
        """Returns the answer with the ids under which its reasoning is kept."""
        blocks = tuple(map(self._block, answer.blocks))
        self._remember()
        return replace(answer, blocks=blocks)

    def feed(self, event: Event) -> Iterable[Event]:
        """Returns the event to write for `event`. A call's reasoning is kept by the time that the call is whole."""
        if isinstance(event, BlockStarted):
            self._close_thinking()
            if isinstance(event.block, Thinking):
                self._open = event.block
                self._texts = [event.block.text]
            return (replace(event, block=self._block(event.block)),)
        if isinstance(event, Delta):
            if self._open is not None:
                self._texts.append(event.text)
        elif isinstance(event, Signed):
            if self._open is not None:
                self._open = replace(self._open, signature=event.signature)
            elif self._call_id:
                self._kept[self._call_id] = replace(
                    self._kept.get(self._call_id, _Kept((), None)), signature=event.signature
                )
        else:
            self._close_thinking()
            self._remember()
        return (event,)

    def _block(self, block: Block) -> Block:
        if isinstance(block, Thinking):
            if self._open is None and block.signature is not None:
                self._thinking.append(block)
            return block
        if not isinstance(block, ToolCall):
            return block
        self._call_id = self._ids.next(block.id)
        if self._thinking or block.signature is not None:
            self._kept[self._call_id] = _Kept(tuple(self._thinking), block.signature)
            self._thinking = []
        return block if block.id == self._call_id else replace(block, id=self._call_id)

    def _close_thinking(self) -> None:
        if self._open is not None and self._open.signature is not None:
            self._thinking.append(replace(self._open, text="".join(self._texts)))
        self._open = None

    def _remember(self) -> None:
        if self._kept:
            self._memory.remember(self._key_id, {call_id: _encode(kept) for call_id, kept in self._kept.items()})
            self._kept = {}
