"""Fields of a caller's body: read with errors that name the field."""

from __future__ import annotations

from typing import Any

from app.errors import InvalidRequest


def text_of(value: dict[str, Any], name: str, path: str) -> str:
    """Returns the text at `name`; "" for null and nothing. Raises `InvalidRequest` for anything else."""
    found = value.get(name)
    if found is None:
        return ""
    if isinstance(found, str):
        return found
    raise wrong(f"{path}.{name}", "a string")


def required_text(value: dict[str, Any], name: str, path: str) -> str:
    """Returns the text at `name`. Raises `InvalidRequest` if there is none."""
    found = value.get(name)
    if isinstance(found, str):
        return found
    raise wrong(f"{path}.{name}", "a string")


def object_of(value: Any, path: str) -> dict[str, Any]:
    """Returns the object `value`; an empty one for null. Raises `InvalidRequest` for anything else."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise wrong(path, "an object")


def objects_of(value: Any, path: str) -> list[dict[str, Any]]:
    """Returns the array of objects `value`; an empty one for null. Raises `InvalidRequest` for anything else."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(path, "an array")
    for i, item in enumerate(value):
        if not isinstance(item, dict):
            raise wrong(f"{path}[{i}]", "an object")
    return value


def integer_of(value: dict[str, Any], name: str, path: str) -> int | None:
    """Returns the whole number at `name`, None without one. Raises `InvalidRequest` for anything else."""
    found = value.get(name)
    if found is None or (isinstance(found, int) and not isinstance(found, bool)):
        return found
    raise wrong(f"{path}.{name}" if path else name, "a whole number")


def wrong(path: str, expected: str) -> InvalidRequest:
    """Returns the error for a value of another type than `expected`."""
    return InvalidRequest(f"Expected {expected}: `{path}`.", param=path)
