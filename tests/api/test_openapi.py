"""The OpenAPI document says what there is, all of it and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flask import Flask
from openapi_spec_validator import validate

from app import create_app
from app.api.web import document
from app.errors import GatewayError
from app.settings import load_settings


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    """The application; nothing of it needs Redis to answer here."""
    return create_app(load_settings({"DATA_DIR": str(tmp_path), "REDIS_URL": "redis://127.0.0.1:1/0"}))


def test_the_document_is_valid() -> None:
    validate(document())


def test_every_route_is_described_and_every_description_has_a_route(app: Flask) -> None:
    pages = {"/", "/docs", "/openapi.json", "/assets/docs.css"}
    routes = {re.sub(r"<(?:[^:>]+:)?(\w+)>", r"{\1}", rule.rule) for rule in app.url_map.iter_rules()} - pages
    described = set(document()["paths"])
    assert described <= routes
    twice = {f"{prefix}{path}" for path in described for prefix in ("/v1", "/api/v1")}
    again = {path.replace("/v1/", "/api/v1/", 1) for path in described}
    again |= {path.replace("/v1beta/", f"{prefix}/", 1) for path in described for prefix in ("/v1", "/api/v1")}
    assert routes - described - twice - again == set()


def test_every_code_is_described() -> None:
    def tree(error: type[GatewayError]) -> set[str]:
        return {error.code}.union(*(tree(child) for child in error.__subclasses__()))

    described = set(document()["components"]["schemas"]["Error"]["properties"]["code"]["enum"])
    assert tree(GatewayError) - {"CLIENT_CLOSED_REQUEST"} == described


def test_the_reference_page_needs_nothing_from_elsewhere(app: Flask) -> None:
    client = app.test_client()
    assert client.get("/").headers["Location"] == "/docs"
    page = client.get("/docs")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert "<script" not in page.text
    assert re.findall(r'(?:src|href)="(https?:)?//', page.text) == []
    assert "createChatCompletion" in page.text
    assert "curl -X DELETE http://localhost/v1/chat/history/{user_id}" in page.text
    assert client.get("/assets/docs.css").mimetype == "text/css"
    assert client.get("/openapi.json").get_json()["info"]["version"] != "0"


def test_the_reference_page_shows_bodies_answers_headers_and_errors(app: Flask) -> None:
    page = app.test_client().get("/docs").text
    shown = {section.split('"', 1)[0]: section for section in page.split('<section id="')[1:]}
    assert "`" not in page
    assert "<code>data: [DONE]</code>" in shown["createChatCompletion"]
    for text in (
        "messages[].role",
        "application/json, text/event-stream",
        "x-penstock-cost-usd",
        "choices[].message",
        "<code>429</code>",
        "Cache-Control (header)",
    ):
        assert text in shown["createChatCompletion"], text
    assert "expires_after[seconds]" in shown["createFile"]
    assert "-F file=@requests.jsonl" in shown["createFile"]
    for methods in document()["paths"].values():
        for operation in methods.values():
            section = shown[operation["operationId"]]
            assert all(
                f"<code>{status}</code>" in section or f"Answer {status}" in section
                for status in operation["responses"]
                if status != "default"
            )
    for code in document()["components"]["schemas"]["Error"]["properties"]["code"]["enum"]:
        assert f"<td><code>{code}</code></td>" in shown["errors"], "each code says what to do"


def test_what_a_client_calls_the_gateway_stands_escaped_in_the_commands(app: Flask) -> None:
    client = app.test_client()
    assert "curl https://llm.example.org/v1/models" in client.get("/docs", base_url="https://llm.example.org").text
    page = client.get("/docs", headers={"Host": "a&b<c"}).text
    assert "b<c" not in page
