"""Numeric ranges of a JSON Schema, computed in exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

_MAX_INT = 2**63
_Bound = tuple[Fraction, bool] | None  # and whether it is excluded itself


class Unsatisfiable(Exception):
    """The schema allows no value, or none that was found."""


class Range:
    """The range of numbers that a schema allows: bounds, and a step. `whole`: integers only."""

    def __init__(self, schema: dict[str, Any], *, whole: bool) -> None:
        self.low = _bound(schema, "minimum", "exclusiveMinimum")
        self.high = _bound(schema, "maximum", "exclusiveMaximum")
        self.step = _fraction(schema.get("multipleOf"))
        if self.step is not None and self.step <= 0:
            raise Unsatisfiable
        if whole:
            self.step = Fraction(1) if self.step is None else Fraction(self.step.numerator)

    def __contains__(self, value: Fraction) -> bool:
        low, high, step = self.low, self.high, self.step
        return (
            (low is None or value > low[0] or (value == low[0] and not low[1]))
            and (high is None or value < high[0] or (value == high[0] and not high[1]))
            and (step is None or value % step == 0)
        )

    def has(self, value: float) -> bool:
        number = _fraction(value)
        return number is not None and number in self

    def pick(self, nth: int) -> Fraction:
        """Returns the `nth` small number of the range. Raises `Unsatisfiable`."""
        low, high, unit = self.low, self.high, self.step or Fraction(1)
        if low is None and high is not None and high[0] < unit:
            start, unit = math.floor(high[0] / unit) * unit, -unit
        elif low is None or low[0] <= unit:
            start = unit
        else:
            start = math.ceil(low[0] / unit) * unit
        candidates = [start + unit * i for i in (nth, nth + 1)]
        if low is not None:
            candidates += [math.ceil(low[0] / unit) * unit + unit * i for i in (nth, nth + 1)]
            if high is not None and self.step is None:
                candidates.append(low[0] + (high[0] - low[0]) * Fraction(nth + 1, nth + 2))
                candidates.append(low[0])
        for candidate in candidates:
            if candidate in self:
                return candidate
        raise Unsatisfiable


def as_number(value: Fraction) -> int | float:
    """Returns `value` as JSON writes it. Raises `Unsatisfiable` for one that is too large."""
    if abs(value) >= _MAX_INT:
        raise Unsatisfiable
    return int(value) if value.denominator == 1 else float(value)


def _bound(schema: dict[str, Any], name: str, exclusive: str) -> _Bound:
    inclusive, excluded = _fraction(schema.get(name)), schema.get(exclusive)
    if excluded is True and inclusive is not None:  # as OpenAPI 3.0 has it
        return inclusive, True
    beyond = _fraction(excluded)
    if beyond is None:
        return None if inclusive is None else (inclusive, False)
    if inclusive is None or (beyond >= inclusive if name == "minimum" else beyond <= inclusive):
        return beyond, True
    return inclusive, False


def _fraction(value: Any) -> Fraction | None:
    if type(value) not in (int, float) or not abs(value) < 1e300:
        return None
    return Fraction(str(value))  # as it was written: a tenth, not the nearest binary number
