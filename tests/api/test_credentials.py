"""Credentials of a request: the headers that may carry a key, their order, and the answer to a mistake."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable

import pytest

from app.domain.identity import new_key
from tests.api.conftest import KEY, AppClient

CONFIG = """
providers: {demo: {kind: demo, script: {chunk_delay_s: 0}}}
models: {m: {targets: [{provider: demo}]}, other: {targets: [{provider: demo}]}}
"""
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello there"}]})
UNKNOWN = new_key()


@pytest.fixture
def client(client_with: Callable[[str], AppClient]) -> AppClient:
    return client_with(CONFIG)


def tried(client: AppClient, headers: dict[str, str]) -> tuple[int, str]:
    """The status of a model call and of a list, which take two ways through the code; and the error's message."""
    call = client.send(
        "POST", "/v1/chat/completions", headers={"Content-Type": "application/json", **headers}, data=BODY
    )
    listed = client.send("GET", "/v1/models", headers=headers)
    assert call.status_code == listed.status_code
    error = (call.json or {}).get("error")
    if error:
        assert listed.json is not None
        assert (error, error["code"]) == (listed.json["error"], "INVALID_API_KEY")
    return call.status_code, error["message"] if error else ""


@pytest.mark.parametrize("header", ["x-api-key", "api-key", "X-API-Key", "API-Key"])
def test_a_key_is_taken_from_the_headers_of_anthropics_and_azures_clients(client: AppClient, header: str) -> None:
    assert tried(client, {header: KEY})[0] == 200
    assert tried(client, {header: f"  {KEY} "})[0] == 200
    assert tried(client, {header: UNKNOWN}) == (401, "Incorrect API key provided.")
    assert tried(client, {header: ""})[0] == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer dummy", "api-key": "{ours}"},
        {"Authorization": "Bearer sk-proj-somebody-elses-key", "x-api-key": "{ours}"},
        {"Authorization": f"Basic {b64encode(b'user:password').decode()}", "x-api-key": "{ours}"},
        {"Authorization": "Bearer ", "x-api-key": "{ours}"},
        {"x-api-key": "dummy", "api-key": "{ours}"},
        {"Authorization": "Bearer {ours}", "x-api-key": "dummy", "api-key": UNKNOWN},
        {"Authorization": "Bearer {ours}", "x-api-key": "{ours}"},
    ],
)
def test_of_two_keys_the_one_that_looks_like_ours_counts(client: AppClient, headers: dict[str, str]) -> None:
    ours, _ = client.services.keys.create("test")
    assert tried(client, {name: value.replace("{ours}", ours) for name, value in headers.items()}) == (200, "")


def test_with_two_keys_of_ours_the_bearer_counts_even_when_it_is_bad(client: AppClient) -> None:
    narrow, _ = client.services.keys.create("narrow", models=["other"])
    wide, _ = client.services.keys.create("wide")
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {narrow}", "x-api-key": wide}
    assert client.send("POST", "/v1/chat/completions", headers=headers, data=BODY).status_code == 403
    assert tried(client, {"Authorization": f"Bearer {UNKNOWN}", "x-api-key": wide})[0] == 401


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, "No API key provided. Send it as `Authorization: Bearer <key>`."),
        ({"Authorization": "Basic dXNlcjpwYXNz"}, "Basic authentication is not used here"),
        ({"Authorization": UNKNOWN}, "the word `Bearer` is missing"),
        ({"Authorization": "Bearer  "}, "No API key stands behind `Bearer`"),
        ({"Authorization": f"Bearer {'x' * 513}"}, "too long for a key"),
        ({"x-api-key": "x" * 513}, "No API key provided"),
        ({"Authorization": f"Bearer Bearer {UNKNOWN}"}, "Leave `Bearer` out of the key"),
        ({"x-api-key": f"Bearer {UNKNOWN}"}, "Leave `Bearer` out of the key"),
        ({"Authorization": f'Bearer "{UNKNOWN}"'}, "quotation marks"),
        ({"Authorization": f"Bearer '{UNKNOWN}'"}, "quotation marks"),
        ({"Authorization": f"Bearer {UNKNOWN[:20]} {UNKNOWN[20:]}"}, "spaces in the key"),
        ({"Authorization": f"Bearer {UNKNOWN[:-2]}"}, "cut off or mistyped"),
        ({"Authorization": "Bearer $PENSTOCK_KEY"}, "placeholder"),
        ({"Authorization": "Bearer <key>"}, "placeholder"),
        ({"Authorization": "Bearer sk-proj-abcdefghijkl"}, "looks like a key of OpenAI"),
        ({"Authorization": "Bearer sk-ant-api03-abcdefghijkl"}, "looks like a key of Anthropic"),
        ({"Authorization": "Bearer AIzaSyabcdefghijkl"}, "looks like a key of Google"),
    ],
)
def test_a_malformed_key_is_answered_with_its_fault_and_never_repeated(
    client: AppClient, headers: dict[str, str], told: str
) -> None:
    status, message = tried(client, headers)
    assert status == 401
    assert told in message
    for value in headers.values():
        for word in value.split():
            assert word in ("Bearer", "Basic", "<key>") or word not in message
