"""Cost bounds: refuses messages of callers with a budget whose cost has no bound known beforehand."""

from __future__ import annotations

from typing import Any

from app.domain.body import check_field_names
from app.errors import InvalidRequest

_MESSAGE_FIELDS = frozenset({"role", "content", "audio"})
# Types of parts whose tokens are bounded: text and sound by their bytes, pictures by the most that one can cost. The
# content of a part is in the field with the name of its type.
_BOUNDED_PARTS = frozenset({"text", "refusal", "input_audio", "image_url"})
_COMMON_PART_FIELDS = {"type", "cache_control"}


def check_message(message: dict[str, Any], path: str) -> None:
    """Raises `InvalidRequest` for content without a bound on its cost, and for a field name in an odd spelling."""
    check_field_names(message, _MESSAGE_FIELDS, f"{path}.")
    if message.get("audio") is not None:
        raise _unbounded(f"{path}.audio")
    content = message.get("content")
    for i, part in enumerate(content if isinstance(content, list) else ()):
        kind = part["type"]
        if kind not in _BOUNDED_PARTS or not part.keys() <= _COMMON_PART_FIELDS | {kind}:
            raise _unbounded(f"{path}.content[{i}]")


def _unbounded(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Your plan has a budget, and what `{param}` costs cannot be known before it is spent: expected parts of type "
        f"{', '.join(sorted(_BOUNDED_PARTS))}, and nothing else in them.",
        param=param,
    )
