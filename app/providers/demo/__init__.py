"""A built-in model that needs no network: for the first run, for demonstrations and for tests."""

from __future__ import annotations

from app.providers.demo.provider import DemoProvider

__all__ = ["DemoProvider"]
