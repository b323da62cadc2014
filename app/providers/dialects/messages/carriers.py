"""Carriers of other vendors' data in thinking blocks: the one field that clients of this dialect replay unchanged."""

from __future__ import annotations

from app.domain.content import Opaque
from app.providers.dialects import carrier

# Thinking that its vendor did not sign. It is marked as ours all the same: this dialect's vendors accept no thinking
# but their own, so that it is taken out when the next turn goes to one of them.
NO_SIGNATURE = Opaque("", "", "")
UNSIGNED = carrier.pack(NO_SIGNATURE)
# A call's signature stands in an empty thinking block before the call, with the call's id. The kind begins with this.
CALL_KIND = "tool_call:"


def pack_thinking(signature: Opaque | None) -> str:
    """Returns what stands as the signature of a thinking block."""
    return UNSIGNED if signature is None else carrier.pack(signature)


def pack_call(signature: Opaque, call_id: str) -> str:
    """Returns what stands as the signature of the thinking block before the call with the id `call_id`."""
    return carrier.pack(Opaque(signature.origin, CALL_KIND + signature.kind, signature.data, call_id))
