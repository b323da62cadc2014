"""Turns: the neutral form's messages in the order that this dialect demands.

Users and the assistant take turns; the results of calls come first in the turn after them; what the system says at the
beginning stands in a field of its own, and may stand between turns only behind a user's, with newer models.
"""

from __future__ import annotations

from typing import Literal

from app.domain.content import Block, Message, Prompt, ToolResult
from app.providers.dialects.dialect import Outgoing
from app.providers.dialects.messages.thinking import TITLE, takes_effort, version

_SYSTEM_TURNS_FROM = (4, 8)


class Turn:
    """Neighbouring messages of one role."""

    def __init__(self, role: Literal["user", "assistant", "system"], blocks: tuple[Block, ...] = ()) -> None:
        self.role = role
        self.results = [block for block in blocks if isinstance(block, ToolResult)]
        self.others = [block for block in blocks if not isinstance(block, ToolResult)]

    @property
    def blocks(self) -> list[Block]:
        return [*self.results, *self.others]

    def add(self, blocks: tuple[Block, ...]) -> None:
        more = Turn(self.role, blocks)
        self.results += more.results
        self.others += more.others


def split(prompt: Prompt, outgoing: Outgoing) -> tuple[list[Block], list[Turn]]:
    """Returns the system prompt and the turns. Refuses a begun answer where the model does not continue one."""
    messages = list(prompt.messages)
    system: list[Block] = []
    while messages and messages[0].role in ("system", "developer"):
        system += messages.pop(0).blocks
    turns = _turns(messages)
    if version(outgoing.model) < _SYSTEM_TURNS_FROM:
        moved = [turn for turn in turns if turn.role == "system"]
        if moved:
            outgoing.leave_out("messages[].role")
            system += [block for turn in moved for block in turn.blocks]
            turns = _merged([turn for turn in turns if turn.role != "system"])
    else:
        turns = _behind_users(turns, system)
    last = len(prompt.messages) - 1
    if turns and turns[-1].role == "assistant" and takes_effort(outgoing.model):
        outgoing.refuse(f"messages[{last}]", TITLE)
        turns.pop()
    return system, turns


def _turns(messages: list[Message]) -> list[Turn]:
    turns: list[Turn] = []
    for message in messages:
        role: Literal["user", "assistant", "system"] = "system" if message.role == "developer" else message.role
        blocks = message.blocks
        if turns and turns[-1].role == "system" and any(isinstance(block, ToolResult) for block in blocks):
            # Nothing may stand between a call and its result.
            results = tuple(block for block in blocks if isinstance(block, ToolResult))
            blocks = tuple(block for block in blocks if not isinstance(block, ToolResult))
            before = next(i for i in range(len(turns), 0, -1) if i == 1 or turns[i - 2].role != "system")
            if before > 1 and turns[before - 2].role == "user":
                turns[before - 2].add(results)
            else:
                turns.insert(before - 1, Turn("user", results))
            if not blocks:
                continue
        if turns and turns[-1].role == role:
            turns[-1].add(blocks)
        else:
            turns.append(Turn(role, blocks))
    return turns


def _merged(turns: list[Turn]) -> list[Turn]:
    merged: list[Turn] = []
    for turn in turns:
        if merged and merged[-1].role == turn.role:
            merged[-1].add(tuple(turn.blocks))
        else:
            merged.append(turn)
    return merged


def _behind_users(turns: list[Turn], system: list[Block]) -> list[Turn]:
    """Moves each of the system's turns behind the next user's; to the beginning if no user's follows."""
    moved: list[Turn] = []
    waiting: list[Turn] = []
    for turn in turns:
        if turn.role == "system" and not (moved and moved[-1].role == "user"):
            waiting.append(turn)
            continue
        moved.append(turn)
        if turn.role == "user" and waiting:
            moved.append(Turn("system", tuple(block for each in waiting for block in each.blocks)))
            waiting = []
    system += [block for turn in waiting for block in turn.blocks]
    return _merged(moved)
