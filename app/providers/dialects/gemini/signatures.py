"""Thought signatures: Google's own, ours that stand in for other vendors' data, and the one that says there is none.

Google's clients take `thoughtSignature` for base64 and decode it, so a carrier is put into base64 once more here. Some
of them (Gemini CLI) keep the signature of a function call and throw thoughts away: the carrier of a call therefore
holds the thinking that came before it, too.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import msgspec

from app.domain.content import Opaque, Thinking, ToolCall
from app.providers.dialects import carrier

KIND = "thoughtSignature"
# Google's documented stand-in for the signature of a call that another model made.
DUMMY = "skip_thought_signature_validator"
_DUMMIES = frozenset({DUMMY, "context_engineering_is_the_way_to_go"})
_ENCODED_DUMMIES = frozenset(base64.b64encode(name.encode()).decode() for name in _DUMMIES)
_ENCODED_PREFIX = base64.b64encode(carrier.PREFIX.encode()).decode()  # six bytes: eight characters, no padding
CARRIER_MARKS = (carrier.PREFIX.encode(), _ENCODED_PREFIX.encode())
_STEP = "gemini.step"


class _Step(msgspec.Struct, frozen=True):
    """The data of a call's carrier: the thinking before it, each with text, kind, data and id; and its signature."""

    thinking: list[tuple[str, str, str, str]]
    call: tuple[str, str, str] | None = None


class Read(msgspec.Struct, frozen=True):
    """A caller's signature, opened: thinking that came before the part, and the part's own signature."""

    thinking: tuple[Thinking, ...] = ()
    own: Opaque | None = None


_decode_step = msgspec.json.Decoder(_Step).decode
_NOTHING = Read()


def is_dummy(signature: object) -> bool:
    """Tells if `signature` only says that there is none, in the plain form or as base64."""
    return isinstance(signature, str) and (
        signature in _DUMMIES or signature.replace("-", "+").replace("_", "/") in _ENCODED_DUMMIES
    )


def read(signature: object) -> Read | None:
    """Returns what the carrier `signature` holds; None if it is none."""
    opaque = _unpack(signature)
    if opaque is None:
        return None
    if opaque.kind != _STEP:
        return Read(own=opaque)
    try:
        step = _decode_step(opaque.data.encode())
    except ValueError:
        return _NOTHING
    thinking = (
        Thinking(text=text, signature=Opaque(opaque.origin, kind, data, item_id))
        for text, kind, data, item_id in step.thinking
    )
    return Read(tuple(thinking), Opaque(opaque.origin, *step.call) if step.call else None)


def write(opaque: Opaque) -> str:
    """Returns the carrier of `opaque`, as base64."""
    return base64.b64encode(carrier.pack(opaque).encode()).decode()


def write_call(call: ToolCall, before: Sequence[Thinking]) -> str | None:
    """Returns the carrier of a call and of the thinking `before` it; None if there is nothing to carry."""
    signed = [(block.text, block.signature) for block in before if block.signature is not None]
    if not signed:
        return write(call.signature) if call.signature is not None else None
    own = call.signature
    step = _Step(
        [(text, opaque.kind, opaque.data, opaque.id) for text, opaque in signed],
        (own.kind, own.data, own.id) if own is not None else None,
    )
    return write(Opaque(signed[0][1].origin, _STEP, msgspec.json.encode(step).decode()))


def _unpack(signature: object) -> Opaque | None:
    if not isinstance(signature, str):
        return None
    if not signature.startswith(_ENCODED_PREFIX):
        return carrier.unpack(signature)
    plain = signature.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return carrier.unpack(base64.b64decode(plain + "=" * (-len(plain) % 4)).decode())
    except (ValueError, binascii.Error):
        return None
