"""Generator of a text that a regular expression matches, for the demo model's structured answers.

The pattern is parsed, never run: one from a caller can take for ever to match.
"""

from __future__ import annotations

import re
import warnings
from re import _parser  # type: ignore[attr-defined]  # no public module reads a pattern without compiling it
from typing import Any

_MAX_PATTERN_CHARS = 500
_MAX_STEPS = 20_000
_CHARS_PER_STEP = 16


class _Unsupported(Exception):
    """The pattern is too long, or has a part that the generator does not know."""


def generate_match(pattern: str, min_chars: int) -> str | None:
    """Returns a short text that matches `pattern`, of `min_chars` if possible; None for an unsupported pattern."""
    if len(pattern) > _MAX_PATTERN_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of syntax that Python means to change
            tree = _parser.parse(pattern)
        short = _MatchBuilder(0).text(tree)
        return short if len(short) >= min_chars else _MatchBuilder(min_chars - len(short)).text(tree)
    except (re.error, RecursionError, OverflowError, _Unsupported):
        return None


class _MatchBuilder:
    """Builds a text that a parsed pattern matches; repeats are as few as possible, and `spare` more."""

    def __init__(self, spare: int) -> None:
        self._spare = spare
        self._steps = _MAX_STEPS
        self._groups: dict[Any, str] = {}

    def text(self, tree: Any) -> str:
        text = "".join([self._element(str(op), given) for op, given in tree])
        self._step(len(text) // _CHARS_PER_STEP)
        return text

    def _step(self, steps: int = 1) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise _Unsupported

    def _element(self, op: str, given: Any) -> str:
        self._step()
        if op == "LITERAL":
            return chr(given)
        if op in ("ANY", "NOT_LITERAL"):
            return "b" if given == ord("a") else "a"
        if op == "IN":
            return _member(given)
        if op in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            return self._repeated(*given)
        if op == "SUBPATTERN":
            text = self._groups[given[0]] = self.text(given[-1])
            return text
        if op == "BRANCH":
            return self.text(given[1][0])
        if op == "GROUPREF":
            text = self._groups.get(given, "")
            self._step(len(text) // _CHARS_PER_STEP)
            return text
        if op == "ATOMIC_GROUP":
            return self.text(given)
        if op in ("AT", "ASSERT", "ASSERT_NOT"):
            return ""  # a position: what an assertion asks of the rest is not looked into
        raise _Unsupported

    def _repeated(self, least: int, most: Any, tree: Any) -> str:
        more = min(self._spare, int(most) - least)
        self._spare -= more
        if least + more > _MAX_STEPS:
            raise _Unsupported
        return "".join([self.text(tree) for _ in range(least + more)])


_CATEGORIES = {
    "CATEGORY_DIGIT": "0",
    "CATEGORY_WORD": "a",
    "CATEGORY_SPACE": " ",
    "CATEGORY_NOT_DIGIT": "a",
    "CATEGORY_NOT_WORD": "-",
    "CATEGORY_NOT_SPACE": "a",
}
_IS_CATEGORY = {"DIGIT": str.isdigit, "WORD": lambda char: char.isalnum() or char == "_", "SPACE": str.isspace}


def _member(items: Any) -> str:
    """Returns a character of a set such as `[a-z_]`."""
    op, given = str(items[0][0]), items[0][1]
    if op == "NEGATE":
        for char in "a0A -_.é中":
            if not any(_is_in(char, str(op), given) for op, given in items[1:]):
                return char
        raise _Unsupported
    if op == "CATEGORY":
        return _CATEGORIES[str(given)]
    return chr(given[0] if op == "RANGE" else given)


def _is_in(char: str, op: str, given: Any) -> bool:
    if op == "RANGE":
        return bool(given[0] <= ord(char) <= given[1])
    if op == "CATEGORY":
        name = str(given).removeprefix("CATEGORY_")
        return bool(_IS_CATEGORY[name.removeprefix("NOT_")](char)) != name.startswith("NOT_")
    return bool(ord(char) == given)
