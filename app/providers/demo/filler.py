"""A value that fits a JSON Schema, for the demo model's structured answers and tool arguments.

Understood are the keywords of OpenAI's strict schemas and those that pydantic, zod and OpenAPI 3.0 write. A schema
comes from a caller, who may write anything: how much is visited and written, and how deep, is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from app.providers.demo.numbers import Range, Unfillable, as_number
from app.providers.demo.pattern import matching
from app.providers.demo.schema import Schema, Schemas, TooMuch, names
from app.providers.demo.values import Hints, fitted, has_format

_DEEPEST = 40
_MOST_NODES = 10_000
_CHARS_A_NODE = 16
_MOST_LISTED = 8
_SCALARS = (str, int, float, bool)
# What a schema without a type is about.
_TYPE_OF = {
    "properties": "object",
    "required": "object",
    "additionalProperties": "object",
    "minProperties": "object",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "minimum": "number",
    "maximum": "number",
    "exclusiveMinimum": "number",
    "exclusiveMaximum": "number",
    "multipleOf": "number",
}
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_encode = msgspec.json.Encoder().encode


def filled(schema: Any, message: str, *, pause: Callable[[], None], most_nodes: int = _MOST_NODES) -> Any:
    """A value for `schema`, in the words of `message` where they fit; `pause` is called now and then.

    Raises `Unfillable` when no value fits, or none was found within the bounds.
    """
    for rich in (True, False):
        schemas = Schemas(schema, rich=rich, most_nodes=most_nodes, pause=pause)
        try:
            return _Filler(schemas, Hints(message), rich=rich).value(schema, "", 0, 0)
        except (TooMuch, Unfillable, RecursionError):
            continue
    raise Unfillable


class _Filler:
    """`rich`: lists have an item and dictionaries an entry, unless a schema leads to itself; else the least."""

    def __init__(self, schemas: Schemas, hints: Hints, *, rich: bool) -> None:
        self._schemas = schemas
        self._spend = schemas.spend
        self._hints = hints
        self._rich = rich

    def value(self, schema: Any, key: str, depth: int, nth: int) -> Any:
        """A value for the property `key`; `nth` tells those of one list apart."""
        self._spend()
        if depth > _DEEPEST or schema is False:
            raise Unfillable
        opened = len(self._schemas.open)
        try:
            flat = self._schemas.flat(schema if isinstance(schema, dict) else {})
            for branch in self._schemas.branches(flat):
                try:
                    if branch is flat:
                        return self._simple(branch, key, depth, nth)
                    return self.value(branch, key, depth + 1, nth)
                except Unfillable:
                    continue
            raise Unfillable
        finally:
            del self._schemas.open[opened:]

    def _simple(self, schema: Schema, key: str, depth: int, nth: int) -> Any:
        for value in self._given(schema, nth):
            if _accepts(schema, value):
                self._spend(len(_encode(value)) // _CHARS_A_NODE)
                return value
        if "const" in schema or isinstance(schema.get("enum"), list):
            raise Unfillable
        kinds = names(schema.get("type")) or [next((_TYPE_OF[name] for name in schema if name in _TYPE_OF), "string")]
        for kind in sorted(kinds, key=lambda kind: (kind == "null") is self._rich):
            try:
                return self._of_type(kind, schema, key, depth, nth)
            except Unfillable:
                continue
        raise Unfillable

    def _given(self, schema: Schema, nth: int) -> Iterator[Any]:
        """Values that the schema itself names."""
        if "const" in schema:
            yield schema["const"]
            return
        values = schema.get("enum")
        if isinstance(values, list):
            self._spend(len(values))
            if nth == 0:
                lower = self._hints.lower
                yield from (value for value in values if isinstance(value, str) and value and value.lower() in lower)
            yield from values[nth:]
            yield from values[:nth]
            return
        examples = schema.get("examples")
        if isinstance(examples, list):
            yield from (value for value in examples[nth : nth + 10] if isinstance(value, _SCALARS))
        if nth == 0:
            yield from (schema[name] for name in ("example", "default") if isinstance(schema.get(name), _SCALARS))

    def _of_type(self, kind: str, schema: Schema, key: str, depth: int, nth: int) -> Any:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, key, depth)
            case "string":
                return self._string(schema, key, nth)
            case "integer" | "number":
                return self._number(Range(schema, whole=kind == "integer"), nth)
            case "boolean" if nth < 2:
                return nth == 0
            case "null" if nth == 0:
                return None
        raise Unfillable

    def _number(self, allowed: Range, nth: int) -> int | float:
        given = self._hints.number(allowed) if nth == 0 else None
        return as_number(allowed.pick(nth) if given is None else given)

    def _string(self, schema: Schema, key: str, nth: int) -> str:
        least, most = _count(schema, "minLength"), _count(schema, "maxLength", math.inf)
        pattern, name = schema.get("pattern"), schema.get("format")
        text: str | None = None
        if isinstance(pattern, str):
            text = matching(pattern, int(least))
        elif isinstance(name, str) and has_format(name):
            text = self._hints.formatted(name, nth)
        if text is None:
            text = fitted(self._hints.string(key, nth), int(least), most)
        self._spend(len(text) // _CHARS_A_NODE)
        if not least <= len(text) <= most:
            raise Unfillable
        return text

    def _array(self, schema: Schema, key: str, depth: int) -> list[Any]:
        first, each = schema.get("prefixItems"), schema.get("items", schema.get("contains", {}))
        if isinstance(each, list):  # as older drafts write tuples
            first, each = each, schema.get("additionalItems", {})
        first = first if isinstance(first, list) else []
        least, most = _count(schema, "minItems"), _count(schema, "maxItems", math.inf)
        wanted = len(first)
        if self._rich and not first and not self._schemas.recurs(each):
            wanted = min(max(1, len(self._hints.listed(key))), _MOST_LISTED)
        made: list[Any] = []
        while len(made) < max(min(wanted, most), least):
            nth = len(made)
            try:
                made.append(self.value(first[nth] if nth < len(first) else each, key, depth + 1, nth))
            except Unfillable:
                if nth < least:
                    raise
                break
        if schema.get("uniqueItems") is True and len({_encode(value) for value in made}) < len(made):
            raise Unfillable
        if len(made) > most:
            raise Unfillable
        return made

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        given = schema.get("properties")
        properties: dict[str, Any] = given if isinstance(given, dict) else {}
        others = schema.get("additionalProperties", {})
        required = self._required(schema)
        least, most = _count(schema, "minProperties"), _count(schema, "maxProperties", math.inf)
        if self._rich and not properties and isinstance(others, dict) and others and "propertyNames" not in schema:
            least = max(least, min(1, most))  # a dictionary
        all_of_it = self._rich and not required
        made: dict[str, Any] = {}
        for name, part in properties.items():
            if name in required:
                self._add(made, name, part, depth)
            elif all_of_it and not self._schemas.recurs(part):
                self._try(made, name, part, depth)
        for name in required:
            if name not in made:
                self._add(made, name, others, depth)
        for name, part in properties.items() if len(made) < least else ():
            if name not in made and len(made) < least:
                self._try(made, name, part, depth)
        while len(made) < least:
            self._add(made, f"key{len(made) + 1}", others, depth)
        if len(made) > most:
            raise Unfillable
        return made

    def _add(self, made: dict[str, Any], name: str, part: Any, depth: int) -> None:
        self._spend(len(name) // _CHARS_A_NODE)
        made[name] = self.value(part, name, depth + 1, 0)

    def _try(self, made: dict[str, Any], name: str, part: Any, depth: int) -> None:
        try:
            self._add(made, name, part, depth)
        except Unfillable:
            pass

    def _required(self, schema: Schema) -> dict[str, None]:
        """The names that must be there, and those that they bring along."""
        given, brings = schema.get("required"), schema.get("dependentRequired")
        left = [name for name in reversed(given if isinstance(given, list) else []) if isinstance(name, str)]
        self._spend(len(left) // _CHARS_A_NODE)
        required: dict[str, None] = {}
        while left:
            name = left.pop()
            if name not in required:
                required[name] = None
                more = names(brings.get(name)) if isinstance(brings, dict) else []
                self._spend(len(more))
                left += more
        return required


def _count(schema: Schema, name: str, otherwise: float = 0) -> float:
    value = schema.get(name)
    return value if isinstance(value, (int, float)) and value >= 0 else otherwise


def _accepts(schema: Schema, value: Any) -> bool:
    """Whether a value that the schema names itself keeps to what else it says of values of its type."""
    kinds = names(schema.get("type"))
    if kinds and not any(
        isinstance(value, _TYPES.get(kind, ())) and (isinstance(value, bool) is (kind == "boolean")) for kind in kinds
    ):
        return isinstance(value, float) and value.is_integer() and "integer" in kinds
    enum, without = schema.get("enum"), schema.get("not")
    if "const" in schema and isinstance(enum, list) and value not in enum:
        return False
    if isinstance(without, dict) and (value == without.get("const", ...) or value in _listed(without.get("enum"))):
        return False
    if isinstance(value, str):
        return _count(schema, "minLength") <= len(value) <= _count(schema, "maxLength", math.inf)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Range(schema, whole=False).has(value)
    return True


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else []
