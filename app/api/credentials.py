"""The API key of a request: a bearer token (OpenAI's clients), `x-api-key` (Anthropic's), `api-key` (Azure's) or
`x-goog-api-key` (Google's). Google's clients of old put it into the query, which counts for their paths alone, and only
where no header has one: nothing here logs a query.

Some clients send two: a dummy in the header that they do not use, or one key twice. The first that has the shape of a
key of ours counts, in the order above; when none has it, the first one. It has to be valid all the same: nothing is
gained by sending more.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from app.domain.identity import is_well_formed
from app.errors import InvalidApiKey

_MAX_KEY_CHARS = 512
_IN_ORDER = ("HTTP_X_API_KEY", "HTTP_API_KEY", "HTTP_X_GOOG_API_KEY")
_GOOGLE_PATH = "/models"
_EXPECTED = "Send it as `Authorization: Bearer <key>`."


def api_key(environ: dict[str, Any]) -> str:
    """Returns the API key. Raises `InvalidApiKey` when there is none, naming what is there instead but not its text."""
    header: str | None = environ.get("HTTP_AUTHORIZATION")
    if "HTTP_X_API_KEY" not in environ and "HTTP_API_KEY" not in environ and "HTTP_X_GOOG_API_KEY" not in environ:
        if header is None:
            key = _key_in_query(environ)
            if key:
                return key
            raise InvalidApiKey(f"No API key provided. {_EXPECTED}")
        return _bearer(header)
    sent: list[str] = [environ.get(name, "").strip() for name in _IN_ORDER]
    if header is not None and header[:7].lower() == "bearer ":
        sent.insert(0, header[7:].strip())
    usable = [key for key in sent if key and len(key) <= _MAX_KEY_CHARS]
    if not usable:
        raise InvalidApiKey(f"No API key provided. {_EXPECTED}")
    return next(filter(is_well_formed, usable), usable[0])


def _key_in_query(environ: dict[str, Any]) -> str:
    query = environ.get("QUERY_STRING", "")
    if "key=" not in query or _GOOGLE_PATH not in environ["PATH_INFO"]:
        return ""
    key = parse_qs(query).get("key", [""])[0].strip()
    return key if len(key) <= _MAX_KEY_CHARS else ""


def _bearer(header: str) -> str:
    scheme, _, key = header.partition(" ")
    key = key.strip()
    if scheme.lower() == "bearer" and key and len(key) <= _MAX_KEY_CHARS:
        return key
    raise InvalidApiKey(f"{_problem(scheme.lower(), key)} {_EXPECTED}")


def _problem(scheme: str, key: str) -> str:
    if scheme == "basic":
        return "Basic authentication is not used here: an API key is."
    if scheme == "bearer":
        return "No API key stands behind `Bearer`." if not key else "What stands behind `Bearer` is too long for a key."
    return "Malformed Authorization header: the word `Bearer` is missing."
