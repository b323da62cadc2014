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


def belongs_to_call(opaque: Opaque) -> bool:
    """Tells if the carrier's content is the signature of a call, not of thinking."""
    return opaque.kind.startswith((BEFORE, AFTER))


def signature_item(signature: Opaque, item_id: str, *, place: str) -> dict[str, Any]:
    """Returns the reasoning item that carries a call's signature; `place` is BEFORE or AFTER."""
    packed = carrier.pack(replace(signature, kind=place + signature.kind))
    return {"id": item_id, "type": "reasoning", "summary": [], "encrypted_content": packed}
