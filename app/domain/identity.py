"""API keys, their format and checksum, and the authenticated caller that a key stands for.

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
_RANDOM_LENGTH = 36
_CHECKSUM_LENGTH = 6
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
# Shown in lists and logs: enough to tell keys apart, far from enough to guess one.
_DISPLAYED_LENGTH = len(PREFIX) + 6
# Prefixes of vendors' keys, which people try first. The longer prefix comes first.
_VENDOR_PREFIXES = (
    ("sk-ant-", "Anthropic"),
    ("sk-or-", "OpenRouter"),
    ("sk-", "OpenAI"),
    ("AIza", "Google"),
    ("gsk_", "Groq"),
)


class Scope(enum.StrEnum):
    """A kind of access that an endpoint requires."""

    CHAT = "chat"
    EMBED = "embed"
    ADMIN = "admin"


class Role(enum.StrEnum):
    """The role of a key: a set of scopes."""

    USER = "user"
    ADMIN = "admin"

    @property
    def scopes(self) -> frozenset[Scope]:
        return _SCOPES[self]


_SCOPES = {Role.USER: frozenset({Scope.CHAT, Scope.EMBED}), Role.ADMIN: frozenset(Scope)}


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated key.

    `record` are the bytes in Redis from which this caller was decoded: admission compares them with those in Redis now,
    so a revoked or changed key is never served from a worker's cache. Empty for the keys from the environment.
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
    return _base62(zlib.crc32(random.encode()), _CHECKSUM_LENGTH)


def new_key() -> str:
    """Returns a random key."""
    random = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_LENGTH))
    return PREFIX + random + _checksum(random)


def is_well_formed(key: str) -> bool:
    """Returns whether `key` has the format and checksum of a key of this gateway. No I/O."""
    if len(key) != len(PREFIX) + _RANDOM_LENGTH + _CHECKSUM_LENGTH or not key.startswith(PREFIX) or not key.isascii():
        return False
    random = key[len(PREFIX) : -_CHECKSUM_LENGTH]
    return key[-_CHECKSUM_LENGTH:] == _checksum(random)


def key_format_hint(key: str) -> str:
    """Returns a hint on the mistake in a string that is no key of this gateway; "" when none is known."""
    if any(char.isspace() for char in key):
        return "Leave `Bearer` out of the key." if key.lower().startswith("bearer ") else "There are spaces in the key."
    if key[0] in "\"'`" or key[-1] in "\"'`":
        return "The key is in quotation marks: leave them out."
    if key[0] in "<${[":
        return "That is a placeholder, not a key."
    if key.startswith(PREFIX):
        return "It is cut off or mistyped."
    for prefix, vendor in _VENDOR_PREFIXES:
        if key.startswith(prefix):
            return f"This looks like a key of {vendor}: this gateway wants one of its own, `{PREFIX}…`."
    return ""


def hash_key(key: str) -> str:
    """Returns the SHA-256 in hex, which is stored. Keys have 214 random bits: a slow hash would protect nothing."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def display_prefix(key: str) -> str:
    """Returns the part of a key that lists and logs show."""
    return key[:_DISPLAYED_LENGTH]
