"""Pages on another origin, and paths in other spellings, behind a real nginx: what is for operators stays closed."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support.nginx import Nginx
from tests.support.servers import ADMIN_KEY, DEV_KEY, Gateway, RedisServer, flushed

ORIGIN = "https://app.example.org"
CONFIG = """
providers: {demo: {kind: demo, script: {chunk_delay_s: 0}}}
models: {demo: {targets: [{provider: demo}]}}
server: {cors_origins: ["https://app.example.org"], max_body_bytes: 1048576}
"""
SPELLINGS = ("", "/v1", "/api/v1", "/v1/v1", "/openai/v1", "/api/v1/v1", "/", "//v1", "/v1/", "/%76%31")


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Nginx]:
    flushed(redis_server.url)
    with (
        Gateway(tmp_path_factory.mktemp("behind"), CONFIG, redis_url=redis_server.url) as gateway,
        TemporaryDirectory() as name,
    ):
        Path(name).chmod(0o755)  # started by root, nginx serves as nobody
        with Nginx(Path(name), gateway.port, MAX_BODY="1m", MAX_FILE="8m") as nginx:
            yield nginx


def ask(
    nginx: Nginx, method: str, path: str, headers: dict[str, str], body: bytes | None = None
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = nginx.connect()
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    answer.body = answer.read()  # type: ignore[attr-defined]
    connection.close()
    return answer


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions", "/v1/nowhere"])
def test_a_preflight_passes_without_a_key(nginx: Nginx, path: str) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-stainless-os"}
    answer = ask(nginx, "OPTIONS", path, {"Origin": ORIGIN, **asked})
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, ORIGIN)
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization, x-stainless-os"


@pytest.mark.parametrize("header", ["Authorization", "x-api-key", "api-key"])
@pytest.mark.parametrize("lead", SPELLINGS)
def test_a_call_passes_in_every_spelling_and_with_each_header_for_a_key(nginx: Nginx, lead: str, header: str) -> None:
    key = f"Bearer {DEV_KEY}" if header == "Authorization" else DEV_KEY
    body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    headers = {"Content-Type": "application/json", header: key, "Origin": ORIGIN}
    answer = ask(nginx, "POST", f"{lead}/chat/completions", headers, body)
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)


@pytest.mark.parametrize("lead", [*SPELLINGS, "/v1/x/.."])
@pytest.mark.parametrize("tail", ["debug", "metrics", "debug/", "d%65bug"])
def test_what_is_for_operators_stays_closed_in_every_spelling(nginx: Nginx, lead: str, tail: str) -> None:
    answer = ask(nginx, "GET", f"{lead}/{tail}", {"Authorization": f"Bearer {ADMIN_KEY}"})
    assert answer.status == 404


@pytest.mark.parametrize("lead", ["", "/v1", "/api/v1", "/v1/v1", "/openai/v1"])
def test_a_file_may_be_longer_than_a_call_in_every_spelling(nginx: Nginx, lead: str) -> None:
    form = (
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\n'
        b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + b"x" * 3_000_000 + b"\r\n--x--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Authorization": f"Bearer {DEV_KEY}"}
    answer: Any = ask(nginx, "POST", f"{lead}/files", headers, form)
    assert (answer.status, json.loads(answer.body).get("bytes")) == (200, 3_000_000)
