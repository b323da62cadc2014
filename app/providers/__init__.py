"""The wire dialects. To add one: a module here, a row in `KINDS`, and its cases in `tests/contract/`."""

from __future__ import annotations

from app.providers.demo import DemoProvider
from app.providers.openai import OpenAIProvider

KINDS: dict[str, type[OpenAIProvider] | type[DemoProvider]] = {"openai": OpenAIProvider, "demo": DemoProvider}
