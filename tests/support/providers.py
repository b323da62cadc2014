"""Builders of providers and of calls for tests of providers, in one line each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gevent import sleep, socket
from gevent.server import StreamServer

from app.config.providers import DemoScript, ProviderConfig, Timeouts
from app.domain.chat import ChatRequest, EmbedRequest
from app.providers.base import CancelToken, ChatCall, EmbedCall
from app.providers.demo import DemoProvider
from app.providers.wire_provider import WireProvider

SECRET = "sk-gatewaysown1234567890"
HEADERS = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n"
SSE_HEADERS = HEADERS % b"text/event-stream" + b"Connection: close\r\n\r\n"


def openai(
    url: str,
    *,
    timeouts: Timeouts | None = None,
    heartbeat_s: float = 15.0,
    secrets: frozenset[str] | None = None,
    **fields: Any,
) -> WireProvider:
    config = ProviderConfig(**{"kind": "openai", "base_url": url, "api_key": SECRET, **fields})
    return WireProvider(
        name="up",
        config=config,
        timeouts=timeouts or Timeouts(),
        heartbeat_s=heartbeat_s,
        secrets=frozenset({SECRET}) if secrets is None else secrets,
    )


def demo(*, timeouts: Timeouts | None = None, heartbeat_s: float = 15.0, **script: Any) -> DemoProvider:
    config = ProviderConfig(kind="demo", script=DemoScript(**{"chunk_delay_s": 0.0, **script}))
    return DemoProvider(
        name="demo", config=config, timeouts=timeouts or Timeouts(), heartbeat_s=heartbeat_s, secrets=frozenset()
    )


def chat_call(
    model: str = "plain",
    *,
    prompt: Any = "Hi",
    target: str | None = None,
    raw: bytes | None = None,
    total_s: float = 10.0,
    cancel: CancelToken | None = None,
    bound: int | None = None,
    **fields: Any,
) -> ChatCall:
    """A call of `model`, which the provider knows as `target`. `raw` is the body, instead of one made up here; `bound`
    is there where the caller has a budget."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], **fields}
    request = ChatRequest.parse(json.dumps(body).encode() if raw is None else raw)
    return ChatCall(
        request=request,
        model=target or request.model,
        request_id="req_1",
        deadline=time.monotonic() + total_s,
        cancel=cancel or CancelToken(),
        max_output_tokens=bound,
    )


def embed_call(model: str = "plain", *, input: Any = "Hi", target: str | None = None, **fields: Any) -> EmbedCall:
    request = EmbedRequest.parse(json.dumps({"model": model, "input": input, **fields}).encode())
    return EmbedCall(
        request=request, model=target or model, request_id="req_1", deadline=time.monotonic() + 10, cancel=CancelToken()
    )


def payloads(blocks: list[bytes]) -> list[Any]:
    """The chunks in `blocks`, parsed as an SDK would."""
    return [json.loads(event.removeprefix(b"data: ")) for event in b"".join(blocks).split(b"\n\n") if event]


def text_of(blocks: list[bytes]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in payloads(blocks) for choice in chunk["choices"])


@contextmanager
def scripted_server(serve: Callable[..., None], requests: list[bytes] | None = None) -> Iterator[str]:
    """A server in this process that reads a request (into `requests`), then leaves the connection to `serve`.

    Yields its URL.
    """

    def handle(sock: Any, _address: Any) -> None:
        try:
            request = sock.recv(65536)
            if requests is not None:
                requests.append(request)
            serve(sock)
        except OSError:
            pass
        finally:
            sock.close()

    server = StreamServer(("127.0.0.1", 0), handle)
    server.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.stop(0)


def drip(pieces: list[bytes], pause_s: float) -> Callable[[Any], None]:
    """Sends one piece after the other and closes."""

    def serve(sock: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            sock.sendall(piece)
            sleep(pause_s)

    return serve
