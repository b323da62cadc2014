"""The paths that clients make of a base URL: without `/v1`, with two of them, with a slash too many, in Azure's way.

One spelling is left of each before anything is looked up, so that routes and metrics know no other. Only paths that
callers' clients make: what is for operators has one address, which a proxy in front can keep inside.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from app.domain.printable import printable

_LONGEST = 1024
_LEAD = r"/*(?P<lead>(?:(?:(?:api|openai)/+)?v1/+)*)"
_SPELLING = re.compile(_LEAD + r"(?P<rest>(?P<family>[a-z]+)(?:/.*)?)", re.DOTALL)
_UNKNOWN = re.compile(_LEAD + r"(?P<rest>.*)", re.DOTALL | re.IGNORECASE)
_FAMILIES = frozenset({"chat", "completions", "embeddings", "models", "requests", "files", "batches"})
_SHOWN_CHARS = 200
_COMPARED_CHARS = 48
_ALIKE = 0.7
# What clients of other APIs ask for, and what serves them here.
_INSTEAD = {
    "responses": "chat/completions",
    "messages": "chat/completions",
    "api/chat": "chat/completions",
    "api/generate": "chat/completions",
}


def canonical(path: str) -> str:
    """`path` as routes are written; itself when it is so already, or nothing is known of it."""
    found = _SPELLING.fullmatch(path) if len(path) <= _LONGEST else None
    if found is None or found["family"] not in _FAMILIES:
        return path
    return f"{'/api/v1' if found['lead'].startswith('api') else '/v1'}/{found['rest']}"


def shown(path: str) -> str:
    """`path` as it may stand in a log line or a message."""
    return printable(path[:_SHOWN_CHARS])


class Suggestions:
    """Suggests the path that was meant by an unknown one. `rules`: the routes."""

    def __init__(self, rules: Iterable[str]) -> None:
        tails = {rule.removeprefix("/v1/").partition("/<")[0] for rule in rules if rule.startswith("/v1/")}
        self._tails = sorted((tail for tail in tails if tail.partition("/")[0] in _FAMILIES), key=len, reverse=True)

    def of(self, path: str) -> str:
        """A path, or "". Looks at the beginning of `path` only: anybody may ask for anything, as often as they like."""
        found = _UNKNOWN.fullmatch(path[:_SHOWN_CHARS])
        tail = self._near(found["rest"].rstrip("/").lower()) if found else ""
        return f"/v1/{tail}" if tail else ""

    def _near(self, asked: str) -> str:
        if asked in _INSTEAD:
            return _INSTEAD[asked]
        return self._alike(asked) or self._ending(asked) or self._alike(asked.partition("/")[0])

    def _alike(self, asked: str) -> str:
        return "".join(difflib.get_close_matches(asked[:_COMPARED_CHARS], self._tails, 1, _ALIKE))

    def _ending(self, asked: str) -> str:
        return next((tail for tail in self._tails if asked.endswith(f"/{tail}")), "")
