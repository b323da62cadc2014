"""Carrier: a vendor's opaque data in a field that callers replay, so that it comes back with the next turn.

It stands where the caller's dialect has its own such data (`signature`, `encrypted_content`, `thought_signature`), and
names the provider that wrote it: it is opened for that one alone. What has no carrier's shape was not written by us.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from app.domain.content import Opaque

PREFIX = "pstk1."
_MAX_CHARS = 8_388_608
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, str, str, str]).decode


def pack(opaque: Opaque) -> str:
    """Returns the carrier of `opaque`: ASCII letters, digits, `-`, `_` and `.`."""
    fields = _encode((opaque.origin, opaque.kind, opaque.data, opaque.id))
    return PREFIX + base64.urlsafe_b64encode(fields).decode().rstrip("=")


def unpack(text: object) -> Opaque | None:
    """Returns what the carrier holds; None for anything that is no carrier, a mangled one among them."""
    if not isinstance(text, str) or not text.startswith(PREFIX) or len(text) > _MAX_CHARS:
        return None
    encoded = text[len(PREFIX) :]
    try:
        origin, kind, data, item_id = _decode(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (ValueError, binascii.Error):
        return None
    return Opaque(origin, kind, data, item_id)
