"""A client that hangs up before its answer has begun, as every SDK's timeout does, is no error of the server."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import chat
from tests.support.servers import Gateway, RedisServer, flushed, wait_for
from tests.support.upstream import Upstream

CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
models:
  silent: {{targets: [{{provider: up}}], max_output_tokens: 100}}
default_model: silent
smart: {{rules: [], default: silent}}
support: {{model: silent}}
retry: {{breaker_threshold: 1000}}
"""
MESSAGE = {"message": "Hello", "user_id": "u1"}
CALLS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat("silent"),
    "/v1/chat/completions?stream": chat("silent", stream=True),
    "/v1/chat/smart": chat("auto"),
    "/v1/embeddings": {"model": "silent", "input": "Hello"},
    "/v1/chat": MESSAGE,
    "/v1/chat?stream": {**MESSAGE, "stream": True},
    "/api/v1/chat": MESSAGE,
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, vendor: Upstream) -> Iterator[Gateway]:
    flushed(redis_server.url)
    config, directory = CONFIG.format(url=vendor.url), tmp_path_factory.mktemp("hangups")
    with Gateway(
        directory, config, redis_url=redis_server.url, workers=1, env={"GATEWAY_ENV": "production", "DEV_API_KEY": ""}
    ) as started:
        yield started


@pytest.fixture(scope="module")
def key(gateway: Gateway) -> str:
    return gateway.create_key()


def sent(target: str, key: str, request_id: str, chunked: bool) -> bytes:
    body = json.dumps(CALLS[target]).encode()
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nX-Request-ID: {request_id}\r\n"
    if chunked:
        framing, body = "Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        framing = f"Content-Length: {len(body)}"
    return f"{head}Content-Type: application/json\r\n{framing}\r\n\r\n".encode() + body


def unread_bytes(client: socket.socket) -> int:
    """Returns the number of bytes that the client has sent and the server's process has not read."""
    ends = client.getpeername()[1], client.getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        here, there, _, queues = line.split()[1:5]
        if (int(here[-4:], 16), int(there[-4:], 16)) == ends:
            return int(queues.partition(":")[2], 16)
    raise AssertionError("the connection is closed")


def lines(gateway: Gateway, since: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gateway.log()[since:].splitlines() if line.startswith("{")]


def completed(gateway: Gateway, request_id: str) -> list[int]:
    """The statuses that the log tells of a request."""
    of_it = [line for line in lines(gateway) if line.get("request_id") == request_id]
    return [line["status"] for line in of_it if line["event"] == "request_completed"]


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("chunked", [False, True], ids=["short way", "general way"])
@pytest.mark.parametrize("target", CALLS)
def test_a_hang_up_before_the_headers_is_logged_as_499_not_as_an_error(
    gateway: Gateway, key: str, upstream: Upstream, target: str, chunked: bool, reset: bool
) -> None:
    before = len(gateway.log())
    request_id = f"{list(CALLS).index(target)}-{chunked:d}-{reset:d}"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        client.sendall(sent(target, key, request_id, chunked))
        upstream.wait_until("waiting", 1)
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    upstream.wait_until("waiting", 0)

    assert wait_for(lambda: completed(gateway, request_id)) == [499]
    gateway.drained()
    assert gateway.rows(f"request_id = '{request_id}'")[0]["http_status"] == 499
    assert "Traceback" not in gateway.log()[before:]
    assert [line for line in lines(gateway, before) if line["level"] in ("error", "critical")] == []


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("chunked", [False, True], ids=["short way", "general way"])
@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/chat/async", "/v1/files", "/v1/batches"])
def test_a_hang_up_in_the_middle_of_a_body_is_no_error_of_the_server(
    gateway: Gateway, key: str, target: str, chunked: bool, reset: bool
) -> None:
    before = len(gateway.log())
    request_id = f"half-{target.rpartition('/')[2]}-{chunked:d}-{reset:d}"
    kind, start = "application/json", '{"a"'
    if target == "/v1/files":
        kind = "multipart/form-data; boundary=b"
        start = '--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{"a"'
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nX-Request-ID: {request_id}\r\n"
    framing = "Transfer-Encoding: chunked\r\n\r\n500\r\n" if chunked else "Content-Length: 1280\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        client.sendall(f"{head}Content-Type: {kind}\r\n{framing}{start}".encode())
        wait_for(lambda: unread_bytes(client) == 0)
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert wait_for(lambda: completed(gateway, request_id)) == [400]
    assert "Traceback" not in gateway.log()[before:]
    assert [line for line in lines(gateway, before) if line["level"] in ("error", "critical")] == []
