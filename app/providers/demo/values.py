"""Plausible values for the demo model's structured answers: from the user's message where that reads well.

Everything here is bounded: a schema comes from a caller, who may write anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from app.providers.demo.numbers import Range, Unfillable

_MOST_READ_CHARS = 2_000
_MOST_ECHO_CHARS = 200
_MOST_CHARS = 10_000
_NUMBER = re.compile(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,15})?(?![\w])")
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}", re.ASCII)
_QUOTED = re.compile(r"[\"“]([^\"”\n]{1,200})[\"”]|(?<!\w)'([^'\n]{1,200})'(?!\w)")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
# Words that are capitals only because they begin a sentence.
_NO_NAMES = frozenset(
    {
        "a",
        "an",
        "and",
        "are",
        "at",
        "book",
        "can",
        "classify",
        "could",
        "create",
        "describe",
        "do",
        "does",
        "explain",
        "extract",
        "find",
        "for",
        "from",
        "generate",
        "get",
        "give",
        "he",
        "hello",
        "hey",
        "hi",
        "how",
        "i",
        "if",
        "in",
        "is",
        "it",
        "list",
        "make",
        "my",
        "of",
        "on",
        "parse",
        "please",
        "return",
        "schedule",
        "search",
        "send",
        "she",
        "show",
        "summarize",
        "tell",
        "the",
        "there",
        "they",
        "this",
        "to",
        "translate",
        "use",
        "we",
        "what",
        "when",
        "where",
        "which",
        "who",
        "why",
        "will",
        "with",
        "would",
        "write",
        "you",
        "your",
    }
)
_DAYS = frozenset(
    {
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
        "sunday",
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    }
)
# The last word of a property's name, and what it asks for.
_NAMES = frozenset(
    {
        "name",
        "person",
        "author",
        "user",
        "customer",
        "company",
        "title",
        "recipient",
        "sender",
        "names",
        "people",
        "persons",
        "participants",
        "attendees",
        "guests",
        "users",
        "authors",
        "companies",
    }
)
_PLACES = frozenset(
    {"city", "country", "location", "place", "destination", "origin", "town", "cities", "countries", "places"}
)
_LISTS = frozenset(name for name in _NAMES | _PLACES if name.endswith("s")) | {"people"}
_BEFORE_PLACES = frozenset({"in", "at", "to", "from", "near", "around"})
_TEXTS = frozenset(
    {
        "query",
        "question",
        "text",
        "message",
        "prompt",
        "input",
        "content",
        "description",
        "summary",
        "body",
        "comment",
        "request",
        "task",
        "expression",
    }
)
_DATES = frozenset({"date", "day", "when", "deadline", "due"})
_FORMATS = {
    "date": "2025-01-{day:02}",
    "date-time": "2025-01-{day:02}T12:00:00Z",
    "time": "12:{day:02}:00Z",
    "duration": "P{day}D",
    "email": "demo{n}@example.com",
    "idn-email": "demo{n}@example.com",
    "hostname": "demo{n}.example.com",
    "idn-hostname": "demo{n}.example.com",
    "ipv4": "192.0.2.{day}",
    "ipv6": "2001:db8::{day}",
    "uri": "https://example.com/{n}",
    "url": "https://example.com/{n}",
    "uri-reference": "/demo{n}",
    "iri": "https://example.com/{n}",
    "iri-reference": "/demo{n}",
    "uri-template": "https://example.com/{n}",
    "uuid": "00000000-0000-4000-8000-{day:012}",
    "json-pointer": "/demo{n}",
    "relative-json-pointer": "{day}",
    "regex": "demo{n}",
    "byte": "ZGVtbw==",
}


class Hints:
    """What a message has to offer."""

    def __init__(self, message: str) -> None:
        text = message[:_MOST_READ_CHARS]
        self.text = shortened(text, _MOST_ECHO_CHARS)
        self.lower = text.lower()
        self._numbers = [Fraction(found) for found in _NUMBER.findall(text)[:64]]
        self._email = _EMAIL.search(text)
        quoted = _QUOTED.search(text)
        self._quoted = (quoted[1] or quoted[2]) if quoted else None
        runs = list(_runs(text))[:64]
        self._days = [run for run, _ in runs if run.lower() in _DAYS]
        self._places = [run for run, before in runs if before in _BEFORE_PLACES and run.lower() not in _DAYS]
        self._names = [run for run, _ in runs if run.lower() not in _DAYS and run not in self._places]

    def number(self, allowed: Range) -> Fraction | None:
        """The message's next number that is `allowed`."""
        for i, number in enumerate(self._numbers):
            if number in allowed:
                return self._numbers.pop(i)
        return None

    def listed(self, key: str) -> list[str]:
        """What the message names, for a list `key` of names."""
        return self._named(_last_word(key)) if _last_word(key) in _LISTS else []

    def string(self, key: str, nth: int) -> str:
        """A text for the property `key`; `nth` tells those of one list apart."""
        kind = _last_word(key)
        named = self._named(kind)
        if kind in _DATES:
            return self._days[nth] if nth < len(self._days) else formatted("date", nth)
        if kind in ("email", "mail"):
            return self.formatted("email", nth)
        if kind in ("url", "uri", "link"):
            return formatted("uri", nth)
        if nth < len(named):
            return named[nth]
        if nth == 0 and self._quoted is not None:
            return self._quoted
        if nth == 0 and kind in _TEXTS and self.text:
            return self.text
        words = " ".join(_words(key)) or "text"
        return f"sample {words} {nth + 1}" if nth else f"sample {words}"

    def formatted(self, name: str, nth: int) -> str:
        if name.endswith("email") and self._email is not None and nth == 0:
            return self._email[0]
        return formatted(name, nth)

    def _named(self, kind: str) -> list[str]:
        """What the message names of this kind, the likeliest first."""
        if kind in _PLACES:
            return self._places or self._names
        return (self._names or self._places) if kind in _NAMES else []


def has_format(name: str) -> bool:
    return name in _FORMATS


def formatted(name: str, nth: int) -> str:
    return _FORMATS[name].format(day=nth % 28 + 1, n=nth or "")


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def fitted(text: str, least: int, most: float) -> str:
    """`text`, made to have between `least` and `most` characters. Raises `Unfillable`."""
    if least > _MOST_CHARS or most < least:
        raise Unfillable
    if len(text) < least:
        text = (f"{text} " * (least // (len(text) + 1) + 1))[:least]
    return text if len(text) <= most else text[: int(most)]


def _words(key: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(key[:64])]


def _last_word(key: str) -> str:
    return (_words(key) or [""])[-1]


def _runs(text: str) -> Iterator[tuple[str, str]]:
    """Runs of capitalised words, as names of people, places and days are, each with the word before it."""
    run: list[str] = []
    before = ""
    for token in text.split():
        word = token.strip(".,;:!?()[]{}\"'“”").removesuffix("'s").removesuffix("’s")
        if word[:1].isupper() and word.lower() not in _NO_NAMES:
            run.append(word)
            if token[-1] not in ".,;:!?" and word.lower() not in _DAYS:
                continue
        if run:
            yield " ".join(run), before
            run = []
        before = word.lower()
    if run:
        yield " ".join(run), before
