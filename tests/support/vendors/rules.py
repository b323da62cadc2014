"""Rules that the dialects share: structs of requests refuse unknown fields, as the vendors do."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from tests.support.vendors.play import Refused

T = TypeVar("T")
Fields = dict[str, Any]
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")


class Strict(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A JSON object whose fields are all known."""


def parse(raw: bytes | Fields, kind: type[T], path: str = "") -> T:
    """Returns `raw` as `kind`. Raises `Refused` in msgspec's words, with the path."""
    try:
        return msgspec.json.decode(raw, type=kind) if isinstance(raw, bytes) else msgspec.convert(raw, kind)
    except msgspec.ValidationError as exc:
        raise Refused(f"{path}: {exc}" if path else str(exc)) from None
    except msgspec.DecodeError as exc:
        raise Refused(f"The body is no JSON: {exc}") from None


def need(condition: object, message: str, **more: Any) -> None:
    """Raises `Refused` unless `condition` holds."""
    if not condition:
        raise Refused(message, **more)


def closed(schema: Any, path: str) -> None:
    """Holds a schema to what `strict` asks: each object closed, and each of its properties required."""
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "object":
        need(schema.get("additionalProperties") is False, f"{path}: 'additionalProperties' is required to be false")
        missing = set(schema.get("properties", {})) - set(schema.get("required", ()))
        need(not missing, f"{path}: 'required' has to name every property: {sorted(missing)}")
    for key, value in schema.items():
        for child in value.values() if key in ("properties", "$defs") else [value] if key == "items" else []:
            closed(child, f"{path}.{key}")
