"""Schemas of Gemini: its OpenAPI subset read as JSON Schema, and JSON Schema as Gemini takes it.

Source: Google's API reference, "Schema", and `responseJsonSchema` of "GenerationConfig".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.domain.gemini_names import camel

_SUBSCHEMAS = frozenset({"items", "additionalProperties", "not"})
_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_MAPS = frozenset({"properties", "$defs", "definitions", "patternProperties"})
_COUNTS = frozenset({"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"})
_OPENAPI_ONLY = frozenset({"propertyOrdering", "example", "nullable"})
# Field names of Google's that JSON Schema spells otherwise.
_RENAMED: dict[str, str] = {"ref": "$ref", "defs": "$defs"}
_SPOKEN_SNAKE = frozenset(
    {"any_of", "prefix_items", "additional_properties", "property_ordering", "min_items", "max_items", "min_length"}
    | {"max_length", "min_properties", "max_properties"}
)
_TYPES = frozenset({"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"})


def read_schema(schema: Any) -> Any:
    """Returns a caller's schema, in Google's subset or as JSON Schema, as JSON Schema.

    Types are written in lower case, `nullable` becomes a type, and 64-bit counts, which Google writes as strings,
    numbers.
    """
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    given: str
    for given, value in schema.items():
        name = camel(given) if given in _SPOKEN_SNAKE else _RENAMED.get(given, given)
        if name in _OPENAPI_ONLY or (name == "type" and value == "TYPE_UNSPECIFIED"):
            continue
        if name == "format" and value == "enum":
            continue
        found[name] = _read_value(name, value)
    return _nullable(found) if schema.get("nullable") is True else found


def _read_value(name: str, value: Any) -> Any:
    if name == "type":
        return [_type(each) for each in value] if isinstance(value, list) else _type(value)
    if name in _COUNTS and isinstance(value, str) and value.isdecimal():
        return int(value)
    return _map_inner(name, value, read_schema)


def _type(name: Any) -> Any:
    return name.lower() if isinstance(name, str) and name in _TYPES else name


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type")
    if isinstance(kind, str) and "enum" not in schema:
        return {**schema, "type": [kind, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def write_schema(schema: Any) -> Any:
    """Returns a JSON Schema as Gemini takes it.

    Beside a `$ref` nothing else may stand, `const` is unknown, and definitions stand in `$defs` alone.
    """
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for name, value in schema.items():
        if name == "const":
            found.setdefault("enum", [value])
        elif name == "definitions":
            found["$defs"] = {**found.get("$defs", {}), **_map_inner(name, value, write_schema)}
        elif name == "$ref" and isinstance(value, str):
            found[name] = value.replace("#/definitions/", "#/$defs/", 1)
        else:
            found[name] = _map_inner(name, value, write_schema)
    if "$ref" in found and any(not name.startswith("$") for name in found):
        return {**{name: value for name, value in found.items() if name != "$ref"}, "anyOf": [{"$ref": found["$ref"]}]}
    return found


def _map_inner(name: str, value: Any, turn: Callable[[Any], Any]) -> Any:
    """Returns the value of a keyword with `turn` applied to each schema in it."""
    if name in _SUBSCHEMAS:
        return [turn(each) for each in value] if isinstance(value, list) else turn(value)
    if name in _LISTS and isinstance(value, list):
        return [turn(each) for each in value]
    if name in _MAPS and isinstance(value, dict):
        return {key: turn(each) for key, each in value.items()}
    return value
