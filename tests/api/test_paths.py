"""The paths that clients make of a base URL, and what one that nobody serves is answered with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.api.paths import ClientPaths
from app.api.routes import ROUTES, client_families
from tests.api.conftest import KEY, AppClient

CONFIG = """
providers: {demo: {kind: demo, script: {chunk_delay_s: 0}}}
models: {m: {targets: [{provider: demo}]}}
"""
JSON = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello there"}]})
PATHS = ClientPaths(client_families(ROUTES))
GOOGLE_LEADS = (
    "",
    "/v1",
    "/v1beta",
    "/v1alpha",
    "/v1/v1beta",
    "/v1beta/v1beta",
    "//v1beta",
    "/api/v1",
    "/gemini/v1beta",
)
OPERATORS = ("debug", "metrics", "queue/metrics", "health/detailed", "admin/keys", "admin/usage")


@pytest.fixture
def client(client_with: Callable[[str], AppClient]) -> AppClient:
    return client_with(CONFIG)


@pytest.mark.parametrize("lead", ["", "/v1/v1", "/", "//v1", "/v1/", "/openai/v1", "/v1/api/v1", "/api/v1/v1"])
def test_every_endpoint_is_found_under_the_base_urls_that_people_type(client: AppClient, lead: str) -> None:
    for tail in ("chat/completions", "chat/smart", "chat/completions/"):
        assert client.send("POST", f"{lead}/{tail}", headers=JSON, data=CHAT).status_code == 200
    embedding = json.dumps({"model": "m", "input": "Hello"})
    assert client.send("POST", f"{lead}/embeddings", headers=JSON, data=embedding).status_code == 200
    message = json.dumps({"message": "Hello", "user_id": "u"})
    assert client.send("POST", f"{lead}/chat", headers=JSON, data=message).status_code == 200
    for tail in ("models", "models/m", "files", "batches", "chat/history/u"):
        assert client.send("GET", f"{lead}/{tail}", headers=JSON).status_code == 200, tail
    assert client.send("GET", f"{lead}/chat/history/u", headers=JSON).json["message_count"] == 2


@pytest.mark.parametrize(
    ("path", "route"),
    [
        *((f"{lead}/models/m:generateContent", "/v1beta/models/m:generateContent") for lead in GOOGLE_LEADS),
        *((f"{lead}/models/a/b:countTokens/", "/v1beta/models/a/b:countTokens/") for lead in GOOGLE_LEADS),
        ("/v1beta/models", "/v1beta/models"),
        ("//v1alpha//models/m", "/v1beta/models/m"),
        ("/gemini/v1beta1/models", "/v1beta/models"),
        ("/v1beta/v1/models", "/v1/models"),
        ("/v1beta/openai/chat/completions", "/v1/chat/completions"),
        ("/v1beta/openai/models/", "/v1/models/"),
        ("/v1beta/files", "/v1beta/files"),  # of another shape than ours
        ("/anthropic/v1/chat/completions", "/v1/chat/completions"),
        ("/api/v1/v1/models", "/api/v1/models"),
        ("/v1/models/m", "/v1/models/m"),
        ("/models/llama:latest", "/v1/models/llama:latest"),
        ("/models/llama:latest:countTokens", "/v1beta/models/llama:latest:countTokens"),
        ("/v1betamodels", "/v1betamodels"),
    ],
)
def test_a_vendors_form_of_a_path_is_a_routes_path(path: str, route: str) -> None:
    assert PATHS.canonical(path) == route


def test_a_job_without_v1_is_polled_where_it_says(client: AppClient) -> None:
    job: Any = client.send("POST", "/chat/async", headers=JSON, data=CHAT).json
    assert job["status_url"] == f"/v1/requests/{job['request_id']}"
    for url in (job["status_url"], f"/requests/{job['request_id']}", f"/v1/v1/requests/{job['request_id']}"):
        shown: Any = client.send("GET", url, headers=JSON).json
        assert (shown["request_id"], shown["status_url"]) == (job["request_id"], job["status_url"])


def test_metrics_know_no_other_spelling_than_the_routes(client: AppClient) -> None:
    for path in ("/chat/completions", "/v1/v1/models", "//models/m", "/openai/v1/models", "/nowhere/at/all"):
        client.send("POST" if "chat" in path else "GET", path, headers=JSON, data=CHAT)
    rendered = client.services.metrics.render({}).decode()
    routes = {line.split('route="')[1].split('"')[0] for line in rendered.splitlines() if 'route="' in line}
    assert routes == {"/v1/chat/completions", "/v1/models", "/v1/models/<path:model_id>", "unmatched"}


@pytest.mark.parametrize(
    "lead", ["", "/v1/v1", "/openai/v1", "/api/v1/v1", "/v1/", "//v1", "/v1beta", "/v1beta/openai"]
)
@pytest.mark.parametrize("tail", OPERATORS)
def test_what_is_for_operators_gets_no_second_address(lead: str, tail: str) -> None:
    path = f"{lead}/{tail}"
    assert PATHS.canonical(path) == path, "a proxy keeps its address from the outside, and no other"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/v1/chat/complitions", "/v1/chat/completions"),
        ("/V1/Chat/Completions", "/v1/chat/completions"),
        ("/v2/chat/completions", "/v1/chat/completions"),
        ("/openai/deployments/gpt-4o/chat/completions", "/v1/chat/completions"),
        ("/v1/message", "/v1/messages"),
        ("/v1/moderation", "/v1/moderations"),
        ("/v1/audio/transcription", "/v1/audio/transcriptions"),
        ("/v1/image/generations", "/v1/images/generations"),
        ("/api/chat", "/v1/chat/completions"),
        ("/api/tags", "/v1/models"),
        ("/v1/messages/batches", "/v1/batches"),
        ("/v1/model", "/v1/models"),
        ("/embedding", "/v1/embeddings"),
        ("/v1/request/req_1", "/v1/requests"),
    ],
)
def test_an_unknown_path_is_named_and_the_right_one_suggested(client: AppClient, path: str, meant: str) -> None:
    answer: Any = client.send("POST", path, headers=JSON, data=CHAT).json
    assert answer["error"]["message"] == f"Unknown request URL: POST {path}. Did you mean {meant}?"
    assert answer["code"] == "NOT_FOUND"


@pytest.mark.parametrize("path", ["/wp-admin/setup.php", "/favicon.ico", "/v1/vector_stores", "/v1/debugg", "/x"])
def test_nothing_is_suggested_for_what_is_like_nothing_here(client: AppClient, path: str) -> None:
    answer: Any = client.send("GET", path).json
    assert answer["error"]["message"] == f"Unknown request URL: GET {path}."


def test_the_log_names_an_unknown_path_without_its_query_and_no_other(client: AppClient) -> None:
    with capture_logs() as logs:
        client.send("GET", "/v1/modles?api_key=secret")
        client.send("GET", "/v1/chat/completions")
        client.send("GET", "/v1/models/m", headers=JSON)
        client.send("GET", "/" + "x" * 5000)
        client.send("GET", "/a%0d%0alevel=error%1b[31m%00")
    told = [(line["route"], line.get("path")) for line in logs if line["event"] == "request_completed"]
    assert told == [
        ("unmatched", "/v1/modles"),
        ("unmatched", "/v1/chat/completions"),
        ("/v1/models/<path:model_id>", None),
        ("unmatched", "/" + "x" * 199),
        ("unmatched", r"/a\r\nlevel=error\x1b[31m\x00"),
    ]
    assert "secret" not in str(logs)


def test_a_wrong_method_is_told_the_right_ones(client: AppClient) -> None:
    answer = client.send("GET", "/v1/chat/completions", headers=JSON)
    assert answer.status_code == 405
    assert answer.json["error"]["message"] == "GET is not allowed for /v1/chat/completions: use POST."
    assert "POST" in answer.headers["Allow"]
    answer = client.send("PATCH", "/files/file-1", headers=JSON)
    assert answer.json["error"]["message"] == "PATCH is not allowed for /v1/files/file-1: use DELETE or GET."


@pytest.mark.parametrize(
    "path",
    [
        "/v1beta/" * 200,
        "/v1beta/openai/" * 80 + "!",
        "/v1/" + "completions/" * 200,
        "/v1/" + "v1/" * 5000,
        "/" * 20_000,
        "/v1/" + "a" * 20_000,
        "/api/v1" * 3000,
    ],
)
def test_a_long_path_costs_no_more_than_a_short_one(path: str) -> None:
    suggestions = PATHS.suggestions(f"/v1/{tail}" for tail in ("chat/completions", "models", "files/<file_id>/content"))
    began = time.process_time()
    for _ in range(100):
        PATHS.canonical(path)
        suggestions.nearest(path)
    assert time.process_time() - began < 0.5, "5 ms each; 0.05 ms is usual"
