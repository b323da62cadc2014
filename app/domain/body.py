"""A JSON request body, taken apart and put together: its top-level fields, their names, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from app.domain.suggestions import suggest_field
from app.errors import InvalidRequest

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_AT = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`(?P<path>\$[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(\w+)`")
_AT_BYTE = re.compile(r"JSON is malformed: (?P<what>[^(]+) \(byte (?P<byte>\d+)\)")
_SHOWN_CHARS = 64
_LONGEST_REASON = 100
# Where people write something else.
_EXAMPLES = {"messages": '[{"role": "user", "content": "…"}]'}
encode = msgspec.json.Encoder().encode
_S = TypeVar("_S")


def decode_body(decoder: msgspec.json.Decoder[_S], raw: bytes) -> _S:
    """A request body as what `decoder` makes of it. Raises `InvalidRequest`; `param` names the field."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as exc:
        raise _invalid(str(exc), raw) from None
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(_no_json(raw, str(exc))) from None


def replace_fields(raw: bytes, changes: dict[str, Any], drop: Iterable[str] = ()) -> bytes:
    """The JSON object `raw` with some top-level fields set or dropped; every other value keeps its very bytes."""
    return encode_fields(_FIELDS.decode(raw), changes, drop)


def encode_fields(fields: Mapping[str, Any], changes: Mapping[str, Any], drop: Iterable[str] = ()) -> bytes:
    """The JSON object of `fields`, some of them set or dropped; every other value keeps its very bytes."""
    body = {**fields}
    for name in drop:
        body.pop(name, None)
    body.update(changes)
    return encode(body)


def decode_fields(raw: bytes) -> dict[str, msgspec.Raw]:
    """The top-level fields of the JSON object `raw`, each value as the bytes it came in."""
    return _FIELDS.decode(raw)


def check_field_names(names: Iterable[str], known: frozenset[str], path: str = "") -> None:
    """Raises `InvalidRequest` for another spelling of a known name: some providers' parsers ignore case (Go's does)."""
    for name in names:
        if name not in known and name.casefold() in known:
            param = f"{path}{name[:_SHOWN_CHARS]}"
            raise InvalidRequest(f"Unknown field `{param}`: expected `{name.casefold()}`.", param=param)


def _invalid(reason: str, raw: bytes) -> InvalidRequest:
    found = _AT.match(reason)
    what, path = (found["what"], found["path"]) if found else (reason, None)
    param = (path or "").removeprefix("$").lstrip(".")
    lacking = _MISSING.search(what)
    if lacking:
        return missing_field(f"{param}.{lacking[1]}" if param else lacking[1], suggest_field(lacking[1], raw, param))
    if not param:
        return InvalidRequest("The request body must be a JSON object.")
    hint = f" An example: {_EXAMPLES[param]}." if param in _EXAMPLES else ""
    what = what if len(what) <= _LONGEST_REASON else f"{what[:_LONGEST_REASON]}…"  # it may quote the caller's value
    return InvalidRequest(f"{what}: `{param}`.{hint}", param=param)


def missing_field(param: str, meant: str = "") -> InvalidRequest:
    """The error of a field that is not there; `meant` is what was perhaps sent for it."""
    return InvalidRequest(
        f"Missing required field: `{param}`." + (f" There is `{meant}` instead." if meant else ""), param=param
    )


def _no_json(raw: bytes, reason: str) -> str:
    if not raw.strip():
        return "The request body is empty: expected a JSON object."
    found = _AT_BYTE.search(reason)
    if found is None:
        return f"The request body is not valid JSON{': it ends too early' if 'truncated' in reason else ''}."
    before = raw[: int(found["byte"])]
    line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
    return f"The request body is not valid JSON: {found['what']} at line {line}, column {column}."
