"""A played vendor of media endpoints, in this process: it records requests, and answers as its `answer` says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gevent.server import StreamServer
from werkzeug.formparser import FormDataParser
from werkzeug.test import EnvironBuilder


@dataclass
class Received:
    """A request as the vendor got it."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def form(self) -> tuple[dict[str, list[str]], dict[str, bytes]]:
        """The form's fields and files, as another parser than ours finds them."""
        environ = EnvironBuilder(method="POST", data=self.body, content_type=self.headers["content-type"]).get_environ()
        _, fields, files = FormDataParser(silent=False).parse_from_environ(environ)
        return fields.to_dict(flat=False), {name: file.read() for name, file in files.items()}


@dataclass
class MediaVendor:
    """`answer` is the whole response; the connection is then closed, whatever it promised."""

    url: str = ""
    answer: bytes = b""
    requests: list[Received] = field(default_factory=list)

    def say(self, body: bytes | dict[str, Any], content_type: str = "application/json", status: int = 200) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answer = (
            b"HTTP/1.1 %d X\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
            % (status, content_type.encode(), len(payload))
            + payload
        )

    def stream(self, *pieces: bytes, content_type: str = "text/event-stream", whole: bool = True) -> None:
        """`whole`: the body ends as HTTP wants it to, and is not cut."""
        self.answer = (
            b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % content_type.encode()
        )
        self.answer += b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        self.answer += b"0\r\n\r\n" if whole else b""

    def handle(self, sock: Any, _address: Any) -> None:
        with sock:
            data = b""
            while b"\r\n\r\n" not in data:
                data += sock.recv(65_536)
            head, _, body = data.partition(b"\r\n\r\n")
            line, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
            while len(body) < int(headers.get("content-length", 0)):
                body += sock.recv(1_000_000)
            self.requests.append(Received(line.split(" ")[1], headers, body))
            sock.sendall(self.answer)


@contextmanager
def media_vendor() -> Iterator[MediaVendor]:
    vendor = MediaVendor()
    server = StreamServer(("127.0.0.1", 0), vendor.handle)
    server.start()
    vendor.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield vendor
    finally:
        server.stop(0)
