"""JSON Schema resolver: follows references, merges `allOf`, and puts alternatives in order.

A schema comes from a caller, who may write anything: the nodes that are visited are counted, and bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from app.providers.demo.numbers import Unsatisfiable

Schema = dict[str, Any]
_NODES_PER_PAUSE = 500
_ENTRIES_PER_NODE = 16
_MAX_REFERENCE_CHARS = 1_000
_MAX_REFERENCES = 40
_LOWER_BOUNDS = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "multipleOf"})
_UPPER_BOUNDS = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})


class TooComplex(Exception):
    """More nodes of the schema were visited than are allowed."""


class SchemaResolver:
    """The schemas below `root`. `rich`: null comes last among alternatives, else first.

    `pause` lets other greenlets run now and then. Raises `TooComplex` when `max_nodes` were visited, and
    `Unsatisfiable`.
    """

    def __init__(self, root: Any, *, rich: bool, max_nodes: int, pause: Callable[[], None]) -> None:
        self._root = root
        self._rich = rich
        self._nodes_left = max_nodes
        self._pause = pause
        self.open_references = ["#"]  # those that led to the schema in hand

    def spend(self, nodes: int = 1) -> None:
        """Takes `nodes` from those that may be visited. Raises `TooComplex` when none are left."""
        before, self._nodes_left = self._nodes_left, self._nodes_left - nodes
        if self._nodes_left < 0:
            raise TooComplex
        if before // _NODES_PER_PAUSE != self._nodes_left // _NODES_PER_PAUSE:
            self._pause()

    def flatten(self, schema: Schema) -> Schema:
        """Returns `schema` with its references and `allOf` merged into it. They are then `open_references`."""
        for _ in range(_MAX_REFERENCES):
            reference, parts = schema.get("$ref"), schema.get("allOf")
            if not isinstance(reference, str) and not isinstance(parts, list):
                return schema
            schema = {name: value for name, value in schema.items() if name not in ("$ref", "allOf")}
            if isinstance(reference, str):
                self.open_references.append(reference)
                schema = self._merge(self._resolve(reference), schema)
            for part in parts if isinstance(parts, list) else ():
                if part is False:
                    raise Unsatisfiable
                schema = self._merge(schema, part if isinstance(part, dict) else {})
        raise Unsatisfiable  # it leads to itself, and to nothing else

    def alternatives(self, schema: Schema) -> Iterator[Schema]:
        """Yields the alternatives of a flattened schema, the likeliest first; `schema` itself if it has none."""
        for name in ("anyOf", "oneOf"):
            given = schema.get(name)
            if isinstance(given, list):
                self.spend(len(given))
                rest = {key: value for key, value in schema.items() if key != name}
                for alternative in sorted(given, key=self._rank):
                    if alternative is not False:
                        yield self._merge(rest, {"allOf": [alternative]})
                return
        if isinstance(schema.get("if"), dict):
            rest = {key: value for key, value in schema.items() if key not in ("if", "then", "else")}
            yield self._merge(rest, {"allOf": [schema["if"], schema.get("then", True)]})
            # Right only where `if` does not hold, which is not checked.
            yield self._merge(rest, {"allOf": [schema.get("else", True)]})
            return
        yield schema

    def is_recursive(self, schema: Any) -> bool:
        """Returns True if `schema` is one of those that led to it, or a list of one."""
        for _ in range(3):
            if not isinstance(schema, dict):
                return False
            if schema.get("$ref") in self.open_references:
                return True
            schema = schema.get("items")
        return False

    def _rank(self, alternative: Any) -> tuple[bool, bool]:
        null = isinstance(alternative, dict) and alternative.get("type") == "null"
        return self.is_recursive(alternative), null if self._rich else not null

    def _resolve(self, reference: str) -> Schema:
        if reference[:1] != "#" or len(reference) > _MAX_REFERENCE_CHARS:
            raise Unsatisfiable
        target = self._root
        for step in unquote(reference[1:]).split("/")[1:]:
            self.spend()
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and name in target:
                target = target[name]
            elif isinstance(target, list) and name.isascii() and name.isdigit() and int(name[:9]) < len(target):
                target = target[int(name[:9])]
            else:
                raise Unsatisfiable
        if target is False:
            raise Unsatisfiable
        return target if isinstance(target, dict) else {}

    def _merge(self, first: Schema, second: Schema) -> Schema:
        """Returns a schema of the values that fit both."""
        entries = sum(len(value) for value in second.values() if isinstance(value, (dict, list)))
        self.spend(1 + (len(first) + len(second) + entries) // _ENTRIES_PER_NODE)
        merged = {**first}
        for name, value in second.items():
            if name == "properties" or (name == "additionalProperties" and "properties" in first):
                merged["properties"] = self._merge_properties(first, second)
            if name == "properties":
                continue
            if name not in first or first[name] == value:
                merged[name] = value
            elif name in ("anyOf", "oneOf", "if"):
                merged["allOf"] = [*merged.get("allOf", ()), {name: value}]
            else:
                merged[name] = self._merge_keyword(name, first[name], value)
        return merged

    def _merge_properties(self, first: Schema, second: Schema) -> dict[str, Any]:
        """Returns the properties of both; one that a schema does not name is among its additional ones."""
        of_first, of_second = _as_dict(first.get("properties")), _as_dict(second.get("properties"))
        self.spend((len(of_first) + len(of_second)) // _ENTRIES_PER_NODE)
        merged = {}
        for name in of_first | of_second:
            parts = [of_first.get(name, first.get("additionalProperties", True))]
            parts.append(of_second.get(name, second.get("additionalProperties", True)))
            parts = [part for part in parts if part is not True]
            merged[name] = parts[0] if len(parts) == 1 else {"allOf": parts}
        return merged

    def _merge_keyword(self, name: str, first: Any, second: Any) -> Any:
        match first, second:
            case dict(), dict() if name in ("items", "additionalProperties"):
                return {"allOf": [first, second]}
            case list(), list() if name in ("required", "allOf"):
                self.spend(len(first) // _ENTRIES_PER_NODE)
                return [*first, *second]
            case list(), list() if name == "enum":
                self.spend(len(first) * len(second) // _ENTRIES_PER_NODE)
                return [value for value in first if value in second]
            case int() | float(), int() | float() if name in _LOWER_BOUNDS:
                return max(first, second)
            case int() | float(), int() | float() if name in _UPPER_BOUNDS:
                return min(first, second)
        if name == "const":
            raise Unsatisfiable
        if name == "type":
            return _merge_types(as_names(first), as_names(second))
        if name == "additionalProperties" and (first is False or second is True):
            return first
        return first if name == "pattern" else second


def as_names(given: Any) -> list[str]:
    """Returns a list of names, or a single one, as a list."""
    return [name for name in (given if isinstance(given, list) else [given])[:20] if isinstance(name, str)]


def _as_dict(given: Any) -> dict[str, Any]:
    return given if isinstance(given, dict) else {}


def _merge_types(first: list[str], second: list[str]) -> list[str]:
    merged = [name for name in first if name in second]
    if "integer" not in merged and {"integer", "number"} <= {*first, *second}:
        merged.append("integer")
    if not merged:
        raise Unsatisfiable
    return merged
