"""Request optimizer: trims the oldest turns of long conversations, and caps the answers to small talk.

System and developer messages are kept, and a run of whole turns up to the end of the conversation. A turn begins with a
user's message, so that no result of a tool is ever left without its call, nor a call without its results.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from app.config.features import OptimizerConfig
from app.domain.chat import Draft, Message
from app.gateway.model_picker import offers_tools

_ALWAYS_KEPT = ("system", "developer")
_RESULT_ROLES = ("tool", "function")
_MAX_SMALL_TALK_CHARACTERS, _MAX_SMALL_TALK_WORDS = 80, 8
_WORD = re.compile(r"[^\W\d_]+")
_GREETINGS = frozenset(
    {
        "hi",
        "hello",
        "hey",
        "hiya",
        "howdy",
        "greetings",
        "morning",
        "afternoon",
        "evening",
        "thanks",
        "thank",
        "thx",
        "bye",
        "goodbye",
        "goodnight",
        "welcome",
        "hallo",
        "servus",
        "moin",
        "danke",
        "tschüss",
        "bonjour",
        "salut",
        "merci",
        "hola",
        "gracias",
        "adiós",
        "ciao",
        "grazie",
        "olá",
        "obrigado",
        "obrigada",
        "привет",
        "спасибо",
    }
)
# Words that may accompany a greeting. None of them asks for work, nor agrees to any: "ok, go on" is no small talk.
_SMALL_TALK_WORDS = frozenset(
    {
        "there",
        "again",
        "all",
        "everyone",
        "good",
        "day",
        "night",
        "to",
        "you",
        "your",
        "too",
        "very",
        "much",
        "so",
        "a",
        "lot",
        "many",
        "for",
        "the",
        "help",
        "how",
        "are",
        "is",
        "it",
        "going",
        "doing",
        "today",
        "whats",
        "what",
        "s",
        "up",
        "nice",
        "meet",
        "see",
        "later",
        "soon",
        "and",
        "my",
        "friend",
        "assistant",
        "guten",
        "tag",
        "dir",
        "wie",
        "geht",
        "es",
        "vielen",
        "dank",
        "ça",
        "va",
        "buenos",
        "días",
        "tardes",
        "muchas",
        "qué",
        "tal",
    }
)


class _ToolLinks(msgspec.Struct, frozen=True):
    """The ids that tie a tool's result to its call. Not validated here: that is the provider's business."""

    tool_calls: Any = None
    tool_call_id: Any = None


_decode_messages = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_links = msgspec.json.Decoder(_ToolLinks).decode


class Optimizer:
    """Trims and caps chat requests within the bounds of the configuration."""

    def __init__(self, config: OptimizerConfig) -> None:
        self._config = config

    def optimize(self, draft: Draft) -> str:
        """Changes `draft`, and returns what was done: `trimmed`, `capped`, `trimmed,capped` or nothing."""
        done = []
        if self._is_long(draft) and self._trim(draft):
            done.append("trimmed")
        max_tokens = self._config.small_talk_max_tokens
        if max_tokens is not None and is_small_talk(draft) and self._cap(draft, max_tokens):
            done.append("capped")
        return ",".join(done)

    def _is_long(self, draft: Draft) -> bool:
        """Returns whether the conversation may exceed a bound: only then are its messages looked at one by one."""
        config, request = self._config, draft.request
        return (config.keep_messages is not None and len(request.messages) > config.keep_messages) or (
            config.keep_tokens is not None and request.estimate_prompt_tokens() > config.keep_tokens
        )

    def _trim(self, draft: Draft) -> bool:
        messages = draft.request.messages
        raw = _decode_messages(draft.fields["messages"])
        sizes = [message.estimate_tokens(len(part)) for message, part in zip(messages, raw, strict=True)]
        first = self._first_kept(messages, sizes, turns(messages, raw))
        kept = [i for i, message in enumerate(messages) if i >= first or message.role in _ALWAYS_KEPT]
        if len(kept) == len(messages):
            return False
        draft.keep_messages(kept, raw)
        return True

    def _first_kept(self, messages: Sequence[Message], sizes: Sequence[int], turns: Sequence[int]) -> int:
        """Returns the position of the earliest turn from which on everything fits.

        That is the last turn's if none fits, and 0 without turns.
        """
        config = self._config
        exempt = {i for i, message in enumerate(messages) if message.role in _ALWAYS_KEPT}
        count, tokens = 0, sum(sizes[i] for i in exempt)
        fits_from = len(messages)
        for i in reversed(range(len(messages))):
            if i in exempt:
                continue
            count, tokens = count + 1, tokens + sizes[i]
            if config.keep_messages is not None and count > config.keep_messages:
                break
            if config.keep_tokens is not None and tokens > config.keep_tokens:
                break
            fits_from = i
        return next((turn for turn in turns if turn >= fits_from), turns[-1] if turns else 0)

    def _cap(self, draft: Draft, max_tokens: int) -> bool:
        given = {"max_completion_tokens": draft.request.max_completion_tokens, "max_tokens": draft.request.max_tokens}
        too_high = [name for name, value in given.items() if value is not None and value > max_tokens]
        if not any(given.values()):
            too_high = [self._config.small_talk_field]
        for name in too_high:
            draft.set(name, max_tokens)
        return bool(too_high)


def turns(messages: Sequence[Message], raw: Sequence[msgspec.Raw]) -> list[int]:
    """Returns the positions at which a conversation can be cut.

    They are those of users' messages with no result after them of a call before them.
    """
    needs = _dependencies(messages, raw)
    found = []
    earliest = len(messages)
    for i in reversed(range(len(messages))):
        earliest = min(earliest, needs[i])
        if earliest >= i and messages[i].role == "user":
            found.append(i)
    return found[::-1]


def _dependencies(messages: Sequence[Message], raw: Sequence[msgspec.Raw]) -> list[int]:
    """Returns for each message the position of the earliest one that it depends on: mostly its own."""
    needs = []
    callers: dict[str, int] = {}
    before = -1  # the last message that is no result: what a result without a known id belongs to
    for i, message in enumerate(messages):
        if message.role in _RESULT_ROLES:
            call_id = _decode_links(raw[i]).tool_call_id
            needs.append(callers.get(call_id, before) if isinstance(call_id, str) else before)
            continue
        needs.append(i)
        if message.role == "assistant":
            callers |= dict.fromkeys(_call_ids(_decode_links(raw[i]).tool_calls), i)
        if message.role not in _ALWAYS_KEPT:
            before = i
    return needs


def _call_ids(tool_calls: Any) -> list[str]:
    calls = tool_calls if isinstance(tool_calls, list) else ()
    return [call["id"] for call in calls if isinstance(call, dict) and isinstance(call.get("id"), str)]


def is_small_talk(draft: Draft) -> bool:
    """Returns whether the last message is a greeting and no more, in a call that asks for nothing but text."""
    message = draft.request.messages[-1]
    texts = message.texts
    if message.role != "user" or len(texts) != 1 or len(texts[0]) > _MAX_SMALL_TALK_CHARACTERS:
        return False
    text = texts[0].lower()
    words = _WORD.findall(text)
    if not 0 < len(words) <= _MAX_SMALL_TALK_WORDS or any(character.isdigit() for character in text):
        return False
    if _GREETINGS.isdisjoint(words) or not _GREETINGS.union(_SMALL_TALK_WORDS).issuperset(words):
        return False
    return not (draft.request.images or offers_tools(draft.request) or "response_format" in draft.fields)
