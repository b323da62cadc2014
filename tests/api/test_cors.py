"""What a browser on another origin may do: nothing, unless the configuration names it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.api.conftest import Edge

CONFIG = """
providers: {demo: {kind: demo, script: {chunk_delay_s: 0}}}
models: {m: {targets: [{provider: demo}]}}
server: {cors_origins: [%s]}
"""
OURS, STRANGE = "https://app.example.org", "https://evil.example.org"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_named_origin_may_call_and_read_the_headers(edge: Callable[[str], Edge], stream: bool) -> None:
    answer = edge(CONFIG % OURS).chat(headers={"Origin": OURS}, stream=stream)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == OURS
    assert answer.headers["Access-Control-Expose-Headers"] == "*"
    assert answer.headers["Vary"] == "Origin", "a cache must not give it to another"
    assert "Access-Control-Allow-Credentials" not in answer.headers


def test_a_named_origins_preflight_is_answered_without_a_key(edge: Callable[[str], Edge]) -> None:
    answer = edge(CONFIG % OURS).options("/v1/chat/completions", {"Origin": OURS, **PREFLIGHT})
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == OURS
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]


@pytest.mark.parametrize("origins", ["", OURS])
@pytest.mark.parametrize("origin", [STRANGE, "null", OURS + ".evil.org"])
def test_nobody_else_may(edge: Callable[[str], Edge], origins: str, origin: str) -> None:
    built = edge(CONFIG % origins)
    answers = [built.chat(headers={"Origin": origin}), built.options("/v1/models", {"Origin": origin, **PREFLIGHT})]
    for answer in answers:
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_errors_can_be_read_too(edge: Callable[[str], Edge]) -> None:
    answer = edge(CONFIG % OURS).chat(key="wrong", headers={"Origin": OURS})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (401, OURS)
