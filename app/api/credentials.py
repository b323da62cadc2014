"""The API key of a request: a bearer token (OpenAI's clients), `x-api-key` (Anthropic's) or `api-key` (Azure's).

Some clients send two: a dummy in the header that they do not use, or one key twice. The first that has the shape of a
key of ours counts, in the order above; when none has it, the first one. It has to be valid all the same: nothing is
gained by sending more.
"""

from __future__ import annotations

from typing import Any

from app.domain.identity import is_well_formed
from app.errors import InvalidApiKey

_MAX_KEY_CHARS = 512
_EXPECTED = "Send it as `Authorization: Bearer <key>`."


def api_key(environ: dict[str, Any]) -> str:
    """Returns the API key. Raises `InvalidApiKey` when there is none, naming what is there instead but not its text."""
    header: str | None = environ.get("HTTP_AUTHORIZATION")
    if "HTTP_X_API_KEY" not in environ and "HTTP_API_KEY" not in environ:
        if header is None:
            raise InvalidApiKey(f"No API key provided. {_EXPECTED}")
        return _bearer(header)
    sent: list[str] = [environ.get("HTTP_X_API_KEY", "").strip(), environ.get("HTTP_API_KEY", "").strip()]
    if header is not None and header[:7].lower() == "bearer ":
        sent.insert(0, header[7:].strip())
    usable = [key for key in sent if key and len(key) <= _MAX_KEY_CHARS]
    if not usable:
        raise InvalidApiKey(f"No API key provided. {_EXPECTED}")
    return next(filter(is_well_formed, usable), usable[0])


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
