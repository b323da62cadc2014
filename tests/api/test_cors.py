"""Cross-origin requests of browsers: all refused, unless the configuration names the origin."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.api.conftest import AppClient

CONFIG = """
providers: {demo: {kind: demo, script: {chunk_delay_s: 0}}}
models: {m: {targets: [{provider: demo}]}}
server: {cors_origins: [%s]}
"""
OURS, STRANGE = "https://app.example.org", "https://evil.example.org"
# What Chromium asks for, word for word, when a page calls with the npm package openai 6.49.0.
SDK_HEADERS = (
    "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-package-version,"
    "x-stainless-retry-count,x-stainless-runtime,x-stainless-runtime-version"
)
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_named_origin_may_call_and_read_the_headers(client_with: Callable[[str], AppClient], stream: bool) -> None:
    answer = client_with(CONFIG % OURS).chat(headers={"Origin": OURS}, stream=stream)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == OURS
    assert answer.headers["Access-Control-Expose-Headers"] == "*"
    assert answer.headers["Vary"] == "Origin", "a cache must not give it to another"
    assert "Access-Control-Allow-Credentials" not in answer.headers


def test_a_named_origins_preflight_is_answered_without_a_key(client_with: Callable[[str], AppClient]) -> None:
    answer = client_with(CONFIG % OURS).options("/v1/chat/completions", {"Origin": OURS, **PREFLIGHT})
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == OURS
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization"


@pytest.mark.parametrize("origins", ["", OURS])
@pytest.mark.parametrize("origin", [STRANGE, "null", OURS + ".evil.org"])
def test_nobody_else_may(client_with: Callable[[str], AppClient], origins: str, origin: str) -> None:
    client = client_with(CONFIG % origins)
    answers = [client.chat(headers={"Origin": origin}), client.options("/v1/models", {"Origin": origin, **PREFLIGHT})]
    for answer in answers:
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_errors_can_be_read_too(client_with: Callable[[str], AppClient]) -> None:
    answer = client_with(CONFIG % OURS).chat(key="wrong", headers={"Origin": OURS})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (401, OURS)


def test_openais_own_browser_sdk_may_send_the_headers_it_sends(client_with: Callable[[str], AppClient]) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": SDK_HEADERS}
    answer = client_with(CONFIG % OURS).options("/v1/chat/completions", {"Origin": OURS, **asked})
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Headers"].split(", ") == SDK_HEADERS.split(",")
    assert answer.headers["Vary"] == "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ("x-a, x b, x-c\x00, x-d:, (x), , x-é, x-e", "x-a, x-e"),
        ("x" * 65 + ",x-a", "x-a"),
        (",".join(f"x-{i}" for i in range(100)), ", ".join(f"x-{i}" for i in range(64))),
        (",,,", None),
    ],
)
def test_only_header_names_are_repeated_and_not_too_many(
    client_with: Callable[[str], AppClient], asked: str, allowed: str | None
) -> None:
    headers = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked}
    answer = client_with(CONFIG % OURS).options("/v1/models", {"Origin": OURS, **headers})
    assert (answer.status_code, answer.headers.get("Access-Control-Allow-Headers")) == (204, allowed)


@pytest.mark.parametrize("path", ["/v1/nowhere", "/chat/completions", "/v1/v1/models"])
def test_a_preflight_is_answered_for_every_path_so_the_page_sees_the_error(
    client_with: Callable[[str], AppClient], path: str
) -> None:
    client = client_with(CONFIG % OURS)
    assert client.options(path, {"Origin": OURS, **PREFLIGHT}).status_code == 204
    assert client.send("GET", "/v1/nowhere", headers={"Origin": OURS}).headers["Access-Control-Allow-Origin"] == OURS


def test_the_methods_are_those_of_the_routes(client_with: Callable[[str], AppClient]) -> None:
    allowed = client_with(CONFIG % OURS).options("/v1/models", {"Origin": OURS, **PREFLIGHT})
    methods = set(allowed.headers["Access-Control-Allow-Methods"].split(", "))
    assert methods >= {"GET", "POST", "DELETE"}
    assert not methods & {"OPTIONS", "HEAD"}
