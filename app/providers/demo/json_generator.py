"""Generator of JSON values that fit a JSON Schema, for the demo model's structured answers and tool arguments.

It understands the keywords of OpenAI's strict schemas and those that pydantic, zod and OpenAPI 3.0 write. A schema
comes from a caller, who may write anything: how much is visited and written, and how deep, is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from app.providers.demo.message_hints import MessageHints, fit_length, has_format
from app.providers.demo.numbers import Range, Unsatisfiable, as_number
from app.providers.demo.pattern import generate_match
from app.providers.demo.schema import Schema, SchemaResolver, TooComplex, as_names

_MAX_DEPTH = 40
_MAX_NODES = 10_000
_CHARS_PER_NODE = 16
_MAX_ITEMS = 8
_SCALARS = (str, int, float, bool)
# The type that a keyword implies in a schema without one.
_IMPLIED_TYPES = {
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


def generate_json(schema: Any, message: str, *, pause: Callable[[], None], max_nodes: int = _MAX_NODES) -> Any:
    """Returns a value for `schema`, in the words of `message` where they fit; `pause` is called now and then.

    Raises `Unsatisfiable` when no value fits, or none was found within the bounds.
    """
    for rich in (True, False):
        schemas = SchemaResolver(schema, rich=rich, max_nodes=max_nodes, pause=pause)
        try:
            return _Generator(schemas, MessageHints(message), rich=rich).value(schema, "", 0, 0)
        except (TooComplex, Unsatisfiable, RecursionError):
            continue
    raise Unsatisfiable


class _Generator:
    """A generator for one schema. `rich`: lists have an item and dictionaries an entry, unless a schema leads to
    itself; else values are as small as they may be."""

    def __init__(self, schemas: SchemaResolver, hints: MessageHints, *, rich: bool) -> None:
        self._schemas = schemas
        self._spend = schemas.spend
        self._hints = hints
        self._rich = rich

    def value(self, schema: Any, key: str, depth: int, nth: int) -> Any:
        """Returns a value for the property `key`; `nth` tells the values of one list apart."""
        self._spend()
        if depth > _MAX_DEPTH or schema is False:
            raise Unsatisfiable
        depth_before = len(self._schemas.open_references)
        try:
            flat = self._schemas.flatten(schema if isinstance(schema, dict) else {})
            for branch in self._schemas.alternatives(flat):
                try:
                    if branch is flat:
                        return self._simple(branch, key, depth, nth)
                    return self.value(branch, key, depth + 1, nth)
                except Unsatisfiable:
                    continue
            raise Unsatisfiable
        finally:
            del self._schemas.open_references[depth_before:]

    def _simple(self, schema: Schema, key: str, depth: int, nth: int) -> Any:
        for value in self._named_values(schema, nth):
            if _accepts(schema, value):
                self._spend(len(_encode(value)) // _CHARS_PER_NODE)
                return value
        if "const" in schema or isinstance(schema.get("enum"), list):
            raise Unsatisfiable
        implied = next((_IMPLIED_TYPES[name] for name in schema if name in _IMPLIED_TYPES), "string")
        kinds = as_names(schema.get("type")) or [implied]
        for kind in sorted(kinds, key=lambda kind: (kind == "null") is self._rich):
            try:
                return self._of_type(kind, schema, key, depth, nth)
            except Unsatisfiable:
                continue
        raise Unsatisfiable

    def _named_values(self, schema: Schema, nth: int) -> Iterator[Any]:
        """Yields the values that the schema itself names: constants, members of an enum, examples."""
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
        raise Unsatisfiable

    def _number(self, allowed: Range, nth: int) -> int | float:
        given = self._hints.number(allowed) if nth == 0 else None
        return as_number(allowed.pick(nth) if given is None else given)

    def _string(self, schema: Schema, key: str, nth: int) -> str:
        least, most = _bound(schema, "minLength"), _bound(schema, "maxLength", math.inf)
        pattern, name = schema.get("pattern"), schema.get("format")
        text: str | None = None
        if isinstance(pattern, str):
            text = generate_match(pattern, int(least))
        elif isinstance(name, str) and has_format(name):
            text = self._hints.formatted(name, nth)
        if text is None:
            text = fit_length(self._hints.string(key, nth), int(least), most)
        self._spend(len(text) // _CHARS_PER_NODE)
        if not least <= len(text) <= most:
            raise Unsatisfiable
        return text

    def _array(self, schema: Schema, key: str, depth: int) -> list[Any]:
        first, each = schema.get("prefixItems"), schema.get("items", schema.get("contains", {}))
        if isinstance(each, list):  # as older drafts write tuples
            first, each = each, schema.get("additionalItems", {})
        first = first if isinstance(first, list) else []
        least, most = _bound(schema, "minItems"), _bound(schema, "maxItems", math.inf)
        wanted = len(first)
        if self._rich and not first and not self._schemas.is_recursive(each):
            wanted = min(max(1, len(self._hints.names_for_list(key))), _MAX_ITEMS)
        values: list[Any] = []
        while len(values) < max(min(wanted, most), least):
            nth = len(values)
            try:
                values.append(self.value(first[nth] if nth < len(first) else each, key, depth + 1, nth))
            except Unsatisfiable:
                if nth < least:
                    raise
                break
        if schema.get("uniqueItems") is True and len({_encode(value) for value in values}) < len(values):
            raise Unsatisfiable
        if len(values) > most:
            raise Unsatisfiable
        return values

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        given = schema.get("properties")
        properties: dict[str, Any] = given if isinstance(given, dict) else {}
        others = schema.get("additionalProperties", {})
        required = self._required(schema)
        least, most = _bound(schema, "minProperties"), _bound(schema, "maxProperties", math.inf)
        if self._rich and not properties and isinstance(others, dict) and others and "propertyNames" not in schema:
            least = max(least, min(1, most))  # a dictionary
        every_property = self._rich and not required
        values: dict[str, Any] = {}
        for name, part in properties.items():
            if name in required:
                self._add_property(values, name, part, depth)
            elif every_property and not self._schemas.is_recursive(part):
                self._try_property(values, name, part, depth)
        for name in required:
            if name not in values:
                self._add_property(values, name, others, depth)
        for name, part in properties.items() if len(values) < least else ():
            if name not in values and len(values) < least:
                self._try_property(values, name, part, depth)
        while len(values) < least:
            self._add_property(values, f"key{len(values) + 1}", others, depth)
        if len(values) > most:
            raise Unsatisfiable
        return values

    def _add_property(self, values: dict[str, Any], name: str, part: Any, depth: int) -> None:
        self._spend(len(name) // _CHARS_PER_NODE)
        values[name] = self.value(part, name, depth + 1, 0)

    def _try_property(self, values: dict[str, Any], name: str, part: Any, depth: int) -> None:
        try:
            self._add_property(values, name, part, depth)
        except Unsatisfiable:
            pass

    def _required(self, schema: Schema) -> dict[str, None]:
        """Returns the names that must be there, with those that they bring along, in order."""
        given, dependent = schema.get("required"), schema.get("dependentRequired")
        left = [name for name in reversed(given if isinstance(given, list) else []) if isinstance(name, str)]
        self._spend(len(left) // _CHARS_PER_NODE)
        required: dict[str, None] = {}
        while left:
            name = left.pop()
            if name not in required:
                required[name] = None
                more = as_names(dependent.get(name)) if isinstance(dependent, dict) else []
                self._spend(len(more))
                left += more
        return required


def _bound(schema: Schema, name: str, default: float = 0) -> float:
    value = schema.get(name)
    return value if isinstance(value, (int, float)) and value >= 0 else default


def _accepts(schema: Schema, value: Any) -> bool:
    """Returns True if a value that the schema itself names also fits its other keywords."""
    kinds = as_names(schema.get("type"))
    if kinds and not any(
        isinstance(value, _TYPES.get(kind, ())) and (isinstance(value, bool) is (kind == "boolean")) for kind in kinds
    ):
        return isinstance(value, float) and value.is_integer() and "integer" in kinds
    enum, without = schema.get("enum"), schema.get("not")
    if "const" in schema and isinstance(enum, list) and value not in enum:
        return False
    if isinstance(without, dict) and (value == without.get("const", ...) or value in _as_list(without.get("enum"))):
        return False
    if isinstance(value, str):
        return _bound(schema, "minLength") <= len(value) <= _bound(schema, "maxLength", math.inf)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Range(schema, whole=False).has(value)
    return True


def _as_list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else []
