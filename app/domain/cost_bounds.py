"""Messages whose cost has a bound that can be told before it is spent: what a caller with a budget may send."""

from __future__ import annotations

from typing import Any

from app.domain.body import check_field_names
from app.errors import InvalidRequest

_MESSAGE_FIELDS = frozenset({"role", "content", "audio"})
# Parts whose tokens are bounded: text and sound by their bytes, pictures by what one can cost at most. What a part
# holds stands under the name of its type.
_BOUNDED_PARTS = frozenset({"text", "refusal", "input_audio", "image_url"})
_OF_ANY_PART = {"type", "cache_control"}


def check_message(message: dict[str, Any], path: str) -> None:
    """Raises `InvalidRequest` for what nobody can know the cost of, and for a name in an odd spelling."""
    check_field_names(message, _MESSAGE_FIELDS, f"{path}.")
    if message.get("audio") is not None:
        raise _unknowable(f"{path}.audio")
    content = message.get("content")
    for i, part in enumerate(content if isinstance(content, list) else ()):
        kind = part["type"]
        if kind not in _BOUNDED_PARTS or not part.keys() <= _OF_ANY_PART | {kind}:
            raise _unknowable(f"{path}.content[{i}]")


def _unknowable(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Your plan has a budget, and what `{param}` costs cannot be known before it is spent: expected parts of type "
        f"{', '.join(sorted(_BOUNDED_PARTS))}, and nothing else in them.",
        param=param,
    )
