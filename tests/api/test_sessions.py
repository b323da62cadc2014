"""Sessions: the rows of coding agents' and chat front ends' calls name session, agent and user, on every endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import AppClient
from tests.api.test_jobs import JobWorker

CONFIG = """
providers: {demo: {kind: demo, script: {chunk_delay_s: 0}}}
models: {m: {targets: [{provider: demo}]}}
plans: {default: {requests_per_day: 1000}}
"""
SESSION = "127109e3-9296-4c62-a873-cf46a6739b00"
ACCOUNT = "5c1b6f2e-0f5a-4a57-9d1c-0d6c1a2b3c4d"
TURN = [{"role": "user", "content": "Hello"}]
MESSAGES = {"model": "m", "max_tokens": 100, "messages": TURN}
GEMINI = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}


@pytest.fixture
def app(client_with: Callable[[str], AppClient]) -> AppClient:
    return client_with(CONFIG)


def noted(app: AppClient, path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[str, str, str]:
    """Returns the session, agent and user in the row of a call."""
    answer = app.post(json.dumps(body), path=path, headers=headers)
    assert answer.status_code == 200, answer.text
    row = app.rows()[-1]
    return row.get("session", ""), row.get("agent", ""), row["user"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "m", "messages": TURN}),
        ("/v1/completions", {"model": "m", "prompt": "Hello"}),
        ("/v1/messages?beta=true", MESSAGES),
        ("/v1/responses", {"model": "m", "input": "Hello"}),
    ],
    ids=lambda value: value.split("?")[0] if isinstance(value, str) else "",
)
def test_headers_name_the_session_on_every_endpoint(
    app: AppClient, path: str, body: dict[str, Any], stream: bool
) -> None:
    headers = {"X-Claude-Code-Session-Id": SESSION, "X-Claude-Code-Agent-Id": "a1", "X-Penstock-User": "ann"}
    assert noted(app, path, {**body, "stream": stream}, headers) == (SESSION, "a1", "ann")
    assert noted(app, path, {**body, "stream": stream}, {}) == ("", "", "")


@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent?alt=sse"])
def test_headers_name_the_session_of_gemini_calls(app: AppClient, method: str) -> None:
    path = f"/v1beta/models/m:{method}"
    assert noted(app, path, GEMINI, {"x-session-id": "ses_1"}) == ("ses_1", "", "")


def test_embeddings_have_a_session_too(app: AppClient) -> None:
    body = {"model": "m", "input": "Hello", "user": "ann"}
    assert noted(app, "/v1/embeddings", body, {"x-penstock-session": "index"}) == ("index", "", "ann")


def test_claude_code_says_who_it_is_in_the_metadata(app: AppClient) -> None:
    told = {"device_id": "d1", "account_uuid": ACCOUNT, "session_id": SESSION}
    body = {**MESSAGES, "metadata": {"user_id": json.dumps(told)}}
    assert noted(app, "/v1/messages", body, {}) == (SESSION, "", ACCOUNT)
    compound = {"user_id": f"user_{'0a' * 32}_account_{ACCOUNT}_session_{SESSION}"}
    assert noted(app, "/v1/messages", {**MESSAGES, "metadata": compound}, {}) == (SESSION, "", ACCOUNT)
    assert noted(app, "/v1/messages", {**MESSAGES, "metadata": {"user_id": "ann"}}, {}) == ("", "", "ann")


def test_codex_names_its_thread(app: AppClient) -> None:
    body = {"model": "m", "input": "Hello", "store": False, "prompt_cache_key": SESSION}
    assert noted(app, "/v1/responses", body, {}) == (SESSION, "", "")
    headers = {"session-id": SESSION, "thread-id": ACCOUNT}
    assert noted(app, "/v1/responses", {**body, "prompt_cache_key": ACCOUNT}, headers) == (SESSION, ACCOUNT, "")


def test_open_webui_names_the_user_and_the_chat(app: AppClient) -> None:
    headers = {
        "X-OpenWebUI-User-Name": "Ann%20%C3%96zil",
        "X-OpenWebUI-User-Id": "u1",
        "X-OpenWebUI-User-Email": "ann@acme.test",
        "X-OpenWebUI-Chat-Id": "c1",
    }
    body = {"model": "m", "messages": TURN}
    assert noted(app, "/v1/chat/completions", body, headers) == ("c1", "", "ann@acme.test")


def test_a_queued_call_keeps_its_session(app: AppClient) -> None:
    body = json.dumps({"model": "m", "messages": TURN})
    accepted = app.post(body, path="/v1/chat/async", headers={"x-session-id": "ses_1"})
    assert accepted.status_code == 202
    JobWorker(app).run()
    assert [(row["status"], row["session"]) for row in app.rows()] == [("ok", "ses_1")]


def test_hostile_headers_do_no_harm(app: AppClient) -> None:
    headers = {"x-penstock-session": "x" * 5000, "x-penstock-agent": "%00%0d%0a%1b[31m", "x-penstock-user": "%ff%fe"}
    session, agent, user = noted(app, "/v1/chat/completions", {"model": "m", "messages": TURN}, headers)
    assert (session, agent) == ("x" * 200, r"\x00\r\n\x1b[31m")
    assert user.isprintable()
