"""Who is calling: the shape of an API key, and the caller that a valid one stands for.

A key is `pstk_` + 36 random base62 characters + a 6-character CRC-32 of them (as GitHub's tokens have), so
that garbage is refused without I/O and secret scanners recognise a leaked one.
"""

from __future__ import annotations

import enum
import hashlib
import secrets
import string
import zlib
from dataclasses import dataclass

PREFIX = "pstk_"
# The plan of keys that name none. The configuration always has it, without limits unless it sets some.
DEFAULT_PLAN = "default"
_RANDOM = 36
_CHECKSUM = 6
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
# Shown in lists and logs: enough to tell keys apart, far from enough to guess one.
_SHOWN = len(PREFIX) + 6
# Keys of vendors, which people try first. The longer prefix comes first.
_FOREIGN = (("sk-ant-", "Anthropic"), ("sk-or-", "OpenRouter"), ("sk-", "OpenAI"), ("AIza", "Google"), ("gsk_", "Groq"))


class Scope(enum.StrEnum):
    CHAT = "chat"
    EMBED = "embed"
    ADMIN = "admin"


class Role(enum.StrEnum):
    USER = "user"
    ADMIN = "admin"

    @property
    def scopes(self) -> frozenset[Scope]:
        return _SCOPES[self]


_SCOPES = {Role.USER: frozenset({Scope.CHAT, Scope.EMBED}), Role.ADMIN: frozenset(Scope)}


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated key.

    `record` is the mirrored bytes this caller was read from: admission compares them with what Redis holds
    now, so a revoked or changed key is never served from a worker's memory. Empty for the keys that come
    from the environment.
    """

    key_id: str
    name: str
    role: Role = Role.USER
    plan: str = DEFAULT_PLAN
    models: frozenset[str] | None = None  # None: every model
    tenant: str = ""
    expires_at: float | None = None  # Unix seconds, UTC
    key_hash: str = ""
    record: bytes = b""

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models

    def has(self, scope: Scope) -> bool:
        return scope in self.role.scopes


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, rest = divmod(number, 62)
        digits.append(_ALPHABET[rest])
    return "".join(reversed(digits))


def _checksum(random: str) -> str:
    return _base62(zlib.crc32(random.encode()), _CHECKSUM)


def new_key() -> str:
    random = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM))
    return PREFIX + random + _checksum(random)


def is_well_formed(key: str) -> bool:
    """Whether `key` has the shape and checksum of a key of ours. No I/O."""
    if len(key) != len(PREFIX) + _RANDOM + _CHECKSUM or not key.startswith(PREFIX) or not key.isascii():
        return False
    random = key[len(PREFIX) : -_CHECKSUM]
    return key[-_CHECKSUM:] == _checksum(random)


def key_format_hint(key: str) -> str:
    """What a string that is no key of ours looks like, for whoever sent it; "" when there is nothing to say of it."""
    if any(char.isspace() for char in key):
        return "Leave `Bearer` out of the key." if key.lower().startswith("bearer ") else "There are spaces in the key."
    if key[0] in "\"'`" or key[-1] in "\"'`":
        return "The key is in quotation marks: leave them out."
    if key[0] in "<${[":
        return "That is a placeholder, not a key."
    if key.startswith(PREFIX):
        return "It is cut off or mistyped."
    for prefix, vendor in _FOREIGN:
        if key.startswith(prefix):
            return f"This looks like a key of {vendor}: this gateway wants one of its own, `{PREFIX}…`."
    return ""


def hash_key(key: str) -> str:
    """SHA-256, hex: what is stored. Keys carry 214 random bits, so a slow hash would protect nothing."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def display_prefix(key: str) -> str:
    return key[:_SHOWN]
