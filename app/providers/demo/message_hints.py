"""Hints from a user's message: plausible values for the demo model's structured answers.

Everything here is bounded: message and schema come from a caller, who may write anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from app.providers.demo.numbers import Range, Unsatisfiable
from app.providers.demo.vocabulary import (
    DATE_PROPERTIES,
    DAYS,
    LIST_PROPERTIES,
    NAME_PROPERTIES,
    PLACE_PREPOSITIONS,
    PLACE_PROPERTIES,
    SENTENCE_OPENERS,
    TEXT_PROPERTIES,
)

_MAX_READ_CHARS = 2_000
_MAX_ECHO_CHARS = 200
_MAX_CHARS = 10_000
_NUMBER = re.compile(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,15})?(?![\w])")
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}", re.ASCII)
_QUOTED = re.compile(r"[\"“]([^\"”\n]{1,200})[\"”]|(?<!\w)'([^'\n]{1,200})'(?!\w)")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
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


class MessageHints:
    """Numbers, addresses, names, places and days that a message mentions."""

    def __init__(self, message: str) -> None:
        text = message[:_MAX_READ_CHARS]
        self.text = shorten(text, _MAX_ECHO_CHARS)
        self.lower = text.lower()
        self._numbers = [Fraction(found) for found in _NUMBER.findall(text)[:64]]
        self._email = _EMAIL.search(text)
        quoted = _QUOTED.search(text)
        self._quoted = (quoted[1] or quoted[2]) if quoted else None
        runs = list(_capitalised_runs(text))[:64]
        self._days = [run for run, _ in runs if run.lower() in DAYS]
        self._places = [run for run, before in runs if before in PLACE_PREPOSITIONS and run.lower() not in DAYS]
        self._names = [run for run, _ in runs if run.lower() not in DAYS and run not in self._places]

    def number(self, allowed: Range) -> Fraction | None:
        """Takes the message's next number that is `allowed`; None if there is none."""
        for i, number in enumerate(self._numbers):
            if number in allowed:
                return self._numbers.pop(i)
        return None

    def names_for_list(self, key: str) -> list[str]:
        """Returns the names in the message that fit a list property `key`."""
        return self._names_of_kind(_last_word(key)) if _last_word(key) in LIST_PROPERTIES else []

    def string(self, key: str, nth: int) -> str:
        """Returns a text for the property `key`; `nth` tells the texts of one list apart."""
        kind = _last_word(key)
        named = self._names_of_kind(kind)
        if kind in DATE_PROPERTIES:
            return self._days[nth] if nth < len(self._days) else formatted("date", nth)
        if kind in ("email", "mail"):
            return self.formatted("email", nth)
        if kind in ("url", "uri", "link"):
            return formatted("uri", nth)
        if nth < len(named):
            return named[nth]
        if nth == 0 and self._quoted is not None:
            return self._quoted
        if nth == 0 and kind in TEXT_PROPERTIES and self.text:
            return self.text
        words = " ".join(_words(key)) or "text"
        return f"sample {words} {nth + 1}" if nth else f"sample {words}"

    def formatted(self, name: str, nth: int) -> str:
        """Returns a text of JSON Schema's format `name`."""
        if name.endswith("email") and self._email is not None and nth == 0:
            return self._email[0]
        return formatted(name, nth)

    def _names_of_kind(self, kind: str) -> list[str]:
        """Returns the message's names of people or places, as the property's last word asks, the likeliest first."""
        if kind in PLACE_PROPERTIES:
            return self._places or self._names
        return (self._names or self._places) if kind in NAME_PROPERTIES else []


def has_format(name: str) -> bool:
    return name in _FORMATS


def formatted(name: str, nth: int) -> str:
    return _FORMATS[name].format(day=nth % 28 + 1, n=nth or "")


def shorten(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"


def fit_length(text: str, least: int, most: float) -> str:
    """Returns `text`, cut or repeated to between `least` and `most` characters. Raises `Unsatisfiable`."""
    if least > _MAX_CHARS or most < least:
        raise Unsatisfiable
    if len(text) < least:
        text = (f"{text} " * (least // (len(text) + 1) + 1))[:least]
    return text if len(text) <= most else text[: int(most)]


def _words(key: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(key[:64])]


def _last_word(key: str) -> str:
    return (_words(key) or [""])[-1]


def _capitalised_runs(text: str) -> Iterator[tuple[str, str]]:
    """Yields runs of capitalised words, as names of people, places and days are, each with the word before it."""
    run: list[str] = []
    before = ""
    for token in text.split():
        word = token.strip(".,;:!?()[]{}\"'“”").removesuffix("'s").removesuffix("’s")
        if word[:1].isupper() and word.lower() not in SENTENCE_OPENERS:
            run.append(word)
            if token[-1] not in ".,;:!?" and word.lower() not in DAYS:
                continue
        if run:
            yield " ".join(run), before
            run = []
        before = word.lower()
    if run:
        yield " ".join(run), before
