"""Fields of a JSON object, taken one by one, so that nothing in it is overlooked: what is left at the end is noted."""

from __future__ import annotations

from typing import Any, TypeVar

from app.errors import InvalidRequest

T = TypeVar("T")
_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "a boolean", list: "an array", dict: "an object"}


class Notes:
    """Fields of a prompt that the neutral form has no word for, by path. See `content.Prompt`."""

    def __init__(self) -> None:
        self.hints: dict[str, Any] = {}
        self.foreign: dict[str, Any] = {}


class Fields:
    """One JSON object of a request. `path` is where it stands in the body, "" for the body itself."""

    __slots__ = ("_left", "notes", "path")

    def __init__(self, value: object, path: str, notes: Notes) -> None:
        if not isinstance(value, dict):
            raise InvalidRequest(f"Expected an object: `{path}`.", param=path)
        self._left = dict(value)
        self.notes = notes
        self.path = path

    def at(self, name: str) -> str:
        """Returns the path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def take(self, name: str, kind: type[T]) -> T | None:
        """Returns a field's value; None if it is absent or null. Raises `InvalidRequest` for one of another type."""
        value = self._left.pop(name, None)
        if value is None:
            return None
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
        if kind is float and type(value) is int:
            return float(value)  # type: ignore[return-value]
        raise InvalidRequest(f"Expected {_NAMES[kind]}: `{self.at(name)}`.", param=self.at(name))

    def require(self, name: str, kind: type[T]) -> T:
        """Returns a field's value. Raises `InvalidRequest` if it is absent."""
        value = self.take(name, kind)
        if value is None:
            raise InvalidRequest(f"Missing required field: `{self.at(name)}`.", param=self.at(name))
        return value

    def text(self, name: str) -> str:
        """Returns a text; "" if it is absent."""
        return self.take(name, str) or ""

    def any(self, name: str) -> Any:
        """Returns a field's value of any type; None if it is absent."""
        return self._left.pop(name, None)

    def object(self, name: str) -> Fields | None:
        """Returns the fields of an object in a field; None if it is absent."""
        value = self.any(name)
        return None if value is None else Fields(value, self.at(name), self.notes)

    def objects(self, name: str) -> list[Fields]:
        """Returns the fields of each object in an array."""
        values: list[Any] = self.take(name, list) or []
        return [Fields(value, f"{self.at(name)}[{i}]", self.notes) for i, value in enumerate(values)]

    def hint(self, *names: str) -> None:
        """Notes fields without which the same is asked."""
        for name in names:
            value = self._left.pop(name, None)
            if value not in (None, [], {}):
                self.notes.hints[self.at(name)] = value

    def rest_is_hint(self) -> None:
        """Notes whatever is left as something without which the same is asked."""
        self.hint(*self._left)

    def rest_is_foreign(self) -> None:
        """Notes whatever is left as something that only this dialect can say."""
        for name, value in self._left.items():
            if value is not None:
                self.notes.foreign[self.at(name)] = value
        self._left.clear()

    def is_foreign(self, kind: str = "") -> None:
        """Notes the whole object as something that only this dialect can say. `kind` is what sort of it this is."""
        self.notes.foreign[f"{self.path}.{kind}" if kind else self.path] = self._left
        self._left = {}
