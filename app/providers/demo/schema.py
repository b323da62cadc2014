"""JSON Schema made simple: references followed, `allOf` merged, alternatives in an order of their own.

A schema comes from a caller, who may write anything: what is visited is counted, and has an end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from app.providers.demo.numbers import Unfillable

Schema = dict[str, Any]
_NODES_AT_A_TIME = 500
_ENTRIES_A_NODE = 16
_LONGEST_REFERENCE = 1_000
_MOST_REFERENCES = 40
_LARGEST = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "multipleOf"})
_SMALLEST = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})


class TooMuch(Exception):
    """The schema is larger than we care to look at."""


class Schemas:
    """The schemas below `root`. `rich`: what may be null comes last among alternatives, else first.

    `pause` lets others run now and then. Raises `TooMuch` when `most_nodes` were visited, and `Unfillable`.
    """

    def __init__(self, root: Any, *, rich: bool, most_nodes: int, pause: Callable[[], None]) -> None:
        self._root = root
        self._rich = rich
        self._left = most_nodes
        self._pause = pause
        self.open = ["#"]  # the references that led to where we are

    def spend(self, nodes: int = 1) -> None:
        before, self._left = self._left, self._left - nodes
        if self._left < 0:
            raise TooMuch
        if before // _NODES_AT_A_TIME != self._left // _NODES_AT_A_TIME:
            self._pause()

    def flat(self, schema: Schema) -> Schema:
        """`schema` with what it refers to, and all of its `allOf`, in it. What it refers to is then `open`."""
        for _ in range(_MOST_REFERENCES):
            reference, parts = schema.get("$ref"), schema.get("allOf")
            if not isinstance(reference, str) and not isinstance(parts, list):
                return schema
            schema = {name: value for name, value in schema.items() if name not in ("$ref", "allOf")}
            if isinstance(reference, str):
                self.open.append(reference)
                schema = self._both(self._target(reference), schema)
            for part in parts if isinstance(parts, list) else ():
                if part is False:
                    raise Unfillable
                schema = self._both(schema, part if isinstance(part, dict) else {})
        raise Unfillable  # it leads to itself, and to nothing else

    def branches(self, schema: Schema) -> Iterator[Schema]:
        """The ways to fill a flat schema, the likeliest first; `schema` itself when there is but one."""
        for name in ("anyOf", "oneOf"):
            alternatives = schema.get(name)
            if isinstance(alternatives, list):
                self.spend(len(alternatives))
                rest = {key: value for key, value in schema.items() if key != name}
                for alternative in sorted(alternatives, key=self._rank):
                    if alternative is not False:
                        yield self._both(rest, {"allOf": [alternative]})
                return
        if isinstance(schema.get("if"), dict):
            rest = {key: value for key, value in schema.items() if key not in ("if", "then", "else")}
            yield self._both(rest, {"allOf": [schema["if"], schema.get("then", True)]})
            # Right only where `if` does not hold, which nobody looks into.
            yield self._both(rest, {"allOf": [schema.get("else", True)]})
            return
        yield schema

    def recurs(self, schema: Any) -> bool:
        """Whether `schema` is one of those that are being filled, or a list of one."""
        for _ in range(3):
            if not isinstance(schema, dict):
                return False
            if schema.get("$ref") in self.open:
                return True
            schema = schema.get("items")
        return False

    def _rank(self, alternative: Any) -> tuple[bool, bool]:
        null = isinstance(alternative, dict) and alternative.get("type") == "null"
        return self.recurs(alternative), null if self._rich else not null

    def _target(self, reference: str) -> Schema:
        if reference[:1] != "#" or len(reference) > _LONGEST_REFERENCE:
            raise Unfillable
        target = self._root
        for step in unquote(reference[1:]).split("/")[1:]:
            self.spend()
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and name in target:
                target = target[name]
            elif isinstance(target, list) and name.isascii() and name.isdigit() and int(name[:9]) < len(target):
                target = target[int(name[:9])]
            else:
                raise Unfillable
        if target is False:
            raise Unfillable
        return target if isinstance(target, dict) else {}

    def _both(self, first: Schema, second: Schema) -> Schema:
        """A schema for what fits both."""
        entries = sum(len(value) for value in second.values() if isinstance(value, (dict, list)))
        self.spend(1 + (len(first) + len(second) + entries) // _ENTRIES_A_NODE)
        both = {**first}
        for name, value in second.items():
            if name == "properties" or (name == "additionalProperties" and "properties" in first):
                both["properties"] = self._properties(first, second)
            if name == "properties":
                continue
            if name not in first or first[name] == value:
                both[name] = value
            elif name in ("anyOf", "oneOf", "if"):
                both["allOf"] = [*both.get("allOf", ()), {name: value}]
            else:
                both[name] = self._joined(name, first[name], value)
        return both

    def _properties(self, first: Schema, second: Schema) -> dict[str, Any]:
        """The properties of both: what one of them does not name, it has among its additional ones."""
        of_first, of_second = _mapping(first.get("properties")), _mapping(second.get("properties"))
        self.spend((len(of_first) + len(of_second)) // _ENTRIES_A_NODE)
        both = {}
        for name in of_first | of_second:
            parts = [of_first.get(name, first.get("additionalProperties", True))]
            parts.append(of_second.get(name, second.get("additionalProperties", True)))
            parts = [part for part in parts if part is not True]
            both[name] = parts[0] if len(parts) == 1 else {"allOf": parts}
        return both

    def _joined(self, name: str, first: Any, second: Any) -> Any:
        match first, second:
            case dict(), dict() if name in ("items", "additionalProperties"):
                return {"allOf": [first, second]}
            case list(), list() if name in ("required", "allOf"):
                self.spend(len(first) // _ENTRIES_A_NODE)
                return [*first, *second]
            case list(), list() if name == "enum":
                self.spend(len(first) * len(second) // _ENTRIES_A_NODE)
                return [value for value in first if value in second]
            case int() | float(), int() | float() if name in _LARGEST:
                return max(first, second)
            case int() | float(), int() | float() if name in _SMALLEST:
                return min(first, second)
        if name == "const":
            raise Unfillable
        if name == "type":
            return _types_of_both(names(first), names(second))
        if name == "additionalProperties" and (first is False or second is True):
            return first
        return first if name == "pattern" else second


def names(given: Any) -> list[str]:
    """A list of names, or a single one, as a list."""
    return [name for name in (given if isinstance(given, list) else [given])[:20] if isinstance(name, str)]


def _mapping(given: Any) -> dict[str, Any]:
    return given if isinstance(given, dict) else {}


def _types_of_both(first: list[str], second: list[str]) -> list[str]:
    both = [name for name in first if name in second]
    if "integer" not in both and {"integer", "number"} <= {*first, *second}:
        both.append("integer")
    if not both:
        raise Unfillable
    return both
