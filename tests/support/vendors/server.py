"""The played vendors' server: routes by path, plays faults, and keeps the requests. `python -m` prints its port."""

from __future__ import annotations

import json
import re
import urllib.request
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlsplit

import gevent

from tests.support.upstream import Upstream, VendorState, main
from tests.support.vendors.chat import ChatWire
from tests.support.vendors.gemini import GeminiWire
from tests.support.vendors.messages import MessagesWire
from tests.support.vendors.play import Asked, Play, Refused, Turn, compose
from tests.support.vendors.responses import ResponsesWire
from tests.support.vendors.wire import Pieces, Wire

_SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%bTransfer-Encoding: chunked\r\n\r\n"
_KEPT = 2000
_GEMINI = re.compile(
    r"/v1(?:beta)?/models/([^/:]+):(generateContent|streamGenerateContent|countTokens|batchEmbedContents)"
)
_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)/chat/completions")
_CUTS = ("cut", "cleancut", "silentmid", "errorevent", "cutbytes")


class VendorsState(VendorState):
    """What was asked so far. `bills`: by model, what its answers report as usage."""

    def __init__(self) -> None:
        self._turns = count(1)
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self.chat, self.messages, self.gemini = ChatWire(), MessagesWire(), GeminiWire()
        self.responses = ResponsesWire()
        self.requests: list[dict[str, Any]] = []
        self.bills: dict[str, dict[str, Any]] = {}

    def answer(self, sock: Any, head: bytes, body: bytes) -> bool:
        line, *rest = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (text.partition(":") for text in rest)}
        url = urlsplit(target)
        if url.path.startswith("/__"):
            self._control(sock, url.path, body)
            return True
        record = {"method": method, "path": target, "headers": headers, "status": 200, "dialect": "", "model": ""}
        self.requests = [*self.requests[-_KEPT:], record]
        if method in ("GET", "HEAD"):
            self._list(sock, url.path, head_only=method == "HEAD")
            return True
        record["body"] = _parsed(body)
        return self._call(sock, record, url.path, parse_qs(url.query), body)

    def _control(self, sock: Any, path: str, body: bytes) -> None:
        if path == "/__reset":
            self.reset()
        elif path == "/__bill":
            self.bills.update(json.loads(body))
        known: dict[str, Any] = {"/__requests": self.requests, "/__served": self.served()}
        _send(sock, 200, known.get(path, {}))

    def _list(self, sock: Any, path: str, *, head_only: bool) -> None:
        name = {"name": "models/plain", "displayName": "plain", "supportedGenerationMethods": ["generateContent"]}
        card = {"type": "model", "object": "model", "id": "plain", "display_name": "plain", "owned_by": "vendor"}
        card |= {"created": 1_800_000_000, "created_at": "2027-01-15T08:00:00Z"}  # type: ignore[dict-item]
        listed = {
            "/v1beta/models": {"models": [name]},
            "/v1/models": {"object": "list", "data": [card], "has_more": False},
        }
        _send(sock, 200 if path in listed or path == "/" else 404, listed.get(path, {}), head_only=head_only)

    def _call(self, sock: Any, record: dict[str, Any], path: str, query: dict[str, list[str]], body: bytes) -> bool:
        wire, model, action = self._route(path, query)
        if wire is None:
            record["status"] = 404
            _send(sock, 404, {"error": {"message": f"Unknown path {path}", "type": "not_found_error", "code": 404}})
            return True
        record["dialect"] = type(wire).__name__.removesuffix("Wire").lower()
        headers = record["headers"]
        try:
            if action == "embed":
                self.counts["calls"] += 1
                _send(sock, 200, self.gemini.embed(body, headers))
                return True
            if action == "count":
                record["model"] = model or str((record["body"] or {}).get("model", ""))
                self.counts["counts"] += 1
                _send(sock, 200, wire.count(body, headers))  # type: ignore[attr-defined]
                return True
            asked = wire.read(body, headers, model=model, stream=action == "stream")
        except Refused as refused:
            self.counts["refused"] += 1
            record |= {"status": refused.status, "refused": refused.message}
            record["model"] = record["model"] or model or str((record["body"] or {}).get("model", ""))
            _send(sock, refused.status, wire.error(refused))
            return True
        record["model"] = asked.model
        self.counts["calls"] += 1
        self.by_model[asked.model] += 1
        return self._play(sock, record, wire, asked)

    def _route(self, path: str, query: dict[str, list[str]]) -> tuple[Wire | None, str, str]:
        """Returns the dialect, the path's model, and "call", "stream", "embed" or "count"."""
        if found := _GEMINI.fullmatch(path):
            actions = {"streamGenerateContent": "stream", "countTokens": "count", "batchEmbedContents": "embed"}
            action = actions.get(found[2], "call")
            return (self.gemini if action != "stream" or query.get("alt") == ["sse"] else None), found[1], action
        if (found := _DEPLOYMENT.fullmatch(path)) and "api-version" in query:
            return self.chat, found[1], "call"
        known: dict[str, tuple[Wire, str]] = {
            "/v1/chat/completions": (self.chat, "call"),
            "/v1/responses": (self.responses, "call"),
            "/v1/responses/input_tokens": (self.responses, "count"),
            "/v1/messages": (self.messages, "call"),
            "/v1/messages/count_tokens": (self.messages, "count"),
        }
        wire, action = known.get(path, (None, ""))
        return wire, "", action

    def _play(self, sock: Any, record: dict[str, Any], wire: Wire, asked: Asked) -> bool:
        play = Play.of(asked.model)
        if play.kind == "slow":
            gevent.sleep(play.number(0) / 1000)
        elif play.kind == "silent":
            self.wait_for_hangup(sock)
            return False
        elif play.kind in ("status", "overflow"):
            refused = Refused(f"The vendor says {play.number(0)}.", status=play.number(0, 400))
            refused = wire.overflow() if play.kind == "overflow" else refused
            record["status"] = refused.status
            retry = b"Retry-After: %d\r\n" % play.number(1) if len(play.numbers) > 1 else b""
            _send(sock, refused.status, wire.error(refused), retry)
            return True
        bill = self.bills.get(asked.model)
        if bill is None and wire in (self.chat, self.responses):
            bill = json.loads((asked.request.get("metadata") or {}).get("bill", "null"))
        turn = compose(asked, play, next(self._turns), bill)
        if "nousage" in play.flags:
            turn = Turn(**{**turn.__dict__, "bill": {}})
        if not asked.stream:
            self.count(turn.prompt_tokens, turn.completion_tokens)
            _send(
                sock,
                200,
                wire.whole(turn, asked),
                b"request-id: req_%b\r\nx-request-id: req_%b\r\n" % ((turn.id.encode(),) * 2),
            )
            return True
        self.counts["open_streams"] += 1
        try:
            return self._stream(sock, wire, play, wire.pieces(turn, asked), turn)
        finally:
            self.counts["open_streams"] -= 1

    def _stream(self, sock: Any, wire: Wire, play: Play, pieces: Pieces, turn: Turn) -> bool:
        sock.sendall(_SSE % b"request-id: req_%b\r\n" % turn.id.encode())
        if play.kind == "cutbytes":
            whole = b"".join([*pieces.opening, *pieces.content, *pieces.ending])[: play.number(0)]
            sock.sendall(_chunk(whole))
            return False
        for event in pieces.opening:
            sock.sendall(_chunk(event))
        for _ in range(play.number(0) if play.kind == "pings" else 0):
            sock.sendall(_chunk(b": ping\n\n"))
        content = pieces.content[: play.number(0)] if play.kind in _CUTS else pieces.content
        for event in content:
            sock.sendall(_chunk(event))
            if play.kind == "stream":
                gevent.sleep(play.number(1) / 1000)
        if play.kind == "silentmid":
            self.wait_for_hangup(sock)
        elif play.kind == "errorevent":
            sock.sendall(_chunk(wire.error_event(Refused("Overloaded", status=529 if wire is self.messages else 503))))
            sock.sendall(b"0\r\n\r\n")
        elif play.kind == "cleancut":
            sock.sendall(b"0\r\n\r\n")
        if play.kind in _CUTS:
            self.counts["aborted"] += 1
            return False
        sock.sendall(b"".join(_chunk(event) for event in pieces.ending) + b"0\r\n\r\n")
        self.count(turn.prompt_tokens, turn.completion_tokens)
        return True


class Vendors(Upstream):
    """The process, for a test: `with Vendors() as vendors: vendors.base_url("messages")`."""

    module = "tests.support.vendors.server"

    def __enter__(self) -> Vendors:
        return self

    def base_url(self, dialect: str) -> str:
        """Returns the base URL as the dialect's own SDK takes it."""
        return f"http://127.0.0.1:{self.port}" + ("/v1" if dialect in ("chat", "responses") else "")

    def requests(self, *, calls_only: bool = True) -> list[dict[str, Any]]:
        """Returns what was asked since the last reset: method, path, headers, body, dialect, model, status, refused."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/__requests", timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)
        return [request for request in found if request["method"] == "POST" or not calls_only]

    def bill(self, model: str, bill: dict[str, Any]) -> None:
        """Makes `model` report `bill`: top-level fields of an answer in its dialect, such as `usage`.

        Messages have `delta_usage` beside `usage`: what the last event of a stream reports.
        """
        data = json.dumps({model: bill}).encode()
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/__bill", data=data, timeout=5).close()


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _send(sock: Any, status: int, value: Any, headers: bytes = b"", *, head_only: bool = False) -> None:
    body = json.dumps(value).encode()
    head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n" % (
        status,
        headers,
        len(body),
    )
    sock.sendall(head if head_only else head + body)


if __name__ == "__main__":
    main(VendorsState())
