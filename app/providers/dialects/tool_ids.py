"""Tool ids: makes the ids of calls and results valid in another dialect, unique, and the same on both.

Vendors write `functions.Bash:0`, empty ids and one id twice; each dialect accepts another alphabet and length.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict, deque
from typing import NamedTuple

from msgspec.structs import replace

from app.domain.content import Block, Message, Prompt, ToolCall, ToolResult

_HASH_CHARS = 8


class IdRule(NamedTuple):
    """The ids that a dialect accepts: of `allowed` characters (as in a regular expression's class), at most `most`."""

    allowed: str = "a-zA-Z0-9_-"
    most: int = 64

    def clean(self, tool_id: str) -> str:
        """Returns `tool_id` if it is valid, and otherwise an id made of it: the same for the same one, always."""
        if tool_id and len(tool_id) <= self.most and re.fullmatch(f"[{self.allowed}]+", tool_id):
            return tool_id
        digest = hashlib.sha256(tool_id.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARS]
        legible = re.sub(f"[^{self.allowed}]+", "_", tool_id).strip("_")[: self.most - _HASH_CHARS - 1]
        return f"{legible or 'call'}_{digest}"


class AnswerIds:
    """The ids of the calls in one answer: each valid, and no two the same."""

    def __init__(self, rule: IdRule, call_id: str) -> None:
        """`call_id` is the gateway's own, unique: ids that the vendor did not give are made of it."""
        self._rule = rule
        self._call_id = call_id
        self._given: set[str] = set()

    def next(self, tool_id: str) -> str:
        """Returns the id for the next call, to which the vendor gave `tool_id`."""
        position = len(self._given)
        valid = self._rule.clean(tool_id or f"call_{self._call_id}_{position}")
        if valid in self._given:
            valid = self._rule.clean(f"{tool_id}\x00{self._call_id}\x00{position}")
        self._given.add(valid)
        return valid


def with_valid_ids(prompt: Prompt, rule: IdRule) -> Prompt:
    """Returns the prompt with each call's id valid and unique in it, and each result's id that of its call.

    Of several calls with one id, each result belongs to the next that has none yet.
    """
    given: set[str] = set()
    open_calls: defaultdict[str, deque[str]] = defaultdict(deque)
    last: dict[str, str] = {}

    def renamed(block: Block) -> Block:
        if isinstance(block, ToolCall):
            valid = rule.clean(block.id or "call_0")
            if valid in given:
                valid = rule.clean(f"{block.id}\x00{len(given)}")
            given.add(valid)
            open_calls[block.id].append(valid)
            last[block.id] = valid
            return block if valid == block.id else replace(block, id=valid)
        if isinstance(block, ToolResult):
            waiting = open_calls[block.call_id]
            valid = waiting.popleft() if waiting else last.get(block.call_id, rule.clean(block.call_id))
            return block if valid == block.call_id else replace(block, call_id=valid)
        return block

    def renamed_message(message: Message) -> Message:
        blocks = tuple(map(renamed, message.blocks))
        return message if blocks == message.blocks else replace(message, blocks=blocks)

    return replace(prompt, messages=tuple(map(renamed_message, prompt.messages)))
