"""Signatures of tool calls, which have no field in the dialect: each stands in a reasoning item of its own.

Clients replay reasoning items where they got them: the item's place tells which call it belongs to.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from app.domain.content import Opaque
from app.providers.dialects import carrier

# In front of the kind: the signature is that of the call after its item, or of the one before it.
BEFORE = "call-after/"
AFTER = "call-before/"
# The kind of a reasoning item that a vendor keeps, and that stands for it without any data.
KEPT = "reasoning_item"


def belongs_to_call(opaque: Opaque) -> bool:
    """Tells if the carrier's content is the signature of a call, not of thinking."""
    return opaque.kind.startswith((BEFORE, AFTER))


def signature_item(signature: Opaque, item_id: str, *, place: str) -> dict[str, Any]:
    """Returns the reasoning item that carries a call's signature; `place` is BEFORE or AFTER."""
    packed = carrier.pack(replace(signature, kind=place + signature.kind))
    return {"id": item_id, "type": "reasoning", "summary": [], "encrypted_content": packed}


def owned_item(item: dict[str, Any], origin: str) -> dict[str, Any]:
    """Returns a reasoning item of an earlier answer of the vendor `origin`, so that no other vendor gets it."""
    encrypted = item.get("encrypted_content")
    if carrier.unpack(encrypted) is not None:
        return item
    item_id = str(item.get("id") or "")
    own = isinstance(encrypted, str) and encrypted
    opaque = Opaque(origin, "encrypted_content", str(encrypted), item_id) if own else Opaque(origin, KEPT, "", item_id)
    return {**item, "encrypted_content": carrier.pack(opaque)}
