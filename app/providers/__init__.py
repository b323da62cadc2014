"""Kinds of providers. To add a wire dialect: a codec in `providers.dialects`, a row in `DIALECTS`, one in `WIRE_KINDS`,
and its cases in `tests/contract/`.
"""

from __future__ import annotations

from app.providers.demo import DemoProvider
from app.providers.wire_provider import WIRE_KINDS, WireProvider

KINDS: dict[str, type[WireProvider] | type[DemoProvider]] = {
    **dict.fromkeys(WIRE_KINDS, WireProvider),
    "demo": DemoProvider,
}
