"""Bad input from both sides: each with its status, code and param; nothing lost, nothing leaked."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import self_signed
from tests.support.client import ask, chat, post
from tests.support.servers import ADMIN_KEY, DEV_KEY, Gateway, RedisServer, flushed, wait_for
from tests.support.upstream import Upstream

MODELS = (
    "ok",
    "stream-40-20",
    "silent",
    "silentmid-2",
    "status-400",
    "status-401",
    "status-404",
    "status-429-7",
    "status-500",
    "status-503",
    "garbage",
    "html",
    "nothttp",
    "reset",
    "cut-2",
    "cutchunk-2",
    "cleancut-2",
    "errorevent-2",
    "nousage",
    "empty",
)
CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}, api_key: sk-upstream-secret-key}}
  refused: {{kind: openai, base_url: "http://127.0.0.1:9/v1"}}
  nowhere: {{kind: openai, base_url: "http://penstock.invalid/v1"}}
  untrusted: {{kind: openai, base_url: {tls_url}}}
  speechless: {{kind: openai, base_url: {plain_url}}}
models: {{{models}, refused: {{targets: [{{provider: refused}}]}}, nowhere: {{targets: [{{provider: nowhere}}]}},
         tls: {{targets: [{{provider: untrusted}}]}}, handshake: {{targets: [{{provider: speechless}}]}}}}
timeouts: {{connect_s: 0.6, first_byte_s: 0.6, idle_s: 0.6}}
retry: {{max_attempts: 1, breaker_threshold: 1000}}
server: {{body_timeout_s: 0.5}}
"""


@pytest.fixture(scope="module")
def untrusted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """The vendor behind a certificate that nobody signed."""
    with Upstream(certificate=self_signed(tmp_path_factory.mktemp("tls"), subject="/CN=localhost", days=1)) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, vendor: Upstream, untrusted: Upstream
) -> Iterator[Gateway]:
    flushed(redis_server.url)
    models = ", ".join(f"{name}: {{targets: [{{provider: up}}]}}" for name in MODELS)
    directory: Path = tmp_path_factory.mktemp("bad-input")
    plain_url = vendor.url.replace("http:", "https:")  # it never answers a handshake
    config = CONFIG.format(url=vendor.url, tls_url=untrusted.url, plain_url=plain_url, models=models)
    with Gateway(directory, config, redis_url=redis_server.url) as started:
        yield started


@contextmanager
def new_rows(gateway: Gateway) -> Iterator[list[dict[str, Any]]]:
    """After the block: the ledger's rows of the calls made in it, all of them."""
    gateway.drained()
    known = {row["call_id"] for row in gateway.rows()}
    found: list[dict[str, Any]] = []
    yield found
    gateway.drained()
    found += (row for row in gateway.rows() if row["call_id"] not in known)


def is_whole_error(body: dict[str, Any]) -> bool:
    error = body["error"]
    return (
        set(error) == {"message", "type", "param", "code"}
        and error["code"] == body["code"]
        and all(body[name] for name in ("code", "request_id", "timestamp"))
    )


CALLERS_FAULTS = [
    (b"{", 400, "INVALID_REQUEST", None),
    (b"", 400, "INVALID_REQUEST", None),
    (b"[]", 400, "INVALID_REQUEST", None),
    (b'"text"', 400, "INVALID_REQUEST", None),
    (b"[" * 100_000, 400, "INVALID_REQUEST", None),
    (b'{"model":"ok","deep":' + b"[" * 100_000, 400, "INVALID_REQUEST", None),
    ({"model": "ok"}, 400, "INVALID_REQUEST", "messages"),
    ({"model": "", "messages": [{"role": "user", "content": "x"}]}, 400, "INVALID_REQUEST", "model"),
    ({"model": "ok", "messages": []}, 400, "INVALID_REQUEST", "messages"),
    ({"model": "ok", "messages": "Hello"}, 400, "INVALID_REQUEST", "messages"),
    ({"model": 5, "messages": []}, 400, "INVALID_REQUEST", "model"),
    ({"model": "ok", "messages": [{"role": "wizard", "content": "x"}]}, 400, "INVALID_REQUEST", "messages[0].role"),
    ({"model": "ok", "messages": [{"role": "user", "content": 5}]}, 400, "INVALID_REQUEST", "messages[0].content"),
    (chat("ok", temperature=9), 400, "INVALID_REQUEST", "temperature"),
    (chat("ok", temperature="hot"), 400, "INVALID_REQUEST", "temperature"),
    (chat("ok", n=0), 400, "INVALID_REQUEST", "n"),
    (chat("ok", max_tokens=-1), 400, "INVALID_REQUEST", "max_tokens"),
    (chat("ok", stream="yes"), 400, "INVALID_REQUEST", "stream"),
    (chat("ok\x00"), 400, "INVALID_REQUEST", "model"),
    (b'{"model":"ok","messages":[{"role":"user","content":"\\ud800"}]}', 400, "INVALID_REQUEST", None),
    (b'{"model":"ok","messages":[{"role":"user","content":"a\x00b"}]}', 400, "INVALID_REQUEST", None),
    (b'{"model":"ok","messages":[{"role":"user","content":"\xed\xa0\x80"}]}', 400, "INVALID_REQUEST", None),
    (chat("no-such-model"), 404, "MODEL_NOT_FOUND", "model"),
]


@pytest.mark.parametrize(("body", "status", "code", "param"), CALLERS_FAULTS)
def test_what_the_caller_gets_wrong(gateway: Gateway, body: Any, status: int, code: str, param: str | None) -> None:
    with new_rows(gateway) as rows:
        answer = post(gateway.port, body, DEV_KEY)
    assert (answer.status, answer.code, answer.json["error"]["param"]) == (status, code, param)
    assert is_whole_error(answer.json)
    assert rows == [], "what was not admitted has no row"


def test_a_nul_in_a_text_is_the_models_business(gateway: Gateway) -> None:
    assert post(gateway.port, chat("ok", content="a\x00b"), DEV_KEY).status == 200


def test_keys_that_open_nothing(gateway: Gateway) -> None:
    revoked, expired = gateway.create_key("revoked"), gateway.create_key("expired", expires_at=time.time() - 1)
    restricted = gateway.create_key("restricted", models=["silent"])
    for info in gateway.services.keys.list():
        if info.name == "revoked":
            gateway.services.keys.revoke(info.key_id)
    unknown = gateway.create_key("x")[:-7] + "0000000"
    with new_rows(gateway) as rows:
        for key in ("", "wrong", "pstk_" + "a" * 42, unknown, revoked, expired, "x" * 1000):
            answer = post(gateway.port, chat("ok"), key)
            assert (answer.status, answer.code) == (401, "INVALID_API_KEY"), key
            assert is_whole_error(answer.json)
        answer = post(gateway.port, chat("ok"), restricted)
        assert (answer.status, answer.code, answer.json["error"]["param"]) == (403, "FORBIDDEN", "model")
    assert rows == []
    for header in ({}, {"Authorization": "Basic abc"}, {"Authorization": "Bearer"}, {"Authorization": DEV_KEY}):
        assert raw(gateway, header, json.dumps(chat("ok")).encode())[0] == 401


def raw(gateway: Gateway, headers: dict[str, str], body: bytes, path: str = "/v1/chat/completions") -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_wrong_types_sizes_paths_and_methods(gateway: Gateway) -> None:
    key = {"Authorization": f"Bearer {DEV_KEY}"}
    body = json.dumps(chat("ok")).encode()
    assert raw(gateway, {**key, "Content-Type": "text/plain"}, body)[1]["code"] == "UNSUPPORTED_MEDIA_TYPE"
    status, answer = raw(gateway, key, body, "/v1/nothing/here")
    assert (status, answer["code"], is_whole_error(answer)) == (404, "NOT_FOUND", True)
    status, answer = raw(gateway, key, body, "/v1/models")
    assert (status, is_whole_error(answer)) == (405, True)
    large = json.dumps(chat("ok", content="x" * 20_000_000)).encode()
    try:
        status, answer = raw(gateway, key, large)
    except (BrokenPipeError, ConnectionResetError):
        pytest.fail("the answer must reach a client that is still sending")
    assert (status, answer["code"]) == (413, "REQUEST_TOO_LARGE")
    assert raw(gateway, key, body, "/v1/embeddings")[1]["error"]["param"] == "input"


def test_admin_routes_ask_for_the_role(gateway: Gateway) -> None:
    for key, expected in ((DEV_KEY, 403), (ADMIN_KEY, 200)):
        for path in ("/debug", "/health/detailed", "/v1/debug", "/api/v1/health/detailed"):
            connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
            connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
            response = connection.getresponse()
            text = response.read().decode()
            connection.close()
            assert response.status == expected, path
            assert "secret" not in text
            assert ADMIN_KEY not in text


def half_a_request(gateway: Gateway) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {DEV_KEY}\r\n"
    client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{{".encode())
    return client


def test_a_client_that_stops_sending_half_way(gateway: Gateway) -> None:
    with new_rows(gateway) as rows:
        with half_a_request(gateway) as client:
            assert client.recv(4096).startswith(b"HTTP/1.1 400")
        half_a_request(gateway).close()
        assert post(gateway.port, chat("ok"), DEV_KEY).status == 200
    assert [row["status"] for row in rows] == ["ok"], "half a request is no call"


HEAD = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {DEV_KEY}\r\n".encode()
CHUNKED = HEAD + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
NOT_HTTP = [
    (b"HELLO " + DEV_KEY.encode() + b"\r\n\r\n", 400, "INVALID_REQUEST"),
    (b"GET /health HTTP/9.9\r\n\r\n", 400, "INVALID_REQUEST"),
    (b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "INVALID_REQUEST"),
    (HEAD + b"X-Long: " + b"a" * 70_000 + b"\r\n\r\n", 431, "INVALID_REQUEST"),
    (HEAD + b"X-Nul: a\x00b\r\n\r\n", 400, "INVALID_REQUEST"),
    (HEAD + b"Content-Length: many\r\n\r\n", 400, "INVALID_REQUEST"),
    (HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "INVALID_REQUEST"),
    (CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", 400, "INVALID_REQUEST"),
    (CHUNKED + b"2\r\n{}0\r\n\r\n", 400, "INVALID_REQUEST"),
    (CHUNKED + b"5\r\n{", 400, "INVALID_REQUEST"),
    (CHUNKED + b"80000\r\n%b\r\n" % (b" " * 0x80000) * 21 + b"0\r\n\r\n", 413, "REQUEST_TOO_LARGE"),
]


@pytest.mark.parametrize(("request_", "status", "code"), NOT_HTTP, ids=range(len(NOT_HTTP)))
def test_what_is_not_http_is_refused_in_the_same_shape(
    gateway: Gateway, request_: bytes, status: int, code: str
) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        client.sendall(request_)
        response = http.client.HTTPResponse(client)
        response.begin()
        answer = json.loads(response.read())
    assert (response.status, answer["code"], is_whole_error(answer)) == (status, code, True)
    assert answer["request_id"] == response.headers["X-Request-ID"]
    assert DEV_KEY not in json.dumps(answer)
    assert DEV_KEY not in gateway.log()


def hang_up(
    gateway: Gateway, body: dict[str, Any], *, when: Callable[[], None] | None = None, after: bytes = b""
) -> None:
    """Sends a call and closes the connection as soon as `when` returns, or after `after` was received."""
    data = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        client.sendall(HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        received = b""
        while after not in received:
            received += client.recv(4096)
        if when is not None:
            when()


def last_row(gateway: Gateway, model: str) -> dict[str, Any]:
    gateway.drained()
    return gateway.rows(f"model = '{model}' order by ts")[-1]


def test_bug_01_hanging_up_ends_the_upstream_call_within_a_second(gateway: Gateway, upstream: Upstream) -> None:
    hang_up(gateway, chat("silent"), when=lambda: upstream.wait_until("waiting", 1))
    upstream.wait_until("waiting", 0, timeout_s=1)
    row = last_row(gateway, "silent")
    assert (row["status"], row["completion_tokens"], row["estimated"]) == ("aborted", 512, 1), (
        "a likely answer's length"
    )
    assert row["prompt_tokens"] > 0

    hang_up(gateway, chat("stream-40-20", stream=True), after=b"tok")
    upstream.wait_until("open_streams", 0, timeout_s=1)
    row = last_row(gateway, "stream-40-20")
    assert (row["status"], row["estimated"]) == ("aborted", 1)
    assert 1 <= row["completion_tokens"] < 40

    hang_up(gateway, chat("ok", stream=True), after=b"[DONE]")
    row = last_row(gateway, "ok")
    assert (row["status"], row["completion_tokens"], row["estimated"]) == ("ok", 5, 0)


VENDORS_FAULTS = [
    ("refused", 503, "MODEL_UNAVAILABLE"),
    ("nowhere", 503, "MODEL_UNAVAILABLE"),
    ("tls", 502, "MODEL_ERROR"),
    ("handshake", 504, "TIMEOUT"),
    ("status-400", 400, "INVALID_REQUEST"),
    ("status-401", 502, "MODEL_ERROR"),
    ("status-404", 502, "MODEL_ERROR"),
    ("status-429-7", 503, "MODEL_UNAVAILABLE"),
    ("status-500", 502, "MODEL_ERROR"),
    ("status-503", 503, "MODEL_UNAVAILABLE"),
    ("garbage", 502, "MODEL_ERROR"),
    ("html", 502, "MODEL_ERROR"),
    ("nothttp", 502, "MODEL_ERROR"),
    ("empty", 502, "MODEL_ERROR"),
    ("reset", 502, "MODEL_ERROR"),
    ("silent", 504, "TIMEOUT"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("model", "status", "code"), VENDORS_FAULTS)
def test_what_the_vendor_gets_wrong(gateway: Gateway, model: str, status: int, code: str, stream: bool) -> None:
    if model == "empty" and stream:
        return  # the played vendor has no empty stream
    with new_rows(gateway) as rows:
        answer = post(gateway.port, chat(model, stream=stream), DEV_KEY)
    assert (answer.status, answer.code) == (status, code)
    assert is_whole_error(answer.json)
    assert b"secret" not in answer.body, "bug 9: nothing of the vendor's body that looks like a key"
    if model == "status-429-7":
        assert answer.headers["retry-after"] == "7"
    [row] = rows
    assert (row["model"], row["status"], row["http_status"]) == (model, "error", status)
    assert (row["cost_nanousd"], row["streamed"]) == (0, int(stream))


@pytest.mark.parametrize("model", ["silentmid-2", "cut-2", "cutchunk-2", "cleancut-2", "errorevent-2"])
def test_bug_02_a_stream_that_dies_never_ends_cleanly(gateway: Gateway, model: str) -> None:
    answer = post(gateway.port, chat(model, stream=True), DEV_KEY)
    assert (answer.status, answer.chunks, answer.done) == (200, 2, False)
    last = answer.body.strip().splitlines()[-1]
    error = json.loads(last.removeprefix(b"data: "))
    assert error["code"] in ("MODEL_ERROR", "TIMEOUT")
    assert is_whole_error(error)
    assert b"secret" not in answer.body
    row = last_row(gateway, model)
    assert (row["status"], row["completion_tokens"], row["estimated"]) == ("error", 2, 1)


def test_missing_usage_is_estimated_and_flagged(gateway: Gateway) -> None:
    for stream in (False, True):
        answer = post(gateway.port, chat("nousage", stream=stream), DEV_KEY)
        assert answer.status == 200
        row = last_row(gateway, "nousage")
        assert (row["status"], row["estimated"], row["streamed"]) == ("ok", 1, int(stream))
        assert row["completion_tokens"] > 0


def test_bug_09_neither_keys_nor_prompts_nor_vendors_bodies_are_in_the_log(gateway: Gateway) -> None:
    key = gateway.create_key()
    post(gateway.port, chat("status-400", content="my private prompt"), key)
    post(gateway.port, chat("html", content="my private prompt"), key)
    wait_for(lambda: "llm_request_failed" in gateway.log())
    log = gateway.log()
    for text in ("my private prompt", key, DEV_KEY, "sk-secret1234567890", "sk-upstream-secret-key", "Bad gateway"):
        assert text not in log


# "//": the short way hands it to gunicorn, as what is escaped; "/v1//": it does not.
@pytest.mark.parametrize("lead", ["", "/v1/v1", "//v1", "/v1/", "/", "/openai/v1", "/%76%31"])
def test_a_path_in_another_spelling_is_served_by_both_request_paths(gateway: Gateway, lead: str) -> None:
    assert post(gateway.port, chat("ok"), DEV_KEY, path=f"{lead}/chat/completions").status == 200
    assert ask(gateway.port, f"{lead}/models", DEV_KEY).status == 200
    assert ask(gateway.port, f"{lead}/models", "", headers={"Authorization": "x", "x-api-key": DEV_KEY}).status == 200
    for path in ("/v1/v1/debug", "/openai/v1/debug", "/v1/v1/queue/metrics", "/queue/metrics", "/admin/keys"):
        assert ask(gateway.port, path, ADMIN_KEY).status == 404, "what is for operators gets no second address"


@pytest.mark.parametrize(
    "path",
    [
        "/%00",
        "/v1/%00",
        "/v1/chat/completions%00",
        "/v1/models/%00",
        "/v1/files/%00",
        "/v1/batches/%00",
        "/v1/requests/%00",
        "/v1/chat/history/%00",
        "/v1/files/%00/content",
        "/v1/files?after=%00",
        "/v1/batches?after=%00",
        "/%ff%fe",
        "/v1/models/%ff",
        "/v1/files/%ed%a0%80",
        "/v1/batches/%ed%a0%80",
        "/v1/requests/%ed%a0%80",
        "/v1/models/%ed%a0%80",
        "/%ed%a0%80",
        "/v1/models?limit=%ed%a0%80",
        "/v1/files?after=%ed%a0%80",
        "/v1/%0d%0aSet-Cookie:%20a=b",
        "/v1/models/%0d%0aX:%20y",
        "/a\xff",
        "/v1/models/\xe9",
        "/..",
        "/v1/../v1/models",
        "/v1/%2e%2e/debug",
        "/v1//%2fmodels",
        "/;",
        "/v1/models;x",
        "/" + "%25" * 300,
        "/v1/v1//%00",
        "/files/%00",
        "/\u2028",
        "*",
        "http://other/v1/%00",
        "//",
        "///v1///%00///",
        "/v1/%",
        "/v1/%zz",
        "//v1/chat/completions",
        "v1/chat/completions",
        "v1/requests/x",
        "//v1/requests/x",
        "/v1/requests//x",
        "v1//chat",
        "//api/v1/embeddings",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "PATCH"])
def test_an_odd_path_is_the_callers_mistake_whatever_stands_in_it(gateway: Gateway, method: str, path: str) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nConnection: close\r\n\r\n"
        client.sendall(head.encode("utf-8"))
        answer = client.makefile("rb").read()
    status = int(answer.split()[1])
    assert status < 500, answer
    if "%00" in path and method == "GET":
        assert status in (400, 404)
    assert b"\r\nSet-Cookie" not in answer
    if status >= 400:
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
