"""Arguments of function calls: JSON text in the neutral form, an object in Gemini, which may also stream it in parts.

Source: Google's API reference, "FunctionCall" and "PartialArg".
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import msgspec

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[['\"]([^'\"]*)['\"]\]")
_MAX_ITEMS = 10_000


def to_args(arguments: str) -> dict[str, msgspec.Raw] | None:
    """Returns the arguments as an object, its values as they were written; {} for none, None for what is no object."""
    if not arguments.strip():
        return {}
    try:
        return _OBJECT.decode(arguments)
    except (ValueError, RecursionError):
        return None


class PartialArgs:
    """The arguments of one call, put together from the parts that name their place as a JSON path."""

    def __init__(self) -> None:
        self.value: dict[str, Any] = {}

    def add(self, part: dict[str, Any]) -> None:
        """Adds a part of the arguments. Raises `ValueError` for one without a place or a value."""
        path = part.get("jsonPath")
        if not isinstance(path, str) or not path.startswith("$"):
            raise ValueError("a part of the arguments without a path")
        steps = [int(index) if index else name or quoted for name, index, quoted in _STEP.findall(path[1:])]
        if not steps or not isinstance(steps[0], str):
            raise ValueError("a part of the arguments without a name")
        holder: Any = self.value
        for step, following in pairwise(steps):
            holder = _slot(holder, step, [] if isinstance(following, int) else {})
        for name in ("stringValue", "numberValue", "boolValue", "nullValue"):
            if name in part:
                _put(holder, steps[-1], None if name == "nullValue" else part[name])
                return
        _slot(holder, steps[-1], "")  # an empty string, or one that is yet to come


def _slot(holder: Any, step: str | int, empty: Any) -> Any:
    """Returns what stands at `step`, after it was made `empty` if there was nothing."""
    if isinstance(holder, dict) and isinstance(step, str):
        return holder.setdefault(step, empty)
    if isinstance(holder, list) and isinstance(step, int) and step < _MAX_ITEMS:
        while len(holder) <= step:
            holder.append(None)
        if holder[step] is None:
            holder[step] = empty
        return holder[step]
    raise ValueError("a part of the arguments at a place that is something else")


def _put(holder: Any, step: str | int, value: Any) -> None:
    """Sets the value at `step`; a string is added to the one that is there."""
    before = _slot(holder, step, "" if isinstance(value, str) else None)
    holder[step] = before + value if isinstance(value, str) and isinstance(before, str) else value
