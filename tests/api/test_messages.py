"""Anthropic's messages, as a client of theirs sees the gateway."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import AppClient
from tests.support.response import AppResponse

CONFIG = """
providers:
  demo: {kind: demo, script: {chunk_delay_s: 0}}
  broken: {kind: demo, script: {chunk_delay_s: 0, cut_after_chunks: 3}}
  down: {kind: demo, script: {chunk_delay_s: 0, fail_status: 503}}
models:
  m: {targets: [{provider: demo}]}
  broken: {targets: [{provider: broken}]}
retry: {max_attempts: 1}
"""
HELLO: dict[str, Any] = {"max_tokens": 100, "messages": [{"role": "user", "content": "Hello there"}]}


@pytest.fixture
def app(client_with: Callable[[str], AppClient]) -> AppClient:
    return client_with(CONFIG)


def ask(app: AppClient, model: str = "m", path: str = "/v1/messages", **more: Any) -> AppResponse:
    return app.post(json.dumps({"model": model, **HELLO, **more}), path=path)
