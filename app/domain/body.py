"""A JSON request body, taken apart and put together: its top-level fields, their names, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from app.errors import InvalidRequest

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_AT = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`(?P<path>\$[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(\w+)`")
_SHOWN_CHARS = 64
encode = msgspec.json.Encoder().encode
_S = TypeVar("_S")


def decoded(decoder: msgspec.json.Decoder[_S], raw: bytes) -> _S:
    """A request body as what `decoder` makes of it. Raises `InvalidRequest`; `param` names the field."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as exc:
        raise _invalid(str(exc)) from None
    except (ValueError, RecursionError):
        raise InvalidRequest("The request body is not valid JSON.") from None


def with_fields(raw: bytes, changes: dict[str, Any], drop: Iterable[str] = ()) -> bytes:
    """The JSON object `raw` with some top-level fields set or dropped; every other value keeps its very bytes."""
    return rebuilt(_FIELDS.decode(raw), changes, drop)


def rebuilt(fields: Mapping[str, Any], changes: Mapping[str, Any], drop: Iterable[str] = ()) -> bytes:
    """The JSON object of `fields`, some of them set or dropped; every other value keeps its very bytes."""
    body = {**fields}
    for name in drop:
        body.pop(name, None)
    body.update(changes)
    return encode(body)


def field_bytes(raw: bytes) -> dict[str, msgspec.Raw]:
    """The top-level fields of the JSON object `raw`, each value as the bytes it came in."""
    return _FIELDS.decode(raw)


def check_names(names: Iterable[str], known: frozenset[str], path: str = "") -> None:
    """Raises `InvalidRequest` for another spelling of a known name: some providers' parsers ignore case (Go's does)."""
    for name in names:
        if name not in known and name.casefold() in known:
            param = f"{path}{name[:_SHOWN_CHARS]}"
            raise InvalidRequest(f"Unknown field `{param}`: expected `{name.casefold()}`.", param=param)


def _invalid(reason: str) -> InvalidRequest:
    found = _AT.match(reason)
    what, path = (found["what"], found["path"]) if found else (reason, None)
    param = (path or "").removeprefix("$").lstrip(".")
    missing = _MISSING.search(what)
    if missing:
        param = f"{param}.{missing[1]}" if param else missing[1]
        what = "Missing required field"
    if not param:
        return InvalidRequest("The request body must be a JSON object.")
    return InvalidRequest(f"{what}: `{param}`.", param=param)
