"""The table of routes: each row is served, by the fast path or by Flask, and lets only keys of its scope in."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from app.api.routes import MODEL_PREFIXES, PREFIXES, ROUTES, BodyRoute, FlaskRoute, ModelRoute, client_families
from tests.api.conftest import KEY, AppClient

CONFIG = """
providers: {demo: {kind: demo, script: {chunk_delay_s: 0}}}
models: {m: {targets: [{provider: demo}]}}
"""
AUTH = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def client(client_with: Callable[[str], AppClient]) -> AppClient:
    return client_with(CONFIG)


def sent(client: AppClient, method: str, path: str, **more: Any) -> Any:
    return client.send(method, re.sub(r"<[^>]*>", "none-of-this-name", path), **more)


def test_every_route_of_a_scope_asks_for_a_key(client: AppClient) -> None:
    for route in ROUTES:
        if route.scope is None:
            continue
        if isinstance(route, ModelRoute):
            for prefix in MODEL_PREFIXES:
                answer = sent(client, "POST", f"{prefix}/models/m:{route.verb}")
                assert (answer.status_code, answer.json["error"]["status"]) == (401, "UNAUTHENTICATED")
            continue
        method = "POST" if isinstance(route, BodyRoute) else route.method
        for prefix in route.prefixes if isinstance(route, FlaskRoute) else PREFIXES:
            answer = sent(client, method, prefix + route.path)
            assert answer.status_code == 401, (method, prefix + route.path)
            if getattr(route, "dialect", "chat") == "chat" and prefix != "/v1beta":
                assert answer.json["code"] == "INVALID_API_KEY", (method, prefix + route.path)


def test_a_user_may_not_use_what_is_for_administrators(client: AppClient) -> None:
    for route in ROUTES:
        if isinstance(route, FlaskRoute) and route.scope == "admin":
            answer = sent(client, route.method, f"/v1{route.path}", headers=AUTH)
            assert (answer.status_code, answer.json["code"]) == (403, "FORBIDDEN"), route.path


def test_the_paths_of_clients_are_those_that_a_users_key_can_use() -> None:
    families = {"chat", "completions", "embeddings", "models", "requests", "files", "batches", "messages", "responses"}
    families |= {"audio", "images", "moderations"}
    assert client_families(ROUTES) == families


def test_head_of_a_job_is_answered_as_get_without_a_body(client: AppClient) -> None:
    body = '{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}'
    job = client.send("POST", "/v1/chat/async", headers={**AUTH, "Content-Type": "application/json"}, data=body).json
    assert job is not None
    answer = client.send("HEAD", job["status_url"], headers=AUTH)
    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["ETag"]
    assert client.send("HEAD", "/v1/requests/none", headers=AUTH).status_code == 404
    assert client.send("HEAD", "/v1/requests/none").status_code == 401
