"""A small HTTP client for tests: many calls at once from threads, streams read as they come, hang-ups at will."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    chunks: int = 0
    done: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["code"])


def chat(model: str, content: str = "Hello", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


def post(
    port: int,
    body: Any,
    key: str,
    *,
    path: str = "/v1/chat/completions",
    headers: dict[str, str] | None = None,
    hang_up_after: int | None = None,
    timeout_s: float = 60,
) -> Answer:
    """One call. `hang_up_after`: close the connection after so many content chunks of the stream."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **(headers or {})}
        connection.request("POST", path, data, sent)
        response = connection.getresponse()
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, b"")
        while line := response.readline():
            answer.body += line
            answer.chunks += b'"content":' in line
            answer.done |= line.startswith(b"data: [DONE]")
            if hang_up_after is not None and answer.chunks >= hang_up_after:
                break
        return answer
    finally:
        connection.close()


def ask(
    port: int, path: str, key: str, *, method: str = "GET", headers: dict[str, str] | None = None, timeout_s: float = 30
) -> Answer:
    """A request without a body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(method, path, None, {"Authorization": f"Bearer {key}", **(headers or {})})
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def in_parallel(calls: Sequence[Callable[[], T]], *, threads: int = 50) -> list[T]:
    """Runs `calls`, up to `threads` of them at once; their results in order."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda call: call(), calls))
