"""JSON request bodies: decoding with errors that name the field, and top-level fields as the bytes they came in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from app.domain.suggestions import suggest_field
from app.errors import InvalidRequest

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ERROR_PATH = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`(?P<path>\$[^`]*)`)?$", re.DOTALL)
_MISSING_FIELD = re.compile(r"missing required field `(\w+)`")
_ERROR_BYTE = re.compile(r"JSON is malformed: (?P<what>[^(]+) \(byte (?P<byte>\d+)\)")
_SHOWN_CHARS = 64
_MAX_REASON_CHARS = 100
# For fields in which people write something else.
_EXAMPLES = {"messages": '[{"role": "user", "content": "…"}]'}
encode = msgspec.json.Encoder().encode
_S = TypeVar("_S")


def decode_body(decoder: msgspec.json.Decoder[_S], raw: bytes) -> _S:
    """Returns the request body as decoded by `decoder`. Raises `InvalidRequest` whose `param` names the field."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as exc:
        raise _invalid_field(str(exc), raw) from None
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(_json_error(raw, str(exc))) from None


def replace_fields(raw: bytes, changes: dict[str, Any], drop: Iterable[str] = ()) -> bytes:
    """Returns the JSON object `raw` with some top-level fields set or dropped; every other value keeps its bytes."""
    return encode_fields(_FIELDS.decode(raw), changes, drop)


def encode_fields(fields: Mapping[str, Any], changes: Mapping[str, Any], drop: Iterable[str] = ()) -> bytes:
    """Returns `fields` as a JSON object, some of them set or dropped; every other value keeps its bytes."""
    body = {**fields}
    for name in drop:
        body.pop(name, None)
    body.update(changes)
    return encode(body)


def decode_fields(raw: bytes) -> dict[str, msgspec.Raw]:
    """Returns the top-level fields of the JSON object `raw`, each value as the bytes it came in."""
    return _FIELDS.decode(raw)


def check_field_names(names: Iterable[str], known: frozenset[str], path: str = "") -> None:
    """Raises `InvalidRequest` for another spelling of a known name: some providers' parsers ignore case (Go's does)."""
    for name in names:
        if name not in known and name.casefold() in known:
            param = f"{path}{name[:_SHOWN_CHARS]}"
            raise InvalidRequest(f"Unknown field `{param}`: expected `{name.casefold()}`.", param=param)


def _invalid_field(reason: str, raw: bytes) -> InvalidRequest:
    found = _ERROR_PATH.match(reason)
    what, path = (found["what"], found["path"]) if found else (reason, None)
    param = (path or "").removeprefix("$").lstrip(".")
    missing = _MISSING_FIELD.search(what)
    if missing:
        return missing_field(f"{param}.{missing[1]}" if param else missing[1], suggest_field(missing[1], raw, param))
    if not param:
        return InvalidRequest("The request body must be a JSON object.")
    hint = f" An example: {_EXAMPLES[param]}." if param in _EXAMPLES else ""
    what = what if len(what) <= _MAX_REASON_CHARS else f"{what[:_MAX_REASON_CHARS]}…"  # it may quote the caller's value
    return InvalidRequest(f"{what}: `{param}`.{hint}", param=param)


def missing_field(param: str, similar: str = "") -> InvalidRequest:
    """Returns the error for a missing field; `similar` is a field that was perhaps meant for it."""
    return InvalidRequest(
        f"Missing required field: `{param}`." + (f" There is `{similar}` instead." if similar else ""), param=param
    )


def _json_error(raw: bytes, reason: str) -> str:
    if not raw.strip():
        return "The request body is empty: expected a JSON object."
    found = _ERROR_BYTE.search(reason)
    if found is None:
        return f"The request body is not valid JSON{': it ends too early' if 'truncated' in reason else ''}."
    before = raw[: int(found["byte"])]
    line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
    return f"The request body is not valid JSON: {found['what']} at line {line}, column {column}."
