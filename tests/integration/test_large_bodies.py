"""Large request bodies: bounded in memory, shared between keys, and never read for a key that is gone."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.client import chat, post
from tests.support.servers import Gateway, wait_for
from tests.support.upstream import Upstream

CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
models: {{usage-10-5: {{targets: [{{provider: up}}]}}, stream-100-50: {{targets: [{{provider: up}}]}}}}
server: {{max_body_bytes: 2000000, max_body_bytes_in_flight: 4000000}}
"""
SIZE = 1_900_000


def body(size: int = SIZE, **more: Any) -> bytes:
    empty = json.dumps({**chat("usage-10-5", ""), **more}).encode()
    return json.dumps({**chat("usage-10-5", "x" * (size - len(empty))), **more}).encode()


class Unfinished:
    """A call of which all but the last byte is sent, chunked or of a declared length."""

    def __init__(self, server: Gateway, key: str, *, size: int = SIZE, chunked: bool = False, **more: Any) -> None:
        data = body(size, **more)
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\n{length}\r\n\r\n"
        )
        sent = b"%x\r\n%b\r\n" % (size - 1, data[:-1]) if chunked else data[:-1]
        self._end = b"1\r\n%b\r\n0\r\n\r\n" % data[-1:] if chunked else data[-1:]
        self.client = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        self.client.sendall(head.encode() + sent)

    def finish(self) -> None:
        self.client.sendall(self._end)

    def answer(self) -> tuple[int, dict[str, str], Any]:
        response = http.client.HTTPResponse(self.client)
        response.begin()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, json.loads(response.read())


@pytest.fixture
def unfinished() -> Iterator[Callable[..., Unfinished]]:
    with ExitStack() as stack:

        def send(server: Gateway, key: str, **options: Any) -> Unfinished:
            call = Unfinished(server, key, **options)
            stack.enter_context(call.client)
            return call

        yield send


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [100_000, SIZE])
def test_a_revoked_key_is_refused_before_its_body_is_there(
    gateway: Callable[..., Gateway], upstream: Upstream, unfinished: Callable[..., Unfinished], chunked: bool, size: int
) -> None:
    server = gateway(CONFIG.format(url=upstream.url), workers=1)
    key, info = server.services.keys.create("gone")
    assert post(server.port, chat("usage-10-5"), key).status == 200  # the worker knows it
    server.services.keys.revoke(info.key_id)

    def refused() -> bool:
        call = unfinished(server, key, size=size, chunked=chunked)
        call.client.settimeout(2)
        try:
            return call.answer()[0] == 401
        except TimeoutError:
            return False

    # A worker's record of a key may be half a second old.
    wait_for(refused, timeout_s=10, message="the body of a key that is gone is waited for")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_key_fills_its_share_of_the_body_budget_and_no_one_elses(
    gateway: Callable[..., Gateway], upstream: Upstream, unfinished: Callable[..., Unfinished], chunked: bool
) -> None:
    server = gateway(CONFIG.format(url=upstream.url), workers=1)
    greedy, other = server.create_key("greedy"), server.create_key("other")
    parked = unfinished(server, greedy, chunked=chunked)
    wait_for(lambda: post(server.port, body(), greedy).status == 503, message="its body is not counted")
    status, headers, refusal = unfinished(server, greedy, chunked=chunked).answer()
    assert (status, refusal["code"], headers["retry-after"]) == (503, "NOT_READY", "1")
    assert post(server.port, body(), other).status == 200, "the other key's share is its own"
    assert post(server.port, body(60_000), greedy).status == 200, "small bodies are not counted"
    also_parked = unfinished(server, other, chunked=chunked)
    wait_for(lambda: post(server.port, body(), other).status == 503, message="its body is not counted")
    assert post(server.port, body(), server.create_key("third")).status == 503, "the worker holds no more than it may"
    for call in (parked, also_parked):
        call.finish()
        assert call.answer()[0] == 200
    assert post(server.port, body(), greedy).status == 200, "what ended is given back"


def test_a_body_counts_until_its_stream_has_ended(
    gateway: Callable[..., Gateway], upstream: Upstream, unfinished: Callable[..., Unfinished]
) -> None:
    server = gateway(CONFIG.format(url=upstream.url), workers=1)
    key = server.create_key("streaming")
    streaming = unfinished(server, key, model="stream-100-50", stream=True)
    streaming.finish()
    upstream.wait_until("open_streams", 1)
    assert post(server.port, body(), key).status == 503
    streaming.client.close()
    upstream.wait_until("open_streams", 0, timeout_s=10)
    wait_for(lambda: post(server.port, body(), key).status == 200, message="the share was not given back")


def test_a_batch_is_asked_for_in_few_words(gateway: Callable[..., Gateway], upstream: Upstream) -> None:
    server = gateway(CONFIG.format(url=upstream.url), workers=1)
    answer = post(server.port, body(100_000), server.create_key("batch"), path="/v1/batches")
    assert (answer.status, answer.code) == (413, "REQUEST_TOO_LARGE")
