"""Path normalisation: the paths that clients make of a base URL, without `/v1`, with two of them, with a slash too
many or with a vendor's name, become the path of a route; for an unknown one the nearest route is suggested.

Google's clients put `/v1beta` in front, and the method behind the model, after a colon: only those paths, and the list
of models, are served under `/v1beta`.

Routes and metrics know no other spelling. Only the paths of callers' clients are normalised: an operators' path has one
address, which a proxy in front can keep inside.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from app.domain.printable import printable

_MAX_PATH_CHARS = 1024
# "/v1", and "/openai/v1" or "/v1beta/openai" of other vendors, as often as it was written.
_PREFIX = r"/*(?P<prefix>(?:(?:(?:api|openai|anthropic|gemini)/+)?v1(?:(?:alpha|beta)\d*)?/+(?:openai/+)?)*)"
_CLIENT_PATH = re.compile(_PREFIX + r"(?P<rest>(?P<family>[a-z]+)(?:/.*)?)", re.DOTALL)
_UNKNOWN_PATH = re.compile(_PREFIX + r"(?P<rest>.*)", re.DOTALL | re.IGNORECASE)
_GOOGLE_VERSION = re.compile(r".*v1(?:alpha|beta)\d*/+", re.DOTALL)  # the last one
# A model's name may have a colon, too.
_GOOGLE_METHOD = re.compile(
    r"models/.+:(?:(?:(?:batch)?[eE]mbed|(?:stream|batch)?[gG]enerate)Contents?|countTokens)/*", re.DOTALL
)
_MAX_SHOWN_CHARS = 200
_MAX_COMPARED_CHARS = 48
_MIN_SIMILARITY = 0.7
# Paths of other APIs, and the path here that does the same.
_EQUIVALENTS = {
    "api/chat": "chat/completions",
    "api/generate": "chat/completions",
    "api/embed": "embeddings",
    "api/embeddings": "embeddings",
    "api/tags": "models",
    "messages/batches": "batches",
}


class ClientPaths:
    """Normalises the paths of callers' clients. `families`: the first segments of their routes' paths."""

    def __init__(self, families: Iterable[str]) -> None:
        self._families = frozenset(families)

    def canonical(self, path: str) -> str:
        """Returns `path` as routes are written; unchanged when it is so already, or of no client's family."""
        found = _CLIENT_PATH.fullmatch(path) if len(path) <= _MAX_PATH_CHARS else None
        if found is None or found["family"] not in self._families:
            return path
        prefix, rest = found["prefix"], found["rest"]
        if _GOOGLE_METHOD.fullmatch(rest):
            return f"/v1beta/{rest}"
        if _GOOGLE_VERSION.fullmatch(prefix):
            return f"/v1beta/{rest}" if found["family"] == "models" else path
        return f"{'/api/v1' if prefix.startswith('api') else '/v1'}/{rest}"

    def suggestions(self, rules: Iterable[str]) -> Suggestions:
        """Returns suggestions among those of `rules` that clients use."""
        tails = {rule.removeprefix("/v1/").partition("/<")[0] for rule in rules if rule.startswith("/v1/")}
        return Suggestions(tail for tail in tails if tail.partition("/")[0] in self._families)


class Suggestions:
    """Suggests the path that was meant by an unknown one. `tails`: the known paths, without their prefix."""

    def __init__(self, tails: Iterable[str]) -> None:
        self._tails = sorted(tails, key=len, reverse=True)

    def nearest(self, path: str) -> str:
        """Returns a path, or "". Looks at the beginning of `path` only: anybody may send any path, at any rate."""
        found = _UNKNOWN_PATH.fullmatch(path[:_MAX_SHOWN_CHARS])
        tail = self._nearest_tail(found["rest"].rstrip("/").lower()) if found else ""
        return f"/v1/{tail}" if tail else ""

    def _nearest_tail(self, unknown: str) -> str:
        if unknown in _EQUIVALENTS:
            return _EQUIVALENTS[unknown]
        return self._similar(unknown) or self._at_the_end_of(unknown) or self._similar(unknown.partition("/")[0])

    def _similar(self, unknown: str) -> str:
        return "".join(difflib.get_close_matches(unknown[:_MAX_COMPARED_CHARS], self._tails, 1, _MIN_SIMILARITY))

    def _at_the_end_of(self, unknown: str) -> str:
        return next((tail for tail in self._tails if unknown.endswith(f"/{tail}")), "")


def printable_path(path: str) -> str:
    """Returns the beginning of `path`, as it may stand in a log line or a message."""
    return printable(path[:_MAX_SHOWN_CHARS])
