"""Sequencer: puts the blocks of a vendor's stream one after the other, where the vendor writes several at once.

The first block that has not ended is open, and its pieces go out at once. Pieces of the blocks behind it wait until it
has ended. What waits is bounded.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from msgspec.structs import replace

from app.domain.content import Block, BlockEnded, BlockStarted, Cited, Delta, Event, Opaque, Signed

_MAX_WAITING_CHARS = 8_388_608
_MAX_WAITING_EVENTS = 65_536


class _Waiting:
    """A block that has not ended, and what came of it that could not go out yet."""

    __slots__ = ("ended", "events")

    def __init__(self, block: Block) -> None:
        self.events: list[Event] = [BlockStarted(index=0, block=block)]
        self.ended = False


class Sequencer:
    """Numbers the blocks of one stream. Each method returns the events that are due: perhaps none, perhaps many.

    `key` is whatever the vendor tells its blocks apart by; it may be used again when its block has ended.
    """

    def __init__(self) -> None:
        self._blocks: dict[Hashable, _Waiting] = {}
        self._index = -1
        self._waiting_chars = 0
        self._waiting_events = 0

    @property
    def open_key(self) -> Hashable:
        """The key of the open block; None if none is open."""
        return next(iter(self._blocks), None)

    def is_open(self, key: Hashable) -> bool:
        """Says whether a block was started under `key` and has not ended, whether or not it waits."""
        return key in self._blocks and not self._blocks[key].ended

    def start(self, key: Hashable, block: Block) -> list[Event]:
        """Starts a block. Raises `ValueError` if one with this key has not ended."""
        if key in self._blocks:
            raise ValueError(f"The block {key!r} has started twice.")
        waiting = self._blocks[key] = _Waiting(block)
        self._count(1, 0)
        return self._release(waiting) if len(self._blocks) == 1 else []

    def delta(self, key: Hashable, text: str, logprobs: list[Any] | None = None) -> list[Event]:
        """Adds text to a block."""
        return self._add(key, Delta(index=self._index, text=text, logprobs=logprobs))

    def sign(self, key: Hashable, signature: Opaque) -> list[Event]:
        """Adds the signature of a block."""
        return self._add(key, Signed(index=self._index, signature=signature))

    def cite(self, key: Hashable, citation: Any) -> list[Event]:
        """Adds a citation to a block of text."""
        return self._add(key, Cited(index=self._index, citation=citation))

    def end(self, key: Hashable) -> list[Event]:
        """Ends a block, and opens the next one that waits. Raises `ValueError` for a block that was not started."""
        waiting = self._waiting(key)
        waiting.ended = True
        if key != self.open_key:
            return []
        events: list[Event] = []
        while self._blocks:
            key, waiting = next(iter(self._blocks.items()))
            events += self._release(waiting)
            if not waiting.ended:
                break
            events.append(BlockEnded(index=self._index))
            del self._blocks[key]
        return events

    def end_all(self) -> list[Event]:
        """Ends all blocks, in the order in which they were started."""
        return [event for key in list(self._blocks) if key in self._blocks for event in self.end(key)]

    def _add(self, key: Hashable, event: Delta | Signed | Cited) -> list[Event]:
        waiting = self._waiting(key)
        if key == self.open_key:
            return [event]
        waiting.events.append(event)
        self._count(1, _size(event))
        return []

    def _waiting(self, key: Hashable) -> _Waiting:
        waiting = self._blocks.get(key)
        if waiting is None or waiting.ended:
            raise ValueError(f"The block {key!r} has not started, or has ended.")
        return waiting

    def _release(self, waiting: _Waiting) -> list[Event]:
        """Returns what waits of the block that is open now, under its number."""
        if not waiting.events:
            return []
        events, waiting.events = waiting.events, []
        self._index += 1
        self._waiting_events -= len(events)
        self._waiting_chars -= sum(map(_size, events))
        return [replace(event, index=self._index) for event in events]

    def _count(self, events: int, chars: int) -> None:
        self._waiting_events += events
        self._waiting_chars += chars
        if self._waiting_events > _MAX_WAITING_EVENTS or self._waiting_chars > _MAX_WAITING_CHARS:
            raise ValueError("Too much waits for a block that does not end.")


def _size(event: Event) -> int:
    if isinstance(event, Delta):
        return len(event.text)
    return len(event.signature.data) if isinstance(event, Signed) else 0
