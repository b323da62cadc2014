"""Suggestions for unknown names of fields and models: looked for only once something is wrong, and with bounds."""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Iterable, Sequence
from itertools import islice

import msgspec

_LONGEST_BODY = 262_144  # that is looked into once more
_MOST_NAMES = 200
_LONGEST_NAME = 64
_ALIKE = 0.75
_COMPARED = 3
_MOST_LISTED = 5
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
# Not alike, but said of the same thing, by other APIs or by people.
_ALSO_CALLED = {
    "messages": ("prompt", "input", "conversation"),
    "input": ("text", "texts", "prompt", "content"),
    "message": ("prompt", "input", "text", "question", "content"),
    "prompt": ("messages", "input", "text"),
    "content": ("text", "message", "value"),
    "role": ("type", "author", "from"),
    "input_file_id": ("file_id", "file"),
}


def closest_match(name: str, candidates: Iterable[str]) -> str:
    """The candidate that is most like `name`, whatever the case; "" when none is."""
    some = islice((candidate for candidate in candidates if len(candidate) <= _LONGEST_NAME), _MOST_NAMES)
    by_folded = {candidate.casefold(): candidate for candidate in some}
    wanted = name[: _LONGEST_NAME + 1].casefold()
    # difflib takes 0.1 ms a candidate, this 0.003.
    pairs = _pairs(wanted)
    likely = heapq.nlargest(_COMPARED, by_folded, key=lambda candidate: _shared(pairs, _pairs(candidate)))
    near = difflib.get_close_matches(wanted, likely, 1, _ALIKE)
    return by_folded[near[0]] if near else ""


def _pairs(text: str) -> set[str]:
    return {text[i : i + 2] for i in range(len(text) - 1)}


def _shared(some: set[str], others: set[str]) -> float:
    """Dice's coefficient."""
    return len(some & others) / (len(some) + len(others) or 1)


def suggest_field(field: str, raw: bytes, path: str = "") -> str:
    """The field that somebody may have written for the missing `field` of the object at `path` in the JSON `raw`."""
    given = _names_at(raw, path) if len(raw) <= _LONGEST_BODY else []
    near = closest_match(field, given)
    if near:
        return near
    return next((other for other in _ALSO_CALLED.get(field, ()) if other in given), "")


def unknown_model_message(model: str, usable: Sequence[str]) -> str:
    """The message for a model that does not exist; `usable` are those that could be had."""
    shown = "".join(char if char.isprintable() else "?" for char in model[:_LONGEST_NAME])
    near = closest_match(model, usable) or closest_match(model.rpartition("/")[2], usable)
    if near:
        return f"The model `{shown}` does not exist on this gateway. Did you mean `{near}`?"
    some = ", ".join(f"`{name}`" for name in usable[:_MOST_LISTED])
    more = f" and {len(usable) - _MOST_LISTED} more (GET /v1/models)" if len(usable) > _MOST_LISTED else ""
    return f"The model `{shown}` does not exist on this gateway." + (f" It has {some}{more}." if some else "")


def _names_at(raw: bytes, path: str) -> list[str]:
    try:
        for key, index in _STEP.findall(path):
            raw = bytes(_ARRAY.decode(raw)[int(index)] if index else _OBJECT.decode(raw)[key])
        return list(_OBJECT.decode(raw))
    except (ValueError, KeyError, IndexError, RecursionError):
        return []  # a name with a dot in it, or not what it looked like
