"""A WSGI application that shows what it was given, and misbehaves when asked to. Run by gunicorn with our worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def app(environ: dict[str, Any], start_response: Any) -> Any:
    path = environ["PATH_INFO"]
    length = {"/long": "3", "/short": "9"}.get(path)
    headers = [("Content-Type", "text/plain"), *([("Content-Length", length)] if length else [])]
    if path == "/raise":
        raise RuntimeError("a bug")
    if path == "/inject":
        start_response("200 OK", [("X-Told", "a\r\nX-Injected: yes")])
        return [b"never"]
    if path == "/nothing":
        start_response("204 No Content", [])
        return []
    if path == "/unread":
        start_response("200 OK", [("Content-Length", "6")])
        return [b"unread"]
    if path in ("/long", "/short"):
        start_response("200 OK", headers)
        return [b"fi", b"ve!"]
    if path in ("/chunks", "/late"):
        start_response("200 OK", headers)
        return _chunks(fails=path == "/late")
    seen = {name: value for name, value in environ.items() if isinstance(value, str)}
    body = json.dumps({"environ": seen, "body": environ["wsgi.input"].read().decode("latin-1")}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def _chunks(*, fails: bool) -> Iterator[bytes]:
    yield b"one"
    yield b""
    yield b"two"
    if fails:
        raise RuntimeError("a bug, too late for an error")
